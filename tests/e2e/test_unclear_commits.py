"""After a commit that may or may not be known, its producer ends no other transaction.

Kafka takes a request that ends a transaction for one that ends whichever is open in the producer's
epoch: a late one would commit half of the next. So a producer whose request was sent twice, or has
no answer, is over; whoever comes after it has another epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from tests.servers import Kafka
from tests.servers.ports import free_port

from .conftest import MakeInstallation
from .installation import PostgresInstallation, Servers
from .kafka_proxy import COMMITS, FENCED, Fault, KafkaProxy
from .test_servers_fail import SOME, wait_more_committed, wait_some_delivered
from .waiting import wait_until

ROUNDS = 3


@pytest.fixture
def proxied() -> Iterator[tuple[Kafka, KafkaProxy]]:
    port = free_port()
    kafka = Kafka(advertised_ports=[port])
    with KafkaProxy(port, kafka.brokers[0].port) as proxy, kafka:
        yield kafka, proxy


@pytest.fixture
def proxy(proxied: tuple[Kafka, KafkaProxy]) -> KafkaProxy:
    return proxied[1]


@pytest.fixture
def installation(
    proxied: tuple[Kafka, KafkaProxy], make_installation: MakeInstallation, servers: Servers
) -> PostgresInstallation:
    made = make_installation(replace(servers, kafka=proxied[0].address))
    made.init()
    return made


def test_a_commit_that_was_sent_twice_can_not_end_the_next_transaction(
    installation: PostgresInstallation, proxy: KafkaProxy
) -> None:
    """librdkafka says OK: it has sent the request again by itself, and had an answer to that."""
    relay = installation.relay()

    def answered(times: int) -> bool:
        return len(proxy.held_answers) >= times

    with installation.postgres.writing(installation.topic) as writers:
        wait_some_delivered(installation)
        for number in range(ROUNDS):
            proxy.plan(Fault.HOLD_FIRST)
            wait_until(
                partial(answered, number + 1),
                "the broker gets the first request in the transaction after",
                explain=lambda: f"{proxy.since_faults()}\n{relay.text()}",
            )
        wait_more_committed(writers)
    installation.finish(relay, at_least=SOME)
    since = proxy.since_faults()
    assert [fault for fault, _ in since] == [Fault.HOLD_FIRST] * ROUNDS
    # It may be sent once more; nothing else comes from that producer.
    assert all(set(requests) == {COMMITS} and len(requests) > 1 for _, requests in since), since
    assert FENCED.issuperset(proxy.held_answers), proxy.held_answers
    assert "was sent more than once" in relay.text(), relay.text()


def test_a_commit_whose_outcome_is_not_known_is_followed_by_no_abort(
    installation: PostgresInstallation, proxy: KafkaProxy
) -> None:
    faults = [Fault.LOSE_REQUESTS, Fault.LOSE_ANSWERS, Fault.SPOIL_ANSWERS]
    relay = installation.relay()
    with installation.postgres.writing(installation.topic) as writers:
        wait_some_delivered(installation)
        proxy.plan(*faults)
        # One producer a shard: who waits for an answer commits nothing else.
        for number in range(installation.outbox.shards):
            relay.wait_for(f"waits, nothing is lost shard={number}.*the outcome is not known")
        wait_until(lambda: len(proxy.since_faults()) == len(faults), "each fault is met")
        wait_more_committed(writers)
    installation.finish(relay, at_least=SOME)
    since = proxy.since_faults()
    assert [fault for fault, _ in since] == faults
    # librdkafka sends it again by itself; nothing else came from that producer.
    assert all(set(requests) == {COMMITS} for _, requests in since), since
