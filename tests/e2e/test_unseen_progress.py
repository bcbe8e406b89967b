"""Kafka confirms a commit before everybody sees it: what is pruned by then is no lost database."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from .installation import PostgresInstallation
from .kafka_topics import REQUEST_LIMIT_S
from .test_relay import commit, key_in
from .waiting import wait_until

TOO_LONG_MS = 600_000


@pytest.fixture
def its_progress(installation: PostgresInstallation) -> str:
    return installation.progress_topic()


def hold_back(installation: PostgresInstallation, topic: str, partition: int) -> Producer:
    """Who reads what is committed there stays in front of this open transaction."""
    producer = Producer(
        {
            "bootstrap.servers": installation.servers.kafka,
            "transactional.id": f"{installation.name}.holds-back",
            "transaction.timeout.ms": TOO_LONG_MS,
        }
    )
    producer.init_transactions(REQUEST_LIMIT_S)
    producer.begin_transaction()
    reports: list[object] = []
    producer.produce(
        topic,
        b"never committed",
        b"foreign",
        partition=partition,
        on_delivery=lambda error, _message: reports.append(error),
    )
    producer.flush(REQUEST_LIMIT_S)
    assert reports == [None]
    return producer


def barriers(installation: PostgresInstallation) -> set[object]:
    with installation.postgres.connect() as connection:
        query = "select id from onecommit.barrier where shard = 0"
        return {row[0] for row in connection.execute(query).fetchall()}


def test_progress_that_is_committed_and_not_to_be_seen_yet_is_waited_for(
    installation: PostgresInstallation, its_progress: str
) -> None:
    """As when the coordinator dies between its answer to a commit and the commit's markers."""
    # If it began anew it would wait behind the open transaction, too.
    installation.relay_settings |= {"request_timeout_ms": 60_000, "lease_timeout_ms": 60_000}
    installation.configure()
    first = installation.relay()
    commit(installation, installation.topic, key_in(0))
    installation.wait_delivered()
    installation.wait_pruned()
    before = barriers(installation)
    hold = hold_back(installation, its_progress, partition=0)
    commit(installation, installation.topic, key_in(0))
    installation.wait_delivered()
    what = "the seen progress' barrier is gone"
    wait_until(lambda: not before & barriers(installation), what, explain=first.text)
    first.kill()

    second = installation.relay()
    second.wait_for("a transaction stays open in the progress topic")
    assert "delivers shard=0" not in second.text(), second.text()
    commit(installation, installation.topic, key_in(0), key_in(1))
    hold.abort_transaction(REQUEST_LIMIT_S)
    installation.finish(second, at_least=4)
