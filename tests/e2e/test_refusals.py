"""What a relay refuses in order to protect data: it says why, exits with 4 and touches nothing."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from psycopg import sql

from tests.servers import ZooKeeper

from .command_line import REFUSED, CommandLine, RelayProcess
from .conftest import MakeInstallation, OwnServers
from .installation import Installation, PostgresInstallation, Servers, Table
from .kafka_topics import REQUEST_LIMIT_S, progress_topics
from .postgres_outbox import PostgresOutbox, ledger_of, publish, url_of
from .standby import Standby
from .test_taking_over import FENCE
from .waiting import wait_until

BACKLOG = 50


@pytest.fixture
def delivered(installation: PostgresInstallation) -> PostgresInstallation:
    """An installation that has delivered, with no relay now."""
    deliver(installation)
    return installation


def deliver(installation: Installation) -> None:
    installation.outbox.burst(installation.topic, BACKLOG)
    relay = installation.relay()
    installation.wait_delivered()
    relay.stop()


def refuses(relay: RelayProcess, *words: str) -> None:
    assert relay.wait() == 4, relay.text()
    said = relay.text().splitlines()[-1]
    assert all(word in said for word in words), said


def relay_of(installation: Installation, configuration: Path) -> RelayProcess:
    """A relay with another configuration than the installation's own."""
    return installation.command_line.relay(configuration=configuration)


def epochs(installation: PostgresInstallation) -> list[tuple[object, ...]]:
    with installation.postgres.connect() as connection:
        query = (
            "select s.epoch, l.epoch from onecommit.shard s join onecommit.lease l using (shard)"
        )
        return connection.execute(query).fetchall()


def test_without_init_it_says_what_to_do(make_installation: MakeInstallation) -> None:
    relay = make_installation().relay()
    assert relay.wait() == 2
    assert "onecommit init" in relay.text()


@contextmanager
def copied(made: PostgresInstallation) -> Iterator[Path]:
    """A configuration that leads to a copy of the database, and to the same Kafka."""
    name = f"{made.name}_copy"
    with psycopg.connect(made.servers.postgres, autocommit=True) as connection:

        def is_done(statement: sql.Composed) -> bool:
            try:
                connection.execute(statement)
            except psycopg.errors.ObjectInUse:
                return False  # a relay that has ended still has a connection
            return True

        create = sql.SQL("create database {} template {}")
        create_it = create.format(sql.Identifier(name), sql.Identifier(made.name))
        wait_until(lambda: is_done(create_it), "the database is copied")
        url = url_of(made.servers.postgres, name)
        table: Table = {"url": url, "outbox": True, "shards": 2}
        try:
            yield made.configure("copy.toml", {"participants.main": table})
        finally:
            drop_it = sql.SQL("drop database {} with (force)").format(sql.Identifier(name))
            wait_until(lambda: is_done(drop_it), "the copy is dropped")


def copy_of(original: PostgresInstallation, copy: Path) -> RelayProcess:
    """A relay of the copy. It would stop, and be found, before it fences the original's."""
    return original.command_line.relay(f"{FENCE}=stop", copy)


def test_a_copied_database_is_refused_and_the_original_is_not_disturbed(
    delivered: PostgresInstallation,
) -> None:
    with copied(delivered) as copy:
        original = delivered.relay()
        original.wait_for("delivers", times=2)
        refuses(copy_of(delivered, copy), "another database", "expected", "found")
        delivered.outbox.burst(delivered.topic, BACKLOG)
        delivered.finish(original, at_least=2 * BACKLOG)
        assert "another relay" not in original.text(), original.text()


def test_a_copied_database_beside_a_busy_relay_is_told_and_delivers_nothing(
    delivered: PostgresInstallation,
) -> None:
    """What the copy sees changes with each look: it must neither believe nor look for ever."""
    told = "goes on by another relay and does not fit to this database"
    with copied(delivered) as copy:
        original = delivered.relay()
        original.wait_for("delivers", times=2)
        with delivered.outbox.writing(delivered.topic):
            beside = copy_of(delivered, copy)

            def is_told() -> bool:
                nonlocal beside
                if told in beside.text():
                    return True
                if not beside.running:
                    # The original stood still for two looks: that is a refusal, as above.
                    refuses(beside, "another database")
                    beside = copy_of(delivered, copy)
                return False

            wait_until(is_told, told, explain=lambda: beside.text())
        beside.kill()
        delivered.finish(original, at_least=BACKLOG)
        assert beside.hit() == []
        assert "another relay" not in original.text(), original.text()


def test_a_restored_database_is_refused(delivered: PostgresInstallation) -> None:
    """What a restore from before the last delivery lacks is the barrier row."""
    with delivered.postgres.connect() as connection:
        connection.execute("delete from onecommit.barrier")
    before = epochs(delivered)
    refuses(delivered.relay(), "barrier row", "restored")
    assert epochs(delivered) == before


def test_a_wiped_progress_topic_is_refused_also_when_it_is_made_anew(
    delivered: PostgresInstallation,
) -> None:
    kafka, name = delivered.servers.kafka, delivered.name
    admin = AdminClient({"bootstrap.servers": kafka})
    topic = delivered.progress_topic()
    admin.delete_topics([topic])[topic].result(timeout=REQUEST_LIMIT_S)
    wait_until(lambda: topic not in progress_topics(kafka, name), "the topic is gone")
    # Kafka says the same while a partition has no leader, so this is waited for, not refused.
    relay = delivered.relay()
    relay.wait_for("If it was deleted, restore it")
    relay.stop()
    delivered.init()
    assert delivered.progress_topic() == topic
    refuses(delivered.relay(), "progress is gone")


def test_another_kafka_cluster_is_refused(
    delivered: PostgresInstallation, own_servers: OwnServers
) -> None:
    table: Table = {"bootstrap.servers": own_servers.kafka.address}
    other = delivered.configure("other.toml", {"kafka": table})
    refuses(relay_of(delivered, other), "Kafka cluster", "expected", "found")
    done = CommandLine(delivered.folder, other).reached("init")
    assert done.returncode == REFUSED and "Kafka cluster" in done.stderr
    there = AdminClient({"bootstrap.servers": own_servers.kafka.address})
    names = there.list_topics(timeout=REQUEST_LIMIT_S).topics
    assert not [name for name in names if name.startswith("onecommit.")]
    delivered.finish(delivered.relay(), at_least=BACKLOG)


def test_another_number_of_shards_is_refused(delivered: PostgresInstallation) -> None:
    table: Table = {"url": delivered.database_url, "outbox": True, "shards": 3}
    other = delivered.configure("other.toml", {"participants.main": table})
    refuses(relay_of(delivered, other), "2 shards", "3")
    done = CommandLine(delivered.folder, other).reached("init")
    assert done.returncode == REFUSED and "another number of shards" in done.stderr


def test_a_second_database_under_the_name_of_the_first_is_refused(
    make_installation: MakeInstallation,
) -> None:
    """It takes the namespace's incarnation from ZooKeeper, but the progress is the first one's."""
    made = make_installation(zookeeper=True)
    made.init()
    second = PostgresOutbox(made.servers.postgres, f"{made.name}_second")
    try:
        table: Table = {"url": second.url, "outbox": True, "shards": 2}
        other = made.configure("other.toml", {"participants.main": table})
        deliver(made)
        CommandLine(made.folder, other).succeed("init")
        refuses(relay_of(made, other), "another database", "expected", "found")
    finally:
        second.drop()


@pytest.fixture
def on_own_zookeeper(
    make_installation: MakeInstallation, own_servers: OwnServers, servers: Servers
) -> PostgresInstallation:
    address = own_servers.zookeeper.address
    made = make_installation(replace(servers, zookeeper=address), zookeeper=True)
    made.init()
    return made


def wipe(zookeeper: ZooKeeper) -> None:
    """It comes back empty at the same address."""
    zookeeper.kill()
    shutil.rmtree(zookeeper.folder / "data")
    zookeeper.start()


def goes_on_after_init(made: PostgresInstallation) -> None:
    """What docs/refusals.md says for a ZooKeeper that was emptied."""
    made.init()
    made.finish(made.relay(), at_least=BACKLOG)


def test_a_zookeeper_emptied_under_a_relay_is_refused(
    on_own_zookeeper: PostgresInstallation, own_servers: OwnServers
) -> None:
    made = on_own_zookeeper
    made.outbox.burst(made.topic, BACKLOG)
    relay = made.relay()
    made.wait_delivered()
    with made.outbox.writing(made.topic):
        wipe(own_servers.zookeeper)
        refuses(relay, "ZooKeeper does not know this namespace", "onecommit init", made.name)
    refuses(made.relay(), "ZooKeeper does not know this namespace")
    goes_on_after_init(made)


@contextmanager
def prepared_branch(made: PostgresInstallation) -> Iterator[str]:
    """A branch of the installation, which is rolled back at the end of the block."""
    incarnation = "select incarnation from onecommit.installation"
    with psycopg.connect(made.database_url, autocommit=True) as connection:
        (known,) = connection.execute(incarnation).fetchone() or ("",)
        branch = f"oc1:{made.name}:{known}:{uuid.uuid4()}:1:main"
        connection.execute("begin; update account set changes = changes + 1")
        connection.execute(f"prepare transaction '{branch}'".encode())
        try:
            yield branch
        finally:
            connection.execute(f"rollback prepared '{branch}'".encode())


def test_a_zookeeper_emptied_while_branches_are_prepared_is_not_prepared_anew(
    on_own_zookeeper: PostgresInstallation, own_servers: OwnServers
) -> None:
    made = on_own_zookeeper
    with prepared_branch(made) as branch:
        made.init()
        wipe(own_servers.zookeeper)
        for command in (("init", "--topic", made.topic), ("adopt", "main", "--yes")):
            done = made.command_line.reached(*command)
            assert done.returncode == REFUSED, done
            for words in (
                "ZooKeeper does not know this installation",
                branch,
                "ROLLBACK PREPARED",
            ):
                assert words in done.stderr, done
        refuses(made.relay(), "ZooKeeper does not know this namespace")
    made.outbox.burst(made.topic, BACKLOG)
    goes_on_after_init(made)


def test_another_installation_in_zookeeper_is_refused_by_a_running_relay(
    on_own_zookeeper: PostgresInstallation, own_servers: OwnServers
) -> None:
    made = on_own_zookeeper
    made.outbox.burst(made.topic, BACKLOG)
    relay = made.relay()
    made.wait_delivered()
    relay.pause()
    wipe(own_servers.zookeeper)
    second = PostgresOutbox(made.servers.postgres, f"{made.name}_second")
    try:
        table: Table = {"url": second.url, "outbox": True, "shards": 2}
        other = made.configure("other.toml", {"participants.main": table})
        CommandLine(made.folder, other).succeed("init")
        made.outbox.burst(made.topic, BACKLOG)
        relay.resume()
        refuses(relay, "another incarnation", "found", "expected")
    finally:
        second.drop()
    wipe(own_servers.zookeeper)
    goes_on_after_init(made)


@contextmanager
def standby_of(own_servers: OwnServers) -> Iterator[Standby]:
    with closing(Standby(own_servers.postgres)) as standby:
        standby.start()
        yield standby


@pytest.fixture
def on_own_postgres(
    make_installation: MakeInstallation, own_servers: OwnServers, servers: Servers
) -> PostgresInstallation:
    made = make_installation(replace(servers, postgres=own_servers.postgres.dsn))
    made.init()
    return made


def configuration_on(installation: PostgresInstallation, standby: Standby) -> Path:
    url = standby.database_url(installation.name)
    table: Table = {"url": url, "outbox": True, "shards": 2}
    return installation.configure("standby.toml", {"participants.main": table})


def test_a_standby_is_waited_for_and_read_once_it_is_the_primary(
    on_own_postgres: PostgresInstallation, own_servers: OwnServers
) -> None:
    made = on_own_postgres
    deliver(made)
    with standby_of(own_servers) as standby:
        configuration = configuration_on(made, standby)
        # In a failover the address may lead here before the promotion.
        relay = relay_of(made, configuration)
        relay.wait_for("is a standby in recovery")
        assert "delivers" not in relay.text()

        with made.postgres.connect() as connection:
            publish(connection, made.topic, b"waiting", b"at the failover")
        standby.catch_up()
        standby.promote()
        url = standby.database_url(made.name)
        with psycopg.connect(url) as connection:
            publish(connection, made.topic, b"new", b"behind the failover")
        wanted = [message.message_id for message in ledger_of(url)]
        made.topics.wait_delivered([made.topic], wanted)
        relay.stop()
        report = made.topics.check([made.topic], ledger_of(url))
        assert report.committed == BACKLOG + 2 and not report.findings, str(report)


def test_a_failover_that_lost_something_is_refused(
    on_own_postgres: PostgresInstallation, own_servers: OwnServers
) -> None:
    made = on_own_postgres
    with standby_of(own_servers) as standby:
        standby.catch_up()
        standby.cut_off()
        deliver(made)
        standby.promote()
        refuses(relay_of(made, configuration_on(made, standby)), "barrier row", "failed over")


def test_a_failover_that_lost_only_the_last_window_is_refused(
    on_own_postgres: PostgresInstallation, own_servers: OwnServers
) -> None:
    """The barriers of the windows before are there, and vouch for nothing that came later."""
    made = on_own_postgres
    deliver(made)
    with standby_of(own_servers) as standby:
        standby.catch_up()
        standby.cut_off()
        deliver(made)
        standby.promote()
        refuses(relay_of(made, configuration_on(made, standby)), "barrier row", "failed over")
