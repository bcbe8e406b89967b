"""An application's SQLite file: writers, and the ledger that they keep as they publish.

Opened with Python's own SQLite, while relays of other processes use theirs. There is one writer at
a time, so the place of a message is its id in the outbox.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from .checker import Committed
from .postgres_outbox import KEYS
from .waiting import LIMIT_S, wait_until

SCHEMA = """
create table ledger (
  message_id text primary key, topic text not null, key blob, digest text not null,
  place integer not null)
"""
INSERT = "insert into onecommit_outbox (message_id, topic, key, value) values (?, ?, ?, ?)"
ENTER = "insert into ledger (message_id, topic, key, digest, place) values (?, ?, ?, ?, ?)"


class SqliteOutbox:
    """One file of the test's own."""

    shards = 1
    barriers = "onecommit_barrier"
    ids_from_a_million = "insert into sqlite_sequence values ('onecommit_outbox', 1000000)"

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.db"
        self.url = f"sqlite:///{self.path}"
        with closing(self.connect()) as connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute(SCHEMA)

    def connect(self) -> sqlite3.Connection:
        """A connection in which transactions are begun by hand."""
        return sqlite3.connect(self.path, timeout=LIMIT_S, isolation_level=None)

    def execute(self, statement: str) -> None:
        """Changes the file by hand."""
        with closing(self.connect()) as connection:
            connection.execute(statement)

    def ledger(self) -> list[Committed]:
        """What the file holds as committed."""
        with closing(self.connect()) as connection:
            rows = connection.execute("select message_id, topic, key, place, digest from ledger")
            return [Committed(*row) for row in rows.fetchall()]

    def waiting_rows(self) -> int:
        """How many messages the outbox table holds."""
        with closing(self.connect()) as connection:
            row = connection.execute("select count(*) from onecommit_outbox").fetchone()
            return int(row[0])

    def burst(self, topic: str, messages: int, value_bytes: int = 100) -> None:
        """Commits a backlog as one transaction, and rolls as much back."""
        with closing(self.connect()) as connection:
            for end in ("rollback", "commit"):
                connection.execute("begin immediate")
                for number in range(messages):
                    key = f"key-{number % KEYS + 1}".encode()
                    publish(connection, topic, key, b"x" * value_bytes)
                connection.execute(end)

    @contextmanager
    def writing(self, topic: str, *, seed: int = 1) -> Iterator[None]:
        """Two writers that work as long as the block does: however short it is, there was a
        commit."""
        stop = threading.Event()
        before = len(self.ledger())
        with ThreadPoolExecutor(2) as pool:
            chances = [random.Random(seed * 1000 + number) for number in range(2)]
            running = [pool.submit(self._write, topic, chance, stop) for chance in chances]

            def are_at_work() -> bool:
                return len(self.ledger()) > before or any(writer.done() for writer in running)

            try:
                wait_until(are_at_work, "a first commit")
                yield
            finally:
                stop.set()
        for writer in running:
            writer.result()

    def _write(self, topic: str, chance: random.Random, stop: threading.Event) -> None:
        with closing(self.connect()) as connection:
            while not stop.wait(0.01):
                connection.execute("begin immediate")
                for _ in range(chance.randint(1, 4)):
                    key = chance.choice([None, *(f"key-{n + 1}".encode() for n in range(KEYS))])
                    publish(connection, topic, key, chance.randbytes(chance.randint(0, 200)))
                connection.execute("commit" if chance.random() < 0.7 else "rollback")

    def drop(self) -> None:
        """The folder goes with the test."""


def publish(connection: sqlite3.Connection, topic: str, key: bytes | None, value: bytes) -> None:
    """Publishes one message and enters it into the ledger."""
    message_id = uuid.uuid4()
    inserted = connection.execute(INSERT, [message_id.bytes, topic, key, value])
    digest = hashlib.md5(value, usedforsecurity=False).hexdigest()
    connection.execute(ENTER, [str(message_id), topic, key, digest, inserted.lastrowid])
