"""The relays of a run. One of them reaches all servers through proxies and can be cut off from
each; the others reach them directly, but for PostgreSQL's address that survives a failover."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.servers import free_port

from ..command_line import RelayProcess
from ..installation import PostgresInstallation, Table
from ..tcp_proxy import NetworkFault, TcpProxy
from ..waiting import wait_until

RELAYS = 3
BEHIND_PROXIES = 0
# Longer than a server may take to come back: until then nothing may come through the proxies.
HIT_LIMIT_S = 240.0


class Proxies:
    """What one relay goes through: for each kind of server, a proxy to each of them."""

    def __init__(self, stack: ExitStack, kafka: Sequence[TcpProxy]) -> None:
        self._stack = stack
        self.to: dict[str, Sequence[TcpProxy]] = {"kafka": kafka}

    def add(self, server: str, ports: Sequence[int]) -> None:
        made = [TcpProxy(free_port(), port) for port in ports]
        for proxy in made:
            self._stack.enter_context(proxy)
        self.to[server] = made

    def addresses(self, server: str) -> str:
        return ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.to[server])

    def meet(self, server: str, fault: NetworkFault, lasts_s: float) -> int:
        """One fault on all connections to one kind of server; how often it hit."""
        proxies = self.to[server]

        def hits() -> int:
            return sum(proxy.hits[fault] for proxy in proxies)

        before = hits()
        for proxy in proxies:
            proxy.begin(fault)
        try:
            wait_until(lambda: hits() > before, f"{fault} of {server} hits", HIT_LIMIT_S)
            time.sleep(lasts_s)
        finally:
            for proxy in proxies:
                proxy.mend()
        return hits() - before


class Relays:
    """Their processes; one that was killed is started again in its place."""

    def __init__(self, installation: PostgresInstallation, proxies: Proxies) -> None:
        self._installation = installation
        self._behind = _configuration_behind(installation, proxies)
        self.running = [self._start(place) for place in range(RELAYS)]

    def kill(self, chance: random.Random, down_s: float) -> None:
        place = self._some(chance)
        self.running[place].kill()
        time.sleep(down_s)
        self.running[place] = self._start(place)

    def pause(self, chance: random.Random, lasts_s: float) -> None:
        relay = self.running[self._some(chance)]
        relay.pause()
        time.sleep(lasts_s)
        relay.resume()

    def _some(self, chance: random.Random) -> int:
        place = chance.randrange(RELAYS)
        self.assert_running()
        return place

    def assert_running(self) -> None:
        """None has ended by itself."""
        for relay in self.running:
            assert relay.running, relay.text()

    def stop(self) -> None:
        for relay in self.running:
            relay.terminate()
        for relay in self.running:
            relay.stop()

    def _start(self, place: int) -> RelayProcess:
        configuration = self._behind if place == BEHIND_PROXIES else None
        return self._installation.command_line.relay(configuration=configuration)


def _configuration_behind(installation: PostgresInstallation, proxies: Proxies) -> Path:
    database = installation.database_url.rpartition("/")[2]
    url = f"postgresql://postgres@{proxies.addresses('postgres')}/{database}"
    tables: dict[str, Table] = {
        "participants.main": {"url": url, "outbox": True, "shards": installation.outbox.shards},
        "kafka": {"bootstrap.servers": proxies.addresses("kafka"), "socket.timeout.ms": 3000},
        "zookeeper": {"servers": proxies.addresses("zookeeper"), "session_timeout_ms": 1500},
    }
    return installation.configure("behind-proxies.toml", tables)
