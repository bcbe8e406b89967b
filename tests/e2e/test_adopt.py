"""`onecommit adopt`: how it asks, and what it does about Kafka and ZooKeeper that were replaced."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace
from subprocess import CompletedProcess

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from .adoption import Adoption, long_leases
from .command_line import CONFIGURATION, FAILED, REFUSED, RelayProcess, was_late
from .conftest import MakeInstallation, OwnServers
from .installation import PARTITIONS, PostgresInstallation, Servers, Table
from .kafka_topics import REQUEST_LIMIT_S, KafkaTopics, progress_topics
from .postgres_outbox import PostgresOutbox, url_of
from .waiting import wait_until

BACKLOG = 50
MORE = 7


@pytest.fixture
def delivered(installation: PostgresInstallation) -> PostgresInstallation:
    """An installation that has delivered and pruned, with no relay now."""
    installation.deliver(BACKLOG)
    return installation


def state(made: PostgresInstallation) -> object:
    """All that an adoption writes into the database, but for the beats of leases."""
    with made.postgres.connect() as connection:
        return [
            connection.execute(query).fetchall()
            for query in (
                "select * from onecommit.installation",
                "select * from onecommit.shard order by 1",
                "select * from onecommit.barrier order by 1",
                "select shard, owner, epoch from onecommit.lease order by 1",
                "select * from onecommit.outbox order by id",
            )
        ]


def restored(made: PostgresInstallation) -> None:
    """As after a restore: what the progress vouches for is not there; all waits that is there."""
    made.outbox.burst(made.topic, MORE)
    with made.postgres.connect() as connection:
        connection.execute("delete from onecommit.barrier")


def test_where_all_is_as_it_was_there_is_nothing_to_adopt(delivered: PostgresInstallation) -> None:
    before = state(delivered)
    said = delivered.command_line.succeed("adopt", "main")
    assert "nothing to adopt" in said
    delivered.command_line.succeed("adopt", "main", "--yes")
    assert state(delivered) == before
    delivered.outbox.burst(delivered.topic, MORE)
    delivered.finish(delivered.relay(), at_least=BACKLOG + MORE)


def test_nobody_can_be_asked(delivered: PostgresInstallation) -> None:
    restored(delivered)
    before = state(delivered)
    done = delivered.command_line.reached("adopt", "main")
    assert done.returncode == CONFIGURATION and "--yes" in done.stderr, done
    assert "barrier row" in done.stdout and f"delivers all {MORE} messages" in done.stdout
    done = delivered.command_line.reached("adopt", "other", "--yes")
    assert done.returncode == CONFIGURATION and "no participant of this name" in done.stderr, done
    assert state(delivered) == before


def test_the_answer_of_a_person_decides(delivered: PostgresInstallation) -> None:
    restored(delivered)
    before = state(delivered)
    for answer in ("", "yes", "mai"):
        done = delivered.command_line.answered(answer, "adopt", "main")
        assert done.returncode == FAILED, done
        assert "barrier row" in done.stdout and "nothing was changed" in done.stderr
        assert state(delivered) == before
    done = delivered.command_line.answered("main", "adopt", "main")
    assert done.returncode == 0, done
    assert "Type the participant's name (main)" in done.stderr and "adopted" in done.stdout
    delivered.finish(delivered.relay(), at_least=BACKLOG + MORE)


def test_no_relay_may_live(delivered: PostgresInstallation) -> None:
    delivered.configure(other=long_leases(delivered))
    relay = delivered.relay()
    relay.wait_for("delivers", times=2)
    # Only a look at the installation would tell it, which it takes when it takes a shard.
    delivered.outbox.execute("update onecommit.installation set delivery_id = 'another'")
    done = delivered.command_line.reached("adopt", "main", "--yes")
    assert done.returncode == REFUSED and relay.id() in done.stderr, done
    assert "stop them" in done.stderr
    relay.kill()


@pytest.mark.parametrize(
    "point", ["outbox.claim.before_commit", "outbox.adopt.before_commit", "delivery.commit.before"]
)
def test_one_that_was_paused_does_no_harm(delivered: PostgresInstallation, point: str) -> None:
    """Another one adopts meanwhile, and a relay delivers; then the first goes on."""
    restored(delivered)
    first = paused_at(delivered, point)
    delivered.command_line.succeed("adopt", "main", "--yes")
    relay = delivered.relay()
    delivered.wait_delivered()
    delivered.wait_pruned()
    # While it lives it may lose its lease and take it again, on a busy machine.
    relay.stop()
    before = state(delivered)
    first.resume()
    assert first.wait() in (1, 3), first.text()
    assert state(delivered) == before
    delivered.outbox.burst(delivered.topic, MORE)
    delivered.finish(delivered.relay(), at_least=BACKLOG + 2 * MORE)


def paused_at(made: PostgresInstallation, point: str) -> RelayProcess:
    """An adoption that stands there; begun again where a server was late before it got there."""
    words = ("adopt", "main", "--yes")
    begun = [made.command_line.relay(f"{point}=stop", words=words)]

    def stands() -> bool:
        if not begun[-1].running:
            done = CompletedProcess(words, begun[-1].wait(), stderr=begun[-1].text())
            assert was_late(done), done
            begun.append(made.command_line.relay(f"{point}=stop", words=words))
        return point in begun[-1].hit()

    wait_until(stands, f"an adoption stands at {point}", explain=lambda: begun[-1].text())
    return begun[-1]


def test_a_progress_topic_that_was_deleted(delivered: PostgresInstallation) -> None:
    kafka, name = delivered.servers.kafka, delivered.name
    admin = AdminClient({"bootstrap.servers": kafka})
    topic = delivered.progress_topic()
    for made_anew in (False, True):
        delivered.outbox.burst(delivered.topic, MORE)
        admin.delete_topics([topic])[topic].result(timeout=REQUEST_LIMIT_S)
        wait_until(lambda: topic not in progress_topics(kafka, name), "the topic is gone")
        adoption = Adoption(delivered)
        if made_anew:
            delivered.init()
            adoption.refused("progress is gone")
        else:
            relay = delivered.relay()
            relay.wait_for("or go on without it: `onecommit adopt`")
            relay.stop()
        said = adoption.adopt()
        assert said["has_progress_topic"] == made_anew
        assert said["messages"] == said["twice_at_most"] == MORE
        relay = delivered.relay()
        delivered.wait_delivered()
        delivered.wait_pruned()
        delivered.finish(relay, at_least=BACKLOG + MORE)


def test_a_progress_topic_that_was_set_back(delivered: PostgresInstallation) -> None:
    """The database is ahead of it: all that is still there may have been delivered."""
    kafka, made = delivered.servers.kafka, delivered
    topic = made.progress_topic()
    old = last_records(kafka, topic, made.outbox.shards)
    relay = made.relay()
    for _ in range(3):
        made.outbox.burst(made.topic, 20 * BACKLOG)
    made.wait_delivered()
    barriers = [json.loads(value[1:])["barrier"] for _, value in old.values()]

    def are_gone() -> bool:
        with made.postgres.connect() as connection:
            sql = "select 1 from onecommit.barrier where id = any(%s::uuid[])"
            return connection.execute(sql, (barriers,)).fetchone() is None

    wait_until(are_gone, "the barriers that the old records name are pruned")
    relay.kill()
    producer = Producer({"bootstrap.servers": kafka})
    for partition, (key, value) in old.items():
        producer.produce(topic, value, key=key, partition=partition)
    assert producer.flush(REQUEST_LIMIT_S) == 0
    adoption = Adoption(made)
    adoption.refused("barrier row")
    said = adoption.adopt()
    assert said["twice_at_most"] == said["messages"]
    report = adoption.deliver(said, made.outbox.ledger())
    assert report.counts().get("duplicate", 0) == said["messages"]


def last_records(kafka: str, topic: str, partitions: int) -> dict[int, tuple[bytes, bytes]]:
    """The last committed record of each partition, key and value."""
    found = {}
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "onecommit-test",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    with closing(consumer):
        for partition in range(partitions):
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
            while True:
                message = consumer.poll(REQUEST_LIMIT_S)
                assert message is not None
                error = message.error()
                if error is None:
                    found[partition] = (message.key() or b"", message.value() or b"")
                elif error.code() == KafkaError._PARTITION_EOF:
                    break
    return found


@pytest.mark.parametrize("record", [b"", b"\x01{damaged", b"\x09of a later release"])
def test_a_progress_that_can_not_be_read(delivered: PostgresInstallation, record: bytes) -> None:
    """What a later release wrote is that one's: there the way on is another one."""
    delivered.outbox.burst(delivered.topic, MORE)
    kafka = delivered.servers.kafka
    topic = delivered.progress_topic()
    producer = Producer({"bootstrap.servers": kafka})
    for partition in range(delivered.outbox.shards):
        producer.produce(topic, record, key=f"main/{partition}".encode(), partition=partition)
    assert producer.flush(REQUEST_LIMIT_S) == 0
    adoption = Adoption(delivered)
    if record[:1] == b"\x09":
        done = adoption.command_line.reached("adopt", "main", "--yes")
        assert done.returncode == REFUSED and "later release" in done.stderr, done
        return
    relay = delivered.relay()
    assert relay.wait() == 4 and "onecommit adopt" in relay.text(), relay.text()
    said = adoption.adopt()
    assert said["messages"] == said["twice_at_most"] == MORE
    delivered.finish(delivered.relay(), at_least=BACKLOG + MORE)


def test_another_kafka_cluster(delivered: PostgresInstallation, own_servers: OwnServers) -> None:
    delivered.outbox.burst(delivered.topic, MORE)
    address = own_servers.kafka.address
    table: Table = {"bootstrap.servers": address}
    adoption = Adoption(delivered, delivered.configure("other.toml", {"kafka": table}))
    adoption.refused("Kafka cluster", "expected", "found")
    said = adoption.adopt()
    assert said["delivery_id"] != said["noted_delivery_id"]
    assert said["messages"] == said["twice_at_most"] == MORE
    made = ["--topic", delivered.topic, "--partitions", str(PARTITIONS)]
    adoption.command_line.succeed("init", *made)
    delivered.topics = KafkaTopics(address)
    report = adoption.deliver(said, delivered.outbox.ledger()[-MORE:])
    assert not report.findings, str(report)
    # Whoever still has the old address is refused now.
    Adoption(delivered).refused("Kafka cluster")


@pytest.mark.parametrize("other", [False, True])
def test_zookeeper(
    make_installation: MakeInstallation, own_servers: OwnServers, servers: Servers, other: bool
) -> None:
    """It comes back empty, or with the same namespace of another installation."""
    zookeeper = own_servers.zookeeper
    made = make_installation(replace(servers, zookeeper=zookeeper.address), zookeeper=True)
    made.init()
    made.deliver(BACKLOG)
    zookeeper.kill()
    shutil.rmtree(zookeeper.folder / "data")
    zookeeper.start()
    second = PostgresOutbox(made.servers.postgres, f"{made.name}_second")
    try:
        if other:
            url = url_of(made.servers.postgres, second.name)
            table: Table = {"url": url, "outbox": True, "shards": 2}
            tables = {"participants.main": table, **long_leases(made)}
            others = Adoption(made, made.configure("second.toml", tables))
            others.command_line.succeed("init")
            living = others.relay()
            living.wait_for("delivers", times=2)
            adoption = Adoption(made, made.configure("first.toml"))
            done = adoption.command_line.reached("adopt", "main", "--yes")
            assert done.returncode == REFUSED and living.id() in done.stderr, done
            living.stop()
        adoption = Adoption(made, made.configure("first.toml"))
        relay = adoption.relay()
        assert relay.wait() == 4, relay.text()
        assert "onecommit adopt" in relay.text()
        said = adoption.adopt()
        assert said["zookeeper"] == ("other" if other else "unknown")
        assert said["messages"] == said["twice_at_most"] == 0
        made.outbox.burst(made.topic, MORE)
        report = adoption.deliver(said, made.outbox.ledger())
        assert not report.findings, str(report)
    finally:
        second.drop()
