"""Runs `onecommit adopt`, and judges what is delivered afterwards by what it had said."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .checker import Committed, Report
from .command_line import CommandLine, RelayProcess, was_late
from .installation import Installation, Table
from .waiting import wait_until


class Adoption:
    """An installation whose configuration leads to stores that are no longer what they were."""

    def __init__(self, installation: Installation, configuration: Path | None = None) -> None:
        self.installation = installation
        self.configuration = configuration or installation.command_line.configuration
        self.command_line = CommandLine(installation.folder, self.configuration)

    def relay(self) -> RelayProcess:
        """A relay with this configuration; it ends with the installation."""
        return self.installation.command_line.relay(configuration=self.configuration)

    def refused(self, *words: str) -> None:
        """A relay refuses, and names the way on."""
        relay = self.relay()
        assert relay.wait() == 4, relay.text()
        said = relay.text().splitlines()[-1]
        assert all(word in said for word in (*words, "onecommit adopt main")), said

    def show(self) -> dict[str, Any]:
        """What it finds; nothing is changed."""
        return _object(self.command_line.succeed("--json", "adopt", "main", "--show"))

    def adopt(self) -> dict[str, Any]:
        """Adopts, after it has shown the same without changing anything."""
        shown = self.show()
        assert shown["to_adopt"] and not shown["adopted"], shown
        assert self.show() == shown
        adopted = {**shown, "adopted": True}
        words = ("--json", "adopt", "main", "--yes")
        done = self.command_line.run(*words)
        if was_late(done):
            # What it did until then is found by the next one.
            self.command_line.succeed(*words)
        else:
            assert done.returncode == 0 and _object(done.stdout) == adopted, done
        after = self.show()
        assert not after["to_adopt"], after
        return adopted

    def deliver(self, said: dict[str, Any], ledger: Iterable[Committed]) -> Report:
        """A relay delivers all that the ledger holds; the verdict is checked by what was said."""
        committed = list(ledger)
        installation = self.installation
        relay = self.relay()
        wanted = [message.message_id for message in committed]
        installation.topics.wait_delivered([installation.topic], wanted)
        # Also what comes for the second time.
        wait_until(self._nothing_waits, "nothing waits", explain=relay.text)
        relay.stop()
        report = installation.topics.check([installation.topic], committed)
        counts = report.counts()
        assert counts.get("lost", 0) == 0 and counts.get("out_of_order", 0) == 0, str(report)
        assert counts.get("duplicate", 0) <= said["twice_at_most"], f"{said}\n{report}"
        return report

    def _nothing_waits(self) -> bool:
        return all(shard["backlog_messages"] == 0 for shard in self.command_line.status())


def long_leases(made: Installation) -> dict[str, Table]:
    """Settings with which a relay counts as living where a busy machine lets it stand still."""
    tables: dict[str, Table] = {"relay": {**made.relay_settings, "lease_timeout_ms": 20_000}}
    if made.zookeeper is not None:
        tables["zookeeper"] = {"servers": made.zookeeper, "session_timeout_ms": 10_000}
    return tables


def _object(printed: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed)
    return found
