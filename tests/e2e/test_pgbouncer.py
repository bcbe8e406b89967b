"""Writers, relays and their leases through a pooler in transaction mode."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import onecommit
import psycopg
import pytest

from tests.servers import PgBouncer
from tests.servers.process import tail

from .adoption import Adoption
from .bank import Bank
from .bank_worker import DIES_PREPARED
from .conftest import MakeInstallation, OwnServers
from .installation import PostgresInstallation, Servers
from .postgres_crash import hold, signal_all
from .postgres_outbox import ledger_of, publish
from .waiting import wait_until

BACKLOG = 1200
SOME = 60
CRASHES = 10
CANCELS = 10
ENTER = """
insert into ledger (message_id, topic, key, digest, place)
select message_id, topic, key, md5(value), id from onecommit.outbox where message_id = %s
"""


@pytest.fixture
def pooler(own_servers: OwnServers) -> Iterator[PgBouncer]:
    with closing(PgBouncer(own_servers.postgres)) as server:
        server.start()
        yield server
        assert server.running, tail(server.log)


@pytest.fixture
def pooled(
    pooler: PgBouncer, make_installation: MakeInstallation, servers: Servers
) -> PostgresInstallation:
    """An installation that knows only the pooler's address."""
    made = make_installation(replace(servers, postgres=pooler.dsn))
    made.init()
    return made


def pooled_connections(pooler: PgBouncer, database: str) -> int:
    """How many clients the pooler has for a database."""
    with psycopg.connect(
        pooler.database_url("pgbouncer"), autocommit=True, cursor_factory=psycopg.ClientCursor
    ) as admin:
        rows = admin.execute("show clients").fetchall()
    return sum(database in row for row in rows)


def test_two_databases_commit_as_one(pooler: PgBouncer, servers: Servers, tmp_path: Path) -> None:
    bank = Bank(replace(servers, postgres=pooler.dsn), tmp_path, zookeeper=True)
    try:
        bank.worker(DIES_PREPARED).ended(-signal.SIGKILL)
        bank.wait_prepared()
        relay = bank.installation.relay()
        bank.wait_settled()
        workers = [bank.worker() for _ in range(2)]
        for worker in workers:
            wait_until(partial(worker.has_committed, 10), "it commits")
            worker.finish()
        assert pooled_connections(pooler, bank.billing.name) > 0, "they don't go through the pooler"
        transfers = bank.check()
        assert transfers >= 20
        bank.installation.finish(relay, at_least=transfers)
    finally:
        bank.close()


def test_relays_share_and_replace_each_other(
    pooled: PostgresInstallation, pooler: PgBouncer
) -> None:
    pooled.outbox.burst(pooled.topic, BACKLOG)
    with pooled.postgres.writing(pooled.topic) as writers:
        first = pooled.relay()
        second = pooled.relay()
        pooled.wait_shared(2)
        assert pooled_connections(pooler, pooled.name) > 2, "they don't go through the pooler"
        first.kill()
        pooled.wait_shared(1)
        third = pooled.relay()
        pooled.wait_shared(2)
        wait_until(lambda: writers.committed >= SOME, "writers commit")
    pooled.wait_delivered()
    pooled.wait_pruned()
    pooled.finish(second, third, at_least=BACKLOG + SOME)


def test_python_publishes_by_sql_and_by_the_package(pooled: PostgresInstallation) -> None:
    """More than the five times after which psycopg would prepare."""
    outbox = onecommit.Outbox()
    connection = psycopg.connect(pooled.database_url, prepare_threshold=None)
    others = [psycopg.connect(pooled.database_url, prepare_threshold=None) for _ in range(3)]
    with closing(connection):
        for number in range(10):
            published = outbox.publish(connection, pooled.topic, key="k", value={"n": number})
            connection.execute(ENTER, [str(published)])
            connection.commit()
            for other in others:
                publish(other, pooled.topic, b"other", b"x")
                other.commit()
    for other in others:
        other.close()
    pooled.finish(pooled.relay(), at_least=40)


def test_requests_that_are_given_up_are_cancelled_and_the_pooler_lives(
    pooled: PostgresInstallation, pooler: PgBouncer, own_servers: OwnServers
) -> None:
    """PgBouncer 1.18 dies of a client that asks to cancel and is gone at once."""
    relay = pooled.relay()
    relay.wait_for("delivers", times=2)

    backends = f"select pid from pg_stat_activity where datname = '{pooled.name}'"
    frozen: set[int] = set()

    def are_cancelled() -> bool:
        """Whatever backend the pooler opens next does not answer, either."""
        found = {int(str(pid)) for (pid,) in own_servers.postgres.query(backends)}
        if opened := list(found - frozen):
            frozen.update(opened)
            hold(own_servers.postgres, opened)
        said = pooler.log.read_text()
        assert pooler.running, said
        return said.count("successfully sent cancel request") >= CANCELS

    try:
        wait_until(are_cancelled, f"{CANCELS} are cancelled", explain=relay.text)
    finally:
        signal_all(list(frozen), signal.SIGCONT)
    pooled.outbox.burst(pooled.topic, SOME)
    pooled.finish(relay, at_least=SOME)


def test_adopting_and_removing(pooled: PostgresInstallation) -> None:
    pooled.deliver(BACKLOG)
    pooled.outbox.burst(pooled.topic, SOME)
    pooled.outbox.execute("delete from onecommit.barrier")
    adoption = Adoption(pooled)
    adoption.refused("barrier row")
    report = adoption.deliver(adoption.adopt(), pooled.outbox.ledger())
    assert not report.findings, str(report)
    pooled.command_line.succeed("init", "--remove", "--yes")


def test_a_crash_of_the_server_is_noticed_behind_the_pooler(
    pooled: PostgresInstallation, own_servers: OwnServers
) -> None:
    """The pooler keeps the connection of a relay that asks nothing meanwhile: only the life of the
    server tells. A relay that was paused within a transaction hears of it from the pooler."""
    postgres = own_servers.postgres
    relay = pooled.relay()
    relay.wait_for("delivers", times=2)
    for crash in range(CRASHES):
        relay.pause()
        kill_one_backend(postgres.dsn)
        wait_until(lambda: is_published(pooled), f"the server is back behind the pooler, {crash}")
        relay.resume()
        # Not through the pooler, which passes on for a while that connections of its own broke.
        ledger = ledger_of(postgres.database_url(pooled.name))
        wanted = [message.message_id for message in ledger]
        pooled.topics.wait_delivered([pooled.topic], wanted)
        if "PostgreSQL crashed and came back" in relay.text():
            break
    else:
        raise AssertionError(f"in {CRASHES} crashes never between two polls:\n{relay.text()}")
    relay.stop()
    report = pooled.topics.check([pooled.topic], ledger_of(postgres.database_url(pooled.name)))
    assert report.committed and not report.findings, str(report)


def kill_one_backend(dsn: str) -> None:
    """As the out-of-memory killer does; the postmaster ends all others, and recovers."""
    connection = psycopg.connect(dsn)
    os.kill(connection.info.backend_pid, signal.SIGKILL)
    wait_until(lambda: is_broken(connection), "the connection is broken")
    connection.close()


def is_broken(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    try:
        connection.execute("select 1")
    except psycopg.OperationalError:
        return True
    return False


def is_published(pooled: PostgresInstallation) -> bool:
    try:
        with pooled.postgres.connect() as connection:
            publish(connection, pooled.topic, b"key", b"behind a crash")
    except psycopg.Error:
        return False  # the pooler passes on, in several ways, that a connection of its own broke
    return True
