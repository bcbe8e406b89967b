"""What one relay does with messages: which arrive, how, and what it takes to carry them."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from typing import Any

import psycopg
import pytest

from .installation import PARTITIONS, PostgresInstallation
from .kafka_topics import TopicReader
from .postgres_outbox import publish
from .waiting import wait_until

BACKLOG = 1200
MIB = 1024 * 1024


def shard_of(key: bytes) -> int:
    """Which of two shards: the first byte of the key's SHA-256 is its slot."""
    return hashlib.sha256(key).digest()[0] * 2 // 256


def key_in(shard: int, place: int = 0) -> bytes:
    keys = [key for key in (f"key-{n}".encode() for n in range(100)) if shard_of(key) == shard]
    return keys[place]


def commit(installation: PostgresInstallation, topic: str, *keys: bytes) -> None:
    with installation.postgres.connect() as connection:
        for key in keys:
            publish(connection, topic, key, b"value")


def test_what_was_rolled_back_is_never_even_sent(installation: PostgresInstallation) -> None:
    relay = installation.relay()
    installation.outbox.burst(installation.topic, BACKLOG)
    with installation.outbox.writing(installation.topic):
        installation.wait_delivered()
    installation.finish(relay, at_least=BACKLOG)
    committed = {message.message_id for message in installation.outbox.ledger()}
    kafka = installation.servers.kafka
    with closing(TopicReader(kafka, [installation.topic], "read_uncommitted")) as reader:
        reader.read_to(reader.ends())
        assert reader.message_ids <= committed


def test_a_transaction_that_was_prepared_is_delivered_when_it_commits(
    installation: PostgresInstallation,
) -> None:
    """Its ids are older than everything that was delivered meanwhile, by two relays."""
    topic = installation.topic
    with psycopg.connect(installation.database_url, autocommit=True) as connection:
        for name in ("kept", "given up"):
            connection.execute("begin")
            publish(connection, topic, name.encode(), b"prepared")
            connection.execute(f"prepare transaction '{installation.name} {name}'".encode())
        for _ in range(2):
            relay = installation.relay()
            commit(installation, topic, b"a", b"b")
            installation.wait_delivered()
            relay.kill()
        relay = installation.relay()
        commit(installation, topic, b"a")
        installation.wait_delivered()
        connection.execute(f"commit prepared '{installation.name} kept'".encode())
        connection.execute(f"rollback prepared '{installation.name} given up'".encode())
    installation.finish(relay, at_least=6)


# From Kafka's own UtilsTest: what its Java producer makes of these keys.
MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "abc": 479470107,
}
CONTENTS = """
insert into onecommit.outbox (topic, key, value, partition, header_names, header_values)
values (%(topic)s, %(key)s, %(value)s, %(partition)s, %(names)s, %(values)s)
"""


def consume(installation: PostgresInstallation, messages: int) -> list[dict[str, Any]]:
    words = ["--json", "consume", installation.topic, "--from-beginning", "--max", str(messages)]
    printed = installation.command_line.succeed(*words)
    return [json.loads(line) for line in printed.splitlines()]


def test_every_part_of_a_message_arrives_and_keys_choose_partitions_as_in_java(
    installation: PostgresInstallation,
) -> None:
    empty: dict[str, Any] = dict.fromkeys(["key", "value", "partition", "names", "values"])
    sent = [
        {**empty, "key": b""},
        {**empty, "key": b"h", "names": ["b", "ä", "b"], "values": [b"1", None, b""]},
        {**empty, "key": b"\xff\x00", "value": b"\x00\xfe", "partition": 2},
        *({**empty, "key": key.encode()} for key in MURMUR2),
        *({**empty, "value": f"keyless {number}".encode()} for number in range(20)),
    ]
    with installation.postgres.connect() as connection:
        before = connection.execute("select extract(epoch from now()) * 1000").fetchone()
        for message in sent:
            connection.execute(CONTENTS, {"topic": installation.topic, **message})
    relay = installation.relay()
    found = consume(installation, len(sent))
    relay.stop()

    by_key = {message.get("key_hex") or message["key"]: message for message in found}
    assert by_key[""]["value"] is None
    assert by_key["h"]["headers"][:3] == [["b", "1"], ["ä", None], ["b", ""]]
    assert by_key["ff00"]["value_hex"] == "00fe"
    assert by_key["ff00"]["partition"] == 2
    for key, murmur2 in MURMUR2.items():
        assert by_key[key]["partition"] == (murmur2 & 0x7FFFFFFF) % PARTITIONS, key
    keyless = [message for message in found if "key_hex" not in message and message["key"] is None]
    assert [message["value"] for message in keyless] == [f"keyless {n}" for n in range(20)]
    assert len({message["partition"] for message in keyless}) == 1
    ids = [
        value for message in found for name, value in message["headers"] if name[:9] == "onecommit"
    ]
    assert len(set(ids)) == len(sent)
    assert before is not None
    assert all(message["timestamp_ms"] >= int(str(before[0]).split(".")[0]) for message in found)


def test_memory_is_bounded_whatever_the_sizes(installation: PostgresInstallation) -> None:
    messages, value_bytes = 200, 900_000
    installation.outbox.burst(installation.topic, messages, value_bytes)
    relay = installation.relay()
    installation.wait_delivered()
    peak = relay.memory_peak_bytes()
    assert peak < 128 * MIB, f"{peak / MIB:.0f} MiB for {messages * value_bytes / MIB:.0f} MiB"
    installation.finish(relay, at_least=messages)


def test_pruning_blocks_no_writer_and_leaves_the_table_empty(
    installation: PostgresInstallation,
) -> None:
    """The relay is paused with its deletions done and not committed: writers go on."""
    installation.outbox.burst(installation.topic, BACKLOG)
    pruning = "outbox.prune.before_commit"
    relay = installation.relay(f"{pruning}=stop@1")
    relay.wait_hit(pruning)
    with installation.postgres.writing(installation.topic) as writers:
        wait_until(lambda: writers.committed > 50, "writers go on while rows are being removed")
    relay.resume()
    installation.wait_delivered()
    installation.wait_pruned()
    installation.finish(relay, at_least=BACKLOG + 50)


def test_status_shows_what_waits_and_who_delivers(installation: PostgresInstallation) -> None:
    installation.outbox.burst(installation.topic, BACKLOG)
    before = installation.command_line.status()
    assert sum(shard["backlog_messages"] for shard in before) == BACKLOG
    assert all(
        shard["owner"] is None and shard["oldest_undelivered_age_ms"] > 0 for shard in before
    )
    assert "messages wait" in installation.command_line.succeed("status")

    relay = installation.relay()
    installation.wait_delivered()

    def at_rest() -> bool:
        return all(
            shard["owner"] and shard["backlog_messages"] == 0
            for shard in installation.command_line.status()
        )

    wait_until(at_rest, "nothing waits, and every shard has its relay")
    assert "nothing waits" in installation.command_line.succeed("status")
    relay.stop()
    after = installation.command_line.status()
    assert [shard["owner"] for shard in after] == [None, None]
    assert all(
        shard["position"] != old["position"] for shard, old in zip(after, before, strict=True)
    )


@pytest.mark.parametrize("place", ["relay.batch.sent", "delivery.commit.before"])
def test_sigterm_finishes_the_batch_in_flight(
    place: str, installation: PostgresInstallation
) -> None:
    """Told to stop between sending and committing, it commits what it sent and exits with 0."""
    # Far more than it has begun when it hears of it.
    installation.outbox.burst(installation.topic, 10 * BACKLOG)
    relay = installation.relay(f"{place}=stop@3")
    relay.wait_hit(place)
    relay.terminate()
    relay.resume()
    assert relay.wait() == 0, relay.text()
    kafka, topics = installation.servers.kafka, [installation.topic]
    with (
        closing(TopicReader(kafka, topics, "read_uncommitted")) as written,
        closing(TopicReader(kafka, topics, "read_committed")) as visible,
    ):
        ends = written.ends()
        written.read_to(ends)
        visible.read_to(ends)
        assert 0 < len(visible.message_ids) < 10 * BACKLOG
        assert visible.message_ids == written.message_ids
    installation.finish(installation.relay(), at_least=10 * BACKLOG)
