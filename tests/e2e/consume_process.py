"""`onecommit consume` running beside a test."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tests.servers.process import Process

from .installation import Installation
from .waiting import wait_until


class ConsumeProcess:
    """One run of `onecommit --json consume`, with what it printed and said in one file."""

    def __init__(
        self, installation: Installation, *words: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = installation.folder / "consume.log"
        command = installation.command_line.arguments(
            "--json", "consume", installation.topic, *words
        )
        environment = {**os.environ, **(environment or {})}
        self.process = Process(command, log=self._log, environment=environment)

    def text(self) -> str:
        return self._log.read_text()

    def ids(self) -> list[str]:
        """Which messages it has printed."""
        lines = [line for line in self.text().splitlines(keepends=True) if line.startswith("{")]
        whole = [line for line in lines if line.endswith("\n")]
        # With --json a log line is an object, too.
        return [id_of(line) for line in whole if "headers" in json.loads(line)]

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        def true_or_ended() -> bool:
            return condition() or self.process.poll() is not None

        wait_until(true_or_ended, what, explain=self.text)
        assert condition(), f"it ended with {self.process.poll()}: {self.text()}"


def id_of(line: str) -> str:
    headers: list[tuple[str, str]] = json.loads(line)["headers"]
    (message_id,) = [value for name, value in headers if name == "onecommit-id"]
    return message_id


@contextmanager
def consuming(
    installation: Installation, *words: str, environment: Mapping[str, str] | None = None
) -> Iterator[ConsumeProcess]:
    consumer = ConsumeProcess(installation, *words, environment=environment)
    try:
        yield consumer
    finally:
        consumer.process.end()
