"""Asks a relay's HTTP face, as a scraper and a probe do."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.servers import free_port

from .command_line import RelayProcess
from .installation import Installation, Table
from .waiting import LIMIT_S, wait_until


class Admin:
    """The HTTP face of one relay."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def health(self, path: str) -> tuple[int, list[dict[str, Any]]]:
        """Status and reasons; 0 where nobody answers yet."""
        try:
            status, body = self.get(path)
        except OSError:
            return 0, []
        return status, json.loads(body)["reasons"]

    def wait_ready(self) -> None:
        self._wait_well("/readyz")

    def wait_healthy(self) -> None:
        self._wait_well("/healthz")

    def _wait_well(self, path: str) -> None:
        wait_until(
            lambda: self.health(path) == (200, []),
            f"{path} says that all is well",
            explain=lambda: str(self.health(path)),
        )

    def wait_unready(self, store: str | None, says: str = "") -> str:
        """Waits until the store is a reason not to be ready; returns what is said of it."""

        def away() -> str | None:
            status, reasons = self.health("/readyz")
            said = [
                reason["error"]
                for reason in reasons
                if reason["store"] == store and says in reason["error"]
            ]
            return said[0] if status == 503 and said else None

        return wait_until(away, f"{store} is away", explain=lambda: str(self.health("/readyz")))

    def samples(self, name: str, labels: Mapping[str, str] | None = None) -> list[float]:
        """The values of a metric whose labels include these."""
        return [
            sample.value
            for sample in self._page()
            if sample.name == name and (labels or {}).items() <= sample.labels.items()
        ]

    def sums(self, *names: str) -> list[float]:
        """What the values of each metric add up to, all of them read at once."""
        page = self._page()
        return [sum(sample.value for sample in page if sample.name == name) for name in names]

    def _page(self) -> list[Sample]:
        status, page = self.get("/metrics")
        assert status == 200, page
        return [
            sample for family in text_string_to_metric_families(page) for sample in family.samples
        ]

    def wait_sum(self, name: str, value: float) -> None:
        """Waits until the values of a metric add up to this."""
        wait_until(
            lambda: sum(self.samples(name)) == value,
            f"{name} is {value}",
            explain=lambda: self.get("/metrics")[1],
        )


def watched_relay(
    installation: Installation, other: Mapping[str, Table] | None = None
) -> tuple[RelayProcess, Admin]:
    """A relay that answers over HTTP, with other tables than the installation's where given."""
    port = free_port()
    listens: Table = {"listen": f"127.0.0.1:{port}"}
    configuration = installation.configure("watched.toml", {**(other or {}), "admin": listens})
    return installation.command_line.relay(configuration=configuration), Admin(port)
