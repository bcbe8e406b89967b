"""The servers of a run, what can happen to each, and the proxies by which the armed worker goes.

Promises that a server that was harmed is back when its harm is over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from tests.e2e.installation import Servers
from tests.e2e.random_run.relays import Proxies
from tests.e2e.tcp_proxy import NetworkFault
from tests.e2e.waiting import wait_until
from tests.servers import Ensemble
from tests.servers.ensemble import Member

EXPIRED = "Expiring session"
MAIN, BILLING, ZOOKEEPER = "main", "billing", "zookeeper"


@dataclass(frozen=True)
class Database:
    """A PostgreSQL server: its url and port, and what makes it crash and recover where it may."""

    dsn: str
    port: int
    restart: Callable[[], None] | None = None


class Town:
    """Two databases' servers, an ensemble of ZooKeeper and Kafka."""

    def __init__(
        self, stack: ExitStack, databases: Mapping[str, Database], zookeeper: Ensemble, kafka: str
    ) -> None:
        self.databases, self.zookeeper = databases, zookeeper
        self.servers = Servers(databases[MAIN].dsn, kafka, zookeeper.address)
        self.proxies = Proxies(stack, [])
        for name, database in databases.items():
            self.proxies.add(name, [database.port])
        self.proxies.add(ZOOKEEPER, [member.port for member in zookeeper.members])

    def restartable(self) -> list[str]:
        return [name for name, database in self.databases.items() if database.restart]

    def restart(self, name: str) -> None:
        """Ends every process of a database at once; it recovers."""
        restart = self.databases[name].restart
        assert restart is not None, f"{name} is shared with others"
        restart()

    def expired(self) -> int:
        """How many sessions ZooKeeper has ended."""
        logs = (member.log.read_text(errors="replace") for member in self.zookeeper.members)
        return sum(log.count(EXPIRED) for log in logs)

    def kill_leader(self) -> Callable[[], None]:
        """Returns when another one leads; what it gives starts the killed one again."""
        old = wait_until(self._leader, "ZooKeeper has a leader")
        old.kill()

        def other_leads() -> bool:
            new = self._leader()
            return new is not None and new is not old

        wait_until(other_leads, "another ZooKeeper leads")
        return old.start

    def _leader(self) -> Member | None:
        """None while one is elected."""
        for member in self.zookeeper.members:
            try:
                if member.leads():
                    return member
            except (OSError, ValueError):
                pass
        return None

    def cut(self, name: str) -> Callable[[], int]:
        """The armed worker reaches this server no more. Gives how often that has hit."""
        proxies = self.proxies.to[name]
        before = self._cuts(name)
        for proxy in proxies:
            proxy.cut()
        return lambda: self._cuts(name) - before

    def mend(self, name: str) -> None:
        for proxy in self.proxies.to[name]:
            proxy.mend()

    def _cuts(self, name: str) -> int:
        return sum(proxy.hits[NetworkFault.CUT] for proxy in self.proxies.to[name])
