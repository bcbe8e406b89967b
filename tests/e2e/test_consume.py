"""`onecommit consume` on Kafka: groups, and a broker that goes away and comes back."""

from __future__ import annotations

import signal
from contextlib import closing

import pytest
from confluent_kafka import Consumer, TopicPartition

from .conftest import MakeInstallation, OwnServers
from .consume_process import consuming, id_of
from .installation import PARTITIONS, Installation, PostgresInstallation, Servers, Table
from .waiting import LIMIT_S

SOME = 40
AWAY = "Kafka can't be reached"


def consume(installation: Installation, *words: str) -> list[str]:
    """The ids that a run prints which ends by itself."""
    printed = installation.command_line.succeed("--json", "consume", installation.topic, *words)
    return [id_of(line) for line in printed.splitlines()]


def committed(installation: Installation) -> list[str]:
    return sorted(message.message_id for message in installation.outbox.ledger())


@pytest.mark.parametrize("group", [[], ["--group", "g"]], ids=["alone", "in a group"])
def test_it_goes_on_when_the_broker_was_away(
    make_installation: MakeInstallation, servers: Servers, own_servers: OwnServers, group: list[str]
) -> None:
    kafka = own_servers.kafka
    installation = make_installation(Servers(servers.postgres, kafka.address, servers.zookeeper))
    installation.init()
    installation.outbox.burst(installation.topic, SOME)
    relay = installation.relay()
    # A member that is away for longer begins again where its group's position was stored.
    table: Table = {"bootstrap.servers": kafka.address, "session.timeout.ms": "300000"}
    installation.configure(other={"kafka": table})
    words = ["--from-beginning", "--max", str(2 * SOME), *group]
    with consuming(installation, *words) as consumer:
        consumer.wait(lambda: len(consumer.ids()) == SOME, "the first are read")
        before = consumer.text()
        kafka.kill()
        consumer.wait(lambda: AWAY in consumer.text(), "it says that Kafka is away")
        installation.outbox.burst(installation.topic, SOME)
        # On a busy machine Kafka may have been away before.
        assert consumer.text()[len(before) :].count(AWAY) <= 1
        kafka.start()
        assert consumer.process.wait(LIMIT_S) == 0, consumer.text()
        assert sorted(consumer.ids()) == committed(installation), "each is read, and once"
    relay.stop()


def stored(installation: PostgresInstallation, group: str) -> list[int]:
    """A group's position in each partition, as Kafka keeps it."""
    servers = installation.servers.kafka
    with closing(Consumer({"bootstrap.servers": servers, "group.id": group})) as asking:
        asked = [TopicPartition(installation.topic, number) for number in range(PARTITIONS)]
        return [found.offset for found in asking.committed(asked, LIMIT_S)]


def test_a_group_goes_on_where_it_was(installation: PostgresInstallation) -> None:
    group = ["--group", f"{installation.name}.g"]
    installation.outbox.burst(installation.topic, SOME)
    relay = installation.relay()
    first = consume(installation, *group, "--from-beginning", "--max", "15")
    # Behind its end it doesn't matter where a group that never was would begin.
    rest = consume(installation, *group, "--max", str(SOME - 15))
    assert sorted(first + rest) == committed(installation)
    relay.stop()


def test_a_new_group_begins_where_the_topic_ends_at_its_start(
    installation: PostgresInstallation,
) -> None:
    group = ["--group", f"{installation.name}.g"]
    installation.outbox.burst(installation.topic, SOME)
    relay = installation.relay()
    installation.wait_delivered()
    before = committed(installation)
    with consuming(installation, *group) as consumer:
        consumer.wait(lambda: min(stored(installation, group[1])) >= 0, "its position is stored")
        # Told to end, it leaves the group, and the next one need not wait for its session's end.
        consumer.process.signal(signal.SIGTERM)
        consumer.process.wait(LIMIT_S)
    assert consumer.ids() == []
    installation.outbox.burst(installation.topic, SOME)
    late = consume(installation, *group, "--max", str(SOME))
    assert sorted(before + late) == committed(installation)
    relay.stop()
