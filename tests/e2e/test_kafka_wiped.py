"""A Kafka that was wiped, and is another cluster at the same address: nothing of ours is made
there, a relay says why it does not deliver, and `onecommit adopt` is the way on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from confluent_kafka.admin import AdminClient

from tests.servers import Kafka

from .adoption import Adoption
from .command_line import REFUSED
from .conftest import MakeInstallation
from .installation import PARTITIONS, Servers
from .kafka_topics import REQUEST_LIMIT_S

BACKLOG = 50
MORE = 7


@pytest.fixture
def own_kafka() -> Iterator[Kafka]:
    """A broker that the test may wipe."""
    with Kafka() as own:
        yield own


@pytest.mark.parametrize("under", ["no relay", "a relay at work"])
def test_a_kafka_wiped_behind_the_same_address_is_refused(
    own_kafka: Kafka, make_installation: MakeInstallation, servers: Servers, under: str
) -> None:
    made = make_installation(replace(servers, kafka=own_kafka.address))
    made.init()
    made.outbox.burst(made.topic, BACKLOG)
    relay = made.relay()
    made.wait_delivered()
    made.wait_pruned()
    if under == "no relay":
        relay.stop()
    own_kafka.wipe()
    made.outbox.burst(made.topic, MORE)
    if under == "no relay":
        relay = made.relay()
    assert relay.wait() == 4, relay.text()
    said = relay.text().splitlines()[-1]
    assert "Kafka cluster" in said and "another one" in said, said

    done = made.command_line.reached("init")
    assert done.returncode == REFUSED and "onecommit adopt main" in done.stderr, done
    admin = AdminClient({"bootstrap.servers": own_kafka.address})
    there = admin.list_topics(timeout=REQUEST_LIMIT_S).topics
    assert not [name for name in there if made.name in name]

    adoption = Adoption(made)
    said_by_adopt = adoption.adopt()
    assert said_by_adopt["messages"] == said_by_adopt["twice_at_most"] == MORE
    topic = ["--topic", made.topic, "--partitions", str(PARTITIONS)]
    made.command_line.succeed("init", *topic)
    report = adoption.deliver(said_by_adopt, made.outbox.ledger()[-MORE:])
    assert not report.findings, str(report)
