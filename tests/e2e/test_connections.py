"""A request that PostgreSQL does not answer is ended there, too: a relay that tries again and again
must not leave its connections behind until the application can't have any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.servers import Postgres

from .installation import PostgresInstallation, Servers
from .postgres_outbox import Connection
from .waiting import wait_until

# Of one kind: the one that tries, the one before it whose end is under way, and one more to spare.
CONNECTIONS_AT_MOST = 3
TRIES = 6
BACKENDS = "select pid from pg_stat_activity where application_name = %s"


@contextmanager
def row_locked(connection: Connection) -> Iterator[None]:
    """A relay's own row is held by somebody who forgot to end a transaction."""
    with connection.transaction():
        connection.execute("select from onecommit.relay for update")
        yield


@contextmanager
def standby_dead(connection: Connection) -> Iterator[None]:
    """Every commit waits for a synchronous standby that will not come."""
    connection.execute("alter system set synchronous_standby_names = 'nobody'")
    connection.execute("select pg_reload_conf()")
    try:
        yield
    finally:
        connection.execute("alter system reset synchronous_standby_names")
        connection.execute("select pg_reload_conf()")


@contextmanager
def table_locked(connection: Connection) -> Iterator[None]:
    """The outbox is being rewritten, as by VACUUM FULL."""
    with connection.transaction():
        connection.execute("lock table onecommit.outbox in access exclusive mode")
        yield


LEASE, OUTBOX = "onecommit relay lease", "onecommit relay"


@pytest.mark.parametrize(
    ("trouble", "application"),
    [(row_locked, LEASE), (standby_dead, LEASE), (table_locked, OUTBOX)],
)
def test_connections_do_not_pile_up(
    servers: Servers,
    tmp_path: Path,
    trouble: Callable[[Connection], AbstractContextManager[None]],
    application: str,
) -> None:
    with Postgres() as server:
        made = PostgresInstallation(replace(servers, postgres=server.dsn), tmp_path)
        with closing(made), psycopg.connect(made.database_url, autocommit=True) as looking:
            made.init()
            made.relay_settings["request_timeout_ms"] = 1000
            made.configure()
            relay = made.relay()
            relay.wait_for("delivers", times=made.outbox.shards)
            made.outbox.burst(made.topic, 10)
            made.wait_delivered()
            seen: set[object] = set()

            def connections() -> int:
                pids = {row[0] for row in looking.execute(BACKENDS, [application]).fetchall()}
                seen.update(pids)
                return len(pids)

            def tried_often_and_ended() -> bool:
                # Those that nobody ends stay for as long as the trouble does.
                return connections() <= CONNECTIONS_AT_MOST and len(seen) >= TRIES

            with (
                psycopg.connect(made.database_url, autocommit=True) as connection,
                trouble(connection),
            ):
                what = f"{TRIES} tries, and at most {CONNECTIONS_AT_MOST} connections"
                wait_until(tried_often_and_ended, what, explain=relay.text)
            made.outbox.burst(made.topic, 10)
            made.finish(relay, at_least=20)
