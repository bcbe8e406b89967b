"""PostgreSQL servers for tests that are not in Python, which run this as a program.

Each line of standard input is a command, with the name of the server that it is about; each is
answered by a line, `done` with what it gives or `failed` and why. The servers end with the input.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import cast

from tests.servers import Postgres
from tests.servers.postgres import StopMode

from .copied_postgres import BaseBackup
from .postgres_crash import hold, nothing_flushed_by_itself, signal_all
from .standby import Standby

# What would flush or number transactions by itself while a test prepares a crash.
UNDISTURBED = {"autovacuum": "off", "checkpoint_timeout": "1h"}


class Servers:
    """Those that were asked for, and what can be done with them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._servers: dict[str, Postgres] = {}
        self._crashes: dict[str, Callable[[], None]] = {}
        self._held: dict[str, list[int]] = {}

    def primary(self, name: str, version: str = "15") -> str:
        """Starts a server."""
        return self._start(name, Postgres(version, settings=UNDISTURBED))

    def standby(self, name: str, primary: str) -> str:
        """Starts one that follows another."""
        return self._start(name, Standby(self._servers[primary]))

    def backup(self, name: str, original: str) -> str:
        """Starts what is restored from a base backup, taken now."""
        return self._start(name, BaseBackup(self._servers[original]))

    def catch_up(self, name: str) -> None:
        """Waits until a standby has all that there is."""
        self._standby(name).catch_up()

    def cut_off(self, name: str) -> None:
        """A standby gets nothing more."""
        self._standby(name).cut_off()

    def promote(self, name: str) -> None:
        """Makes a standby a primary."""
        self._standby(name).promote()

    def begin_timeline(self, name: str) -> None:
        """Has a server recover as from an archive, which has nothing more: as a promotion does, but
        without the programs that make a standby."""
        server = self._servers[name]
        server.query("alter system set restore_command = 'false'")
        server.stop()
        asks = server.folder / "data" / "recovery.signal"
        asks.touch()
        if server.account:
            os.chown(asks, server.account.user, server.account.group)
        server.start()

    def hold(self, name: str, process: str) -> None:
        """Stops a process of a server's where it is: `checkpointer`, for one."""
        find = f"select pid from pg_stat_activity where backend_type = '{process}'"
        pids = [int(str(pid)) for (pid,) in self._servers[name].query(find)]
        assert pids, f"there is no {process}"
        hold(self._servers[name], pids)
        self._held[name] = pids
        self._stack.callback(self.go_on, name)

    def go_on(self, name: str) -> None:
        """Lets it go on."""
        signal_all(self._held.pop(name, []), signal.SIGCONT)

    def keep_unflushed(self, name: str) -> None:
        """From here until its crash only commits flush."""
        held = nothing_flushed_by_itself(self._servers[name])
        self._crashes[name] = self._stack.enter_context(held)

    def crash(self, name: str) -> None:
        """Ends one of which nothing was flushed but by commits, and starts it again."""
        self._crashes.pop(name)()
        self._servers[name].start()

    def stop(self, name: str, mode: str) -> None:
        """Stops a server."""
        self._servers[name].stop(cast(StopMode, mode))

    def start(self, name: str) -> None:
        """Starts a server again."""
        self._servers[name].start()

    def _standby(self, name: str) -> Standby:
        found = self._servers[name]
        assert isinstance(found, Standby), name
        return found

    def _start(self, name: str, server: Postgres) -> str:
        self._stack.callback(server.close)
        server.start()
        self._servers[name] = server
        return server.dsn


def main() -> None:
    with ExitStack() as stack:
        servers = Servers(stack)
        for line in sys.stdin:
            command, *words = line.split(" ")
            try:
                given = getattr(servers, command)(*(word.strip() for word in words))
                answer = f"done {given or ''}".strip()
            except Exception as error:
                answer = f"failed {type(error).__name__}: {error}"
            print(answer.replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
