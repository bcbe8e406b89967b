"""`onecommit adopt` after PostgreSQL was restored, failed over, dumped and loaded, or upgraded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.servers import Postgres

from .adoption import Adoption
from .conftest import MakeInstallation, OwnServers
from .copied_postgres import BaseBackup, Upgraded, dump_and_load
from .installation import PostgresInstallation, Servers, Table
from .postgres_outbox import ledger_of, publish
from .standby import Standby

BACKLOG = 50
MORE = 7
# Each subtransaction takes a transaction number, so that the old server is far ahead of a new one.
USE_UP_NUMBERS = """
do $$ begin
  for n in 1..20000 loop
    begin perform pg_current_xact_id(); insert into used values (n);
      raise exception 'rolled back'; exception when raise_exception then null; end;
  end loop;
end $$
"""


@pytest.fixture
def made(
    make_installation: MakeInstallation, own_servers: OwnServers, servers: Servers
) -> PostgresInstallation:
    made = make_installation(replace(servers, postgres=own_servers.postgres.dsn))
    made.init()
    return made


def on(made: PostgresInstallation, server: Postgres) -> Adoption:
    """The same installation, its database on another server."""
    url = server.database_url(made.name)
    table: Table = {"url": url, "outbox": True, "shards": 2}
    configuration: Path = made.configure("other.toml", {"participants.main": table})
    return Adoption(made, configuration)


def publish_on(made: PostgresInstallation, server: Postgres, messages: int) -> None:
    """As writers do who know the new address already; with keys and without."""
    for number in range(messages):
        key = None if number % 2 else f"key-{number}".encode()
        with psycopg.connect(server.database_url(made.name)) as connection:
            publish(connection, made.topic, key, b"new")


def system(server: Postgres) -> str:
    ((identifier,),) = server.query("select system_identifier::text from pg_control_system()")
    return str(identifier)


def test_a_restored_base_backup(made: PostgresInstallation, own_servers: OwnServers) -> None:
    """What was delivered behind the backup is handed out again: by id and transaction number."""
    made.deliver(BACKLOG)
    made.outbox.burst(made.topic, BACKLOG)
    with closing(BaseBackup(own_servers.postgres)) as restored:
        restored.start()
        # Behind the backup: delivered, and lost with the server.
        for _ in range(3):
            made.outbox.burst(made.topic, BACKLOG)
        made.deliver(BACKLOG)
        publish_on(made, restored, MORE)
        adoption = on(made, restored)
        adoption.refused("barrier row")
        said = adoption.adopt()
        assert said["messages"] == BACKLOG + MORE
        report = adoption.deliver(said, ledger_of(restored.database_url(made.name)))
        assert report.counts()["duplicate"] == BACKLOG
        # It goes on as ever, and the server that was given up is no longer believed.
        publish_on(made, restored, MORE)
        adoption.deliver(said, ledger_of(restored.database_url(made.name)))
        Adoption(made).refused("barrier row")


def test_a_standby_promoted_without_loss_needs_none(
    made: PostgresInstallation, own_servers: OwnServers
) -> None:
    made.deliver(BACKLOG)
    with closing(Standby(own_servers.postgres)) as standby:
        standby.start()
        standby.catch_up()
        standby.promote()
        adoption = on(made, standby)
        found = adoption.show()
        assert not found["to_adopt"]
        assert found["database"]["system"] == system(own_servers.postgres)
        assert found["database"]["timeline"] == "00000002"
        publish_on(made, standby, MORE)
        report = adoption.deliver(found, ledger_of(standby.database_url(made.name)))
        assert not report.findings, str(report)


def test_a_standby_promoted_with_loss(made: PostgresInstallation, own_servers: OwnServers) -> None:
    with closing(Standby(own_servers.postgres)) as standby:
        made.deliver(BACKLOG)
        standby.start()
        standby.catch_up()
        standby.cut_off()
        made.deliver(BACKLOG)
        standby.promote()
        adoption = on(made, standby)
        publish_on(made, standby, MORE)
        adoption.refused("barrier row", "failed over")
        said = adoption.adopt()
        assert said["messages"] >= MORE and said["database"]["timeline"] == "00000002"
        adoption.deliver(said, ledger_of(standby.database_url(made.name)))


@pytest.mark.parametrize("waiting", [0, BACKLOG])
def test_a_dump_that_was_loaded(
    made: PostgresInstallation, own_servers: OwnServers, waiting: int
) -> None:
    """Rows keep the numbers of the old server's transactions, far ahead of the new one's."""
    with made.postgres.connect() as connection:
        connection.execute("create table used (n int)")
    with psycopg.connect(made.database_url, autocommit=True) as connection:
        connection.execute(USE_UP_NUMBERS)
    made.deliver(BACKLOG)
    for number in range(waiting):
        with made.postgres.connect() as connection:
            key = None if number % 5 == 0 else f"key-{number}".encode()
            publish(connection, made.topic, key, b"waiting")
    with closing(Postgres()) as loaded:
        loaded.start()
        dump_and_load(own_servers.postgres, loaded, made.name)
        publish_on(made, loaded, MORE)
        adoption = on(made, loaded)
        adoption.refused("yet to hand out" if waiting else "another database")
        said = adoption.adopt()
        assert sum(shard["foreign"] for shard in said["shards"]) == waiting
        assert said["messages"] == waiting + MORE
        report = adoption.deliver(said, ledger_of(loaded.database_url(made.name)))
        # Nothing of it was delivered before; what covers the new ones are reused numbers.
        assert not report.findings, str(report)


@pytest.fixture
def old() -> Iterator[Postgres]:
    """A server of the test's own; it runs at the end of the test."""
    with closing(Postgres()) as server:
        server.start()
        yield server


def test_an_upgraded_server(
    old: Postgres, make_installation: MakeInstallation, servers: Servers
) -> None:
    made = make_installation(replace(servers, postgres=old.dsn))
    made.init()
    made.deliver(BACKLOG)
    made.outbox.burst(made.topic, MORE)
    before = system(old)
    old.stop()
    with closing(Upgraded(old)) as upgraded:
        upgraded.start()
        adoption = on(made, upgraded)
        adoption.refused("another database")
        said = adoption.adopt()
        assert said["database"]["system"] == system(upgraded) != before
        assert (said["messages"], said["twice_at_most"]) == (MORE, 0)
        publish_on(made, upgraded, MORE)
        report = adoption.deliver(said, ledger_of(upgraded.database_url(made.name)))
        assert not report.findings, str(report)
    old.start()


def test_a_sequence_that_was_set_back(made: PostgresInstallation) -> None:
    made.deliver(BACKLOG)
    made.outbox.burst(made.topic, MORE)
    with made.postgres.connect() as connection:
        connection.execute("select setval('onecommit.outbox_id_seq', 1)")
    adoption = Adoption(made)
    adoption.refused("sequence")
    said = adoption.adopt()
    # The shards fit: nothing is delivered twice.
    assert (said["messages"], said["twice_at_most"]) == (0, 0)
    made.outbox.burst(made.topic, MORE)
    report = adoption.deliver(said, made.outbox.ledger())
    assert not report.findings, str(report)
