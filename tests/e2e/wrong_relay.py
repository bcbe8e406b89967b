"""A relay in a hundred lines, right by default, with four switches that make it wrong.

It exists to prove that the checker sees what each of the four mistakes does to messages. It is
driven step by step by a test, so every mistake is provoked for certain and not by luck.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from .kafka_topics import ID_HEADER
from .waiting import LIMIT_S

BEFORE_ANY = "3:3:"
WINDOW = """
select id, xid::text, message_id::text, topic, key, value from onecommit.outbox
where pg_visible_in_snapshot(xid, %(this)s::pg_snapshot)
  and not pg_visible_in_snapshot(xid, %(prev)s::pg_snapshot)
order by id
"""
BEHIND_LAST = """
select id, xid::text, message_id::text, topic, key, value from onecommit.outbox
where id > %(last)s order by id
"""
BARRIER = "insert into onecommit.barrier (id, shard, epoch, counter) values (%s, 0, 0, 0)"


@dataclass(frozen=True)
class Bugs:
    """The four mistakes."""

    position_before_commit: bool = False
    id_above_last: bool = False
    no_fence: bool = False
    no_barrier: bool = False


@dataclass(frozen=True)
class Position:
    """What is delivered: everything that `prev` sees; vouched for by the barrier row."""

    prev: str = BEFORE_ANY
    last: int = 0
    barrier: str | None = None


class WrongRelay:
    """One life of a relay; it takes over from the former one when it is made."""

    def __init__(self, database: str, kafka: str, topic: str, bugs: Bugs) -> None:
        self.kafka = kafka
        self.progress_topic = f"{topic}.wrong-progress"
        self.bugs = bugs
        self.connection = psycopg.connect(database, autocommit=True)
        name = f"{topic}.{secrets.token_hex(4)}" if bugs.no_fence else topic
        self.producer = Producer(
            {"bootstrap.servers": kafka, "transactional.id": name, "transaction.timeout.ms": 60000}
        )
        self.producer.init_transactions(LIMIT_S)  # fences the former one, if it has the same name
        self.position = self._committed_position()

    def close(self) -> None:
        """Its connection ends; librdkafka's producer ends when nobody holds it any more."""
        self.connection.close()

    def step(self, before_commit: Callable[[], None] = lambda: None) -> None:
        """Delivers one window; `before_commit` is where a test lets it die or sleep."""
        with self.connection.transaction():
            row = self.connection.execute("select pg_current_snapshot()::text").fetchone()
            assert row is not None
            values = {"this": row[0], "prev": self.position.prev, "last": self.position.last}
            query = BEHIND_LAST if self.bugs.id_above_last else WINDOW
            rows = self.connection.execute(query, values).fetchall()
            barrier = None
            if not self.bugs.no_barrier:
                barrier = str(uuid.uuid4())
                self.connection.execute("set local synchronous_commit = on")
                self.connection.execute(BARRIER, [barrier])
        if not rows:
            return
        last = max(self.position.last, rows[-1][0])
        position = Position(prev=str(row[0]), last=last, barrier=barrier)
        if self.bugs.position_before_commit:
            self.producer.begin_transaction()
            self._produce_progress(position)
            self.producer.commit_transaction(LIMIT_S)
        self.producer.begin_transaction()
        for _, _, message_id, topic, key, value in rows:
            self.producer.produce(topic, value, key, headers=[(ID_HEADER, message_id.encode())])
        if not self.bugs.position_before_commit:
            self._produce_progress(position)
        self.producer.flush(LIMIT_S)
        before_commit()
        self.producer.commit_transaction(LIMIT_S)
        self.position = position

    def _produce_progress(self, position: Position) -> None:
        self.producer.produce(self.progress_topic, json.dumps(position.__dict__).encode())

    def _committed_position(self) -> Position:
        record = self._last_progress()
        if record is None:
            return Position()
        position = Position(**record)
        if position.barrier is not None:
            sql = "select 1 from onecommit.barrier where id = %s"
            kept = self.connection.execute(sql, [position.barrier]).fetchone()
            assert kept is not None, "the barrier row that the progress names is gone"
        return position

    def _last_progress(self) -> dict[str, Any] | None:
        consumer = Consumer(
            {
                "bootstrap.servers": self.kafka,
                "group.id": "onecommit-test",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
            }
        )
        consumer.assign([TopicPartition(self.progress_topic, 0, OFFSET_BEGINNING)])
        last: dict[str, Any] | None = None
        while True:
            message = consumer.poll(LIMIT_S)
            assert message is not None, "the end of the progress topic was not reached"
            error = message.error()
            if error is None:
                last = json.loads(message.value() or b"")
            elif error.code() == KafkaError._PARTITION_EOF:
                consumer.close()
                return last
            else:
                raise KafkaException(error)
