"""Reads whole topics with librdkafka as a consumer of the user's would, at both isolation levels.

Relies on the broker to say where a partition ends. Promises that a read reaches the end that was
there when it began: a `read_committed` reader waits until every transaction below it has ended.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Literal, cast

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from .checker import Committed, Record, Report, compare
from .waiting import LIMIT_S, wait_until

ID_HEADER = "onecommit-id"
REQUEST_LIMIT_S = LIMIT_S
POLL_S = 0.05
LATE = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._TIMED_OUT,
)
Place = tuple[str, int]


class TopicReader:
    """Reads topics from their beginning; every record that was read stays in `records`."""

    def __init__(
        self,
        servers: str,
        topics: Sequence[str],
        isolation: Literal["read_committed", "read_uncommitted"],
    ) -> None:
        self.records: list[Record] = []
        self.message_ids: set[str] = set()
        self._reached: dict[Place, int] = {}
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "onecommit-test",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "isolation.level": isolation,
                "fetch.wait.max.ms": 20,
                "reconnect.backoff.max.ms": 200,
            }
        )
        self.partitions = [
            place
            for topic in topics
            for place in wait_until(partial(self._partitions_of, topic), f"{topic} is there")
        ]
        self._consumer.assign(
            [TopicPartition(topic, number, OFFSET_BEGINNING) for topic, number in self.partitions]
        )

    def _partitions_of(self, topic: str) -> list[Place]:
        """Nothing while a broker has not heard yet of a topic that was just made."""
        found = self._consumer.list_topics(topic, REQUEST_LIMIT_S).topics[topic]
        if found.error is not None and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return []
        if found.error is not None:
            raise KafkaException(found.error)
        return [(topic, number) for number in found.partitions]

    def ends(self) -> dict[Place, int]:
        """The end of each partition as this reader's isolation shows it now."""
        found = {}
        for topic, number in self.partitions:
            what = f"an end of {topic}[{number}]"
            found[topic, number] = wait_until(partial(self._watermarks, topic, number), what)[1]
        return found

    def _watermarks(self, topic: str, number: int) -> tuple[int, int] | None:
        """Nothing while a broker does not lead yet, or does not answer in time."""
        asked = TopicPartition(topic, number)
        try:
            return self._consumer.get_watermark_offsets(asked, REQUEST_LIMIT_S, cached=False)
        except KafkaException as error:
            if error.args[0].code() not in LATE:
                raise
            return None

    def read_to(self, ends: dict[Place, int], limit_s: float = LIMIT_S) -> list[Record]:
        """Reads until every end is reached; all records read so far."""
        self.read_until(
            lambda: all(self._reached.get(place, 0) >= end for place, end in ends.items()),
            lambda: f"read to {ends}, reached {self._reached}: a transaction is open",
            limit_s,
        )
        return self.records

    def read_ids(self, wanted: Collection[str], limit_s: float = LIMIT_S) -> None:
        """Reads until every one of these message ids was seen."""
        missing = set(wanted)

        def seen() -> bool:
            missing.difference_update(self.message_ids)
            return not missing

        self.read_until(seen, lambda: f"deliver {len(missing)} of {len(wanted)} messages", limit_s)

    def read_until(
        self, done: Callable[[], bool], what: Callable[[], str], limit_s: float = LIMIT_S
    ) -> None:
        """Reads until `done`."""
        end = time.monotonic() + limit_s
        while not done():
            assert time.monotonic() < end, f"after {limit_s:.0f} s still not: {what()}"
            for message in self._consumer.consume(1000, POLL_S):
                self._note(message)

    def _note(self, message: Message) -> None:
        error = message.error()
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if error.retriable() or not error.fatal():
                return  # librdkafka connects again by itself
            raise KafkaException(error)
        assert topic is not None and partition is not None and offset is not None
        if error is not None:
            self._reached[topic, partition] = offset
            return
        record = _record(message, topic, partition, offset)
        self.records.append(record)
        self._reached[topic, partition] = offset + 1
        if record.message_id is not None:
            self.message_ids.add(record.message_id)

    def close(self) -> None:
        """Ends the client."""
        self._consumer.close()


def _record(message: Message, topic: str, partition: int, offset: int) -> Record:
    headers = cast(list[tuple[str, bytes | None]], message.headers() or [])
    ids = [value for name, value in headers if name == ID_HEADER and value is not None]
    message_id = ids[0].decode() if len(ids) == 1 else None
    key, value = _bytes(message.key()), _bytes(message.value())
    return Record(message_id, topic, partition, offset, key, digest_of(value))


def _bytes(part: bytes | str | None) -> bytes | None:
    return part.encode() if isinstance(part, str) else part


def digest_of(value: bytes | None) -> str:
    """What stands for a value in ledger and records: the same as SQL's `md5`."""
    return "" if value is None else hashlib.md5(value, usedforsecurity=False).hexdigest()


def progress_topics(servers: str, namespace: str) -> list[str]:
    """Of an installation with one outbox, its progress topic where it is there; and what an `init`
    has left that was late, and begun anew for another incarnation."""
    topics = AdminClient({"bootstrap.servers": servers}).list_topics(timeout=REQUEST_LIMIT_S).topics
    return [name for name in topics if f".{namespace}." in name and ".progress." in name]


class KafkaTopics:
    """The topics on a Kafka cluster."""

    def __init__(self, servers: str) -> None:
        self.servers = servers

    def configuration(self) -> dict[str, dict[str, str]]:
        """The table that sends messages here."""
        return {"kafka": {"bootstrap.servers": self.servers}}

    def wait_delivered(self, topics: Sequence[str], message_ids: Collection[str]) -> None:
        """Waits until a consumer has seen each of these messages."""
        with closing(TopicReader(self.servers, topics, "read_committed")) as reader:
            reader.read_ids(message_ids)

    def check(self, topics: Sequence[str], committed: Iterable[Committed]) -> Report:
        """Reads the topics at both isolation levels and compares them with the ledger."""
        with (
            closing(TopicReader(self.servers, topics, "read_uncommitted")) as written,
            closing(TopicReader(self.servers, topics, "read_committed")) as visible,
        ):
            ends = written.ends()
            everything = written.read_to(ends)
            return compare(committed, visible.read_to(ends), everything)

    def remove(self, name: str) -> None:
        """Removes all topics with `name` in their names."""
        admin = AdminClient({"bootstrap.servers": self.servers})
        topics = admin.list_topics(timeout=REQUEST_LIMIT_S).topics
        ours = [topic for topic in topics if name in topic]
        for answer in admin.delete_topics(ours).values() if ours else []:
            try:
                answer.result(timeout=REQUEST_LIMIT_S)
            except KafkaException as error:
                # Removed before, which the broker that listed them hears of later.
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
