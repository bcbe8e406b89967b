"""A PostgreSQL server and the standby that takes its place, behind one address.

Commits wait for the standby, so that a failover loses nothing that was confirmed. Promises that
behind `fail_over` there is again a standby that commits wait for.
"""

from __future__ import annotations

import os
import random
import signal
import time
from urllib.parse import urlsplit

from tests.servers import Postgres, free_port
from tests.servers.started import Started

from ..standby import Standby
from ..tcp_proxy import TcpProxy
from ..waiting import wait_until

# A primary that comes back after a crash still has what its standby lacks.
SETTINGS = {"wal_keep_size": "512MB", "wal_retrieve_retry_interval": "500ms"}
BACKENDS = """
select pid from pg_stat_activity
where backend_type = 'client backend' and datname <> 'postgres' order by pid
"""


class PostgresPair(Started):
    """The primary and its standby; `address` stays the same when they change."""

    def __init__(self) -> None:
        self.primary = Postgres(settings=SETTINGS)
        self.standby: Standby | None = None
        self._gone: list[Postgres] = []
        self._front = TcpProxy(free_port(), self.primary.port)

    @property
    def port(self) -> int:
        """Which leads to the primary, whoever that is."""
        return self._front.port

    @property
    def dsn(self) -> str:
        there = urlsplit(self.primary.dsn)
        return there._replace(netloc=f"postgres@127.0.0.1:{self.port}").geturl()

    @property
    def servers(self) -> list[Postgres]:
        """All that there are and were."""
        return [*self._gone, self.primary, *([self.standby] if self.standby else [])]

    def start(self) -> None:
        self.primary.start()
        self._follow()

    def crash(self, down_s: float) -> None:
        """Every process of the primary dies; it recovers."""
        self.primary.kill()
        time.sleep(down_s)
        self.primary.start()
        self._wait_followed()

    def kill_backend(self, chance: random.Random) -> None:
        """One backend dies by SIGKILL: PostgreSQL ends all others and recovers inside."""

        def killed() -> bool:
            found = self.primary.query(BACKENDS)
            try:
                os.kill(int(str(chance.choice(found)[0])), signal.SIGKILL)
            except (IndexError, ProcessLookupError):
                return False  # none is there, or it has just ended
            return True

        wait_until(killed, "a client of the primary")
        wait_until(lambda: self._answers("select 1", "1"), "PostgreSQL has recovered")
        self._wait_followed()

    def fail_over(self, chance: random.Random) -> None:
        """The primary dies and never comes back; the standby is promoted."""
        assert self.standby is not None
        self._gone.append(self.primary)
        self.primary.kill()
        self.primary = self.standby
        if chance.random() < 0.5:  # clients may come to the standby before it is promoted
            self._front.server_port = self.primary.port
        self.standby.promote()
        self._front.server_port = self.primary.port
        self._follow()

    def _answers(self, query: str, expected: str) -> bool:
        try:
            return self.primary.query(query) == [(expected,)]
        except (OSError, ValueError):
            return False

    def _follow(self) -> None:
        """Makes a standby. What its primary is told behind the copy, it does not know itself."""
        self.standby = Standby(self.primary)
        self.standby.start()
        self.primary.query("alter system set synchronous_standby_names = '*'")
        self.primary.query("select pg_reload_conf()")
        self._wait_followed()

    def _wait_followed(self) -> None:
        """Waits until there is a standby, and commits wait for it."""
        query = "select sync_state from pg_stat_replication where state = 'streaming'"
        wait_until(lambda: self._answers(query, "sync"), "the standby follows")

    def close(self) -> None:
        self._front.__exit__(None, None, None)
        for server in self.servers:
            server.close()
