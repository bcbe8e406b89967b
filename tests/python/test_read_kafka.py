"""Reading committed messages from Kafka, where a relay and others have brought them."""

from __future__ import annotations

import os
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onecommit
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from onecommit import Message, Outbox

from .conftest import init

MODULE = [sys.executable, "-m", "onecommit"]
KAFKA = "ONECOMMIT_TEST_KAFKA"
# How long a message may take that is on its way: far longer than it does.
LIMIT_MS = 120_000
REQUEST_LIMIT_S = 120


@pytest.fixture(scope="module")
def servers() -> str:
    found = os.environ.get(KAFKA)
    if not found:
        pytest.fail(f"{KAFKA} is not set: run the tests by `python -m tests.servers run -- ...`")
    return found


@pytest.fixture
def topic(servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A topic of its own, and a folder whose configuration leads to it."""
    name = f"t{secrets.token_hex(5)}"
    monkeypatch.chdir(tmp_path)
    Path("onecommit.toml").write_text(
        f'namespace = "{name}"\n[kafka]\n"bootstrap.servers" = "{servers}"\n'
    )
    init("--topic", f"{name}.t", "--partitions", "1")
    yield f"{name}.t"
    admin = AdminClient({"bootstrap.servers": servers})
    ours = [found for found in admin.list_topics(timeout=REQUEST_LIMIT_S).topics if name in found]
    for answer in admin.delete_topics(ours).values():
        answer.result(timeout=REQUEST_LIMIT_S)


def producer(servers: str, topic: str) -> Producer:
    """Somebody else's, with transactions."""
    made = Producer({"bootstrap.servers": servers, "transactional.id": topic})
    made.init_transactions(REQUEST_LIMIT_S)
    return made


def write(made: Producer, topic: str, *keys: str, commit: bool = True) -> None:
    made.begin_transaction()
    for key in keys:
        made.produce(topic, key=key)
    made.flush(REQUEST_LIMIT_S)
    if commit:
        made.commit_transaction(REQUEST_LIMIT_S)
    else:
        made.abort_transaction(REQUEST_LIMIT_S)


def keys(messages: Any) -> list[bytes | None]:
    return [message.key for message in messages]


def test_what_a_relay_brought_comes_through_in_all_parts(topic: str) -> None:
    headers = [("a", b"\xff"), ("a", None)]
    conn = sqlite3.connect(Path("onecommit-data", "main.db"), timeout=120)
    with conn:
        published = Outbox().publish_many(
            conn,
            [Message(topic, key="", value={"total": 100}, headers=headers), Message(topic)],
        )
    conn.close()
    relay = subprocess.Popen([*MODULE, "relay"], stderr=subprocess.DEVNULL)
    try:
        received = list(onecommit.read(topic, from_beginning=True, limit=2, timeout_ms=LIMIT_MS))
    finally:
        relay.kill()
        relay.wait()
    assert [message.id for message in received] == published
    assert [(one.topic, one.partition, one.key, one.value) for one in received] == [
        (topic, 0, b"", b'{"total":100}'),
        (topic, 0, None, None),
    ]
    assert [header for header in received[0].headers if header[0] == "a"] == headers
    assert received[0].timestamp_ms > 1_500_000_000_000
    assert received[0].offset < received[1].offset


def test_only_what_is_committed_is_read(servers: str, topic: str) -> None:
    made = producer(servers, topic)
    write(made, topic, "aborted", commit=False)
    write(made, topic, "committed")
    write(made, topic, "aborted", commit=False)
    made.begin_transaction()
    made.produce(topic, key="open")
    made.flush(REQUEST_LIMIT_S)
    messages = onecommit.read(topic, from_beginning=True, limit=2, timeout_ms=LIMIT_MS)
    assert next(messages).key == b"committed"
    made.commit_transaction(REQUEST_LIMIT_S)
    assert keys(messages) == [b"open"]


def test_without_a_group_it_begins_now(servers: str, topic: str) -> None:
    made = producer(servers, topic)
    write(made, topic, "1")
    assert keys(onecommit.read(topic, from_beginning=True, limit=1, timeout_ms=LIMIT_MS)) == [b"1"]
    messages = onecommit.read(topic, limit=1, timeout_ms=LIMIT_MS)
    write(made, topic, "2")
    assert keys(messages) == [b"2"]


def test_a_group_goes_on_where_it_was(servers: str, topic: str) -> None:
    made = producer(servers, topic)
    write(made, topic, *"01234")

    def read(limit: int, **parts: Any) -> onecommit.Messages:
        return onecommit.read(topic, group=topic, limit=limit, timeout_ms=LIMIT_MS, **parts)

    assert keys(read(2, from_beginning=True)) == [b"0", b"1"]
    with read(2) as left_early:
        assert next(left_early).key == b"2"
    assert keys(read(3)) == [b"2", b"3", b"4"]
    write(made, topic, "5")
    assert keys(read(1)) == [b"5"]


def test_a_topic_that_is_not_there(topic: str) -> None:
    absent = f"{topic}.absent"
    with pytest.raises(onecommit.ConfigurationError, match="no such topic") as caught:
        onecommit.read(absent)
    assert caught.value.context["topic"] == absent
