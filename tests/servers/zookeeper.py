"""A real ZooKeeper server, standing alone.

Promises session timeouts from 1 s (two ticks of 500 ms) up to 240 s, as many connections as a
test wants, and all four-letter commands. Writes are synced to disk, as ZooKeeper does by itself.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from .fetch import zookeeper_jars
from .java import QUICK, java
from .ports import free_port
from .server import Server

LOGGING = """<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %-5level %logger{0} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
"""


class ZooKeeper(Server):
    """One ZooKeeper server. `settings` are added to, or replace, those of zoo.cfg."""

    # As what it answers that it works, once it is ready.
    modes: tuple[str, ...] = ("standalone",)

    def __init__(self, settings: Mapping[str, str] | None = None, heap: str = "256m") -> None:
        super().__init__("ZooKeeper")
        self.port = free_port()
        self._heap = heap
        self._jars = Path()
        self._configuration = self.folder / "zoo.cfg"
        self._logging = self.folder / "logback.xml"
        self._settings = {
            "tickTime": "500",
            "maxSessionTimeout": "240000",
            "dataDir": str(self.folder / "data"),
            "clientPort": str(self.port),
            "clientPortAddress": "127.0.0.1",
            "maxClientCnxns": "0",  # no limit: every test connects from the same address
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "*",
            **(settings or {}),
        }

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def four_letters(self, command: str) -> str:
        """The answer to a four-letter command such as `srvr` or `mntr`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as connection:
            connection.sendall(command.encode())
            with connection.makefile("rb") as answer:
                return answer.read().decode(errors="replace")

    def _fetch(self) -> None:
        self._jars = zookeeper_jars()

    def _prepare(self) -> None:
        lines = [f"{name}={value}\n" for name, value in self._settings.items()]
        self._configuration.write_text("".join(lines))
        self._logging.write_text(LOGGING)

    def _command(self) -> Sequence[str]:
        options = [f"-Dlogback.configurationFile={self._logging}", *QUICK]
        main_class = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        start = java(self._jars, self.folder, self._heap, options, main_class)
        return [*start, str(self._configuration)]

    def _ask(self) -> None:
        answer = self.four_letters("ruok")
        if answer != "imok":
            raise ValueError(f"ruok was answered with {answer!r}")
        status = self.four_letters("srvr")
        if not any(f"Mode: {mode}" in status for mode in self.modes):
            raise ValueError(f"srvr was answered with {status!r}")
