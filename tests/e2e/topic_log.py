"""Reads the embedded topic log's file with Python's own SQLite, as the checker needs it."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from .checker import Committed, Record, Report, compare
from .kafka_topics import ID_HEADER, digest_of
from .waiting import LIMIT_S, wait_until

MESSAGES = """
select t.name, m.partition, m.offset, m.key, m.value, m.headers
from message m join topic t on t.id = m.topic order by m.topic, m.offset
"""
NULL_LENGTH = 0xFFFFFFFF


class TopicLog:
    """The topics of one embedded installation."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "topics.db"

    def configuration(self) -> dict[str, dict[str, str]]:
        """Without `[kafka]` messages go to the topic log."""
        return {}

    def records(self, topics: Sequence[str]) -> list[Record]:
        """All messages of these topics."""
        with closing(sqlite3.connect(self.path, timeout=LIMIT_S)) as connection:
            rows = connection.execute(MESSAGES).fetchall()
        return [
            Record(_message_id(headers), topic, partition, offset, key, digest_of(value))
            for topic, partition, offset, key, value, headers in rows
            if topic in topics
        ]

    def wait_delivered(self, topics: Sequence[str], message_ids: Collection[str]) -> None:
        """Waits until each of these messages is in the log."""

        def all_there() -> bool:
            return {record.message_id for record in self.records(topics)} >= set(message_ids)

        wait_until(all_there, f"{len(message_ids)} messages in the topic log")

    def check(self, topics: Sequence[str], committed: Iterable[Committed]) -> Report:
        """Compares with the ledger. What is not committed is in no one's sight here."""
        records = self.records(topics)
        return compare(committed, records, records)

    def remove(self, name: str) -> None:
        """The folder goes with the test."""


def _message_id(headers: bytes | None) -> str | None:
    """The headers are a version byte, then names and values, each behind its length."""
    rest = (headers or b"\x01")[1:]
    parts: list[bytes | None] = []
    while rest:
        length = int.from_bytes(rest[:4], "big")
        rest = rest[4:]
        if length == NULL_LENGTH:
            parts.append(None)
        else:
            parts.append(rest[:length])
            rest = rest[length:]
    ids = [
        value
        for name, value in zip(parts[::2], parts[1::2], strict=True)
        if name == ID_HEADER.encode()
    ]
    return ids[0].decode() if len(ids) == 1 and ids[0] is not None else None
