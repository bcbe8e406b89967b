"""An application's PostgreSQL database: writers, and the ledger that they keep as they publish.

Every message goes through `onecommit.publish_bytes` and into the ledger by one statement, so that
the two live and die together. Writers lock a key's row before they publish, as users are told to,
so the place of a message among its key's is its id in the outbox.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from .checker import Committed
from .waiting import LIMIT_S, wait_until

KEYS = 20
SCHEMA = f"""
create table ledger (
  message_id uuid primary key, topic text not null, key bytea, digest text not null,
  place bigint not null);
create table account (name bytea primary key, changes int not null default 0);
insert into account (name) select convert_to('key-' || n, 'UTF8') from generate_series(1, {KEYS}) n;
"""
CHANGE = "update account set changes = changes + 1 where name = %s"
CHANGE_ALL = "update account set changes = changes + 1"
PUBLISH = """
insert into ledger (message_id, topic, key, digest, place)
select onecommit.publish_bytes(%(topic)s, %(key)s::bytea, %(value)s::bytea), %(topic)s,
  %(key)s::bytea, coalesce(md5(%(value)s::bytea), ''), currval('onecommit.outbox_id_seq')
"""
PUBLISH_MANY = f"""
insert into ledger (message_id, topic, key, digest, place)
select onecommit.publish_bytes(%(topic)s, m.key, m.value), %(topic)s, m.key, md5(m.value),
  currval('onecommit.outbox_id_seq')
from (select convert_to('key-' || n %% {KEYS} + 1, 'UTF8') as key,
             convert_to(repeat('x', %(bytes)s) || n, 'UTF8') as value
      from generate_series(1, %(messages)s) n) m
"""
# Who might have held the lock that was not to be had.
OPEN_TRANSACTIONS = """
select format('%s %s, for %s, %s: %s', application_name, state, now() - xact_start,
  wait_event, left(query, 100))
from pg_stat_activity where xact_start < now() - interval '1 s'
union all select format('prepared %s, for %s', gid, now() - prepared) from pg_prepared_xacts
"""
LOCK_LIMIT_MS = int(LIMIT_S * 1000)
Connection = psycopg.Connection[tuple[object, ...]]


class PostgresOutbox:
    """One database of the test's own on a server."""

    shards = 2
    barriers = "onecommit.barrier"
    ids_from_a_million = "select setval('onecommit.outbox_id_seq', 1000000)"

    def __init__(self, server: str, name: str) -> None:
        self.server = server
        self.name = name
        self.url = url_of(server, name)
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        with self.connect() as connection:
            connection.execute(SCHEMA)

    def connect(self) -> Connection:
        """A connection in which a transaction begins by itself."""
        return psycopg.connect(self.url, prepare_threshold=None)

    def execute(self, statement: str) -> None:
        """Changes the database by hand."""
        with self.connect() as connection:
            connection.execute(statement.encode())

    def ledger(self) -> list[Committed]:
        """What the database holds as committed."""
        return ledger_of(self.url)

    def waiting_rows(self) -> int:
        """How many messages the outbox table holds."""
        with self.connect() as connection:
            row = connection.execute("select count(*) from onecommit.outbox").fetchone()
            assert row is not None
            return int(str(row[0]))

    def burst(self, topic: str, messages: int, value_bytes: int = 100) -> None:
        """Commits a backlog as one transaction, and rolls as much back."""
        values = {"topic": topic, "messages": messages, "bytes": value_bytes}
        with self.connect() as connection:
            for end in (connection.rollback, connection.commit):
                connection.execute(CHANGE_ALL)
                connection.execute(PUBLISH_MANY, values)
                end()

    @contextmanager
    def writing(
        self, topic: str, *, seed: int = 1, synchronous_commit: str = "on"
    ) -> Iterator[Writers]:
        """Writers that work as long as the block does: however short it is, there was a commit."""
        writers = Writers(self.url, topic, seed, synchronous_commit)
        try:
            wait_until(writers.are_at_work, "a first commit")
            yield writers
        finally:
            writers.stop()

    def drop(self) -> None:
        with psycopg.connect(self.server, autocommit=True) as connection:
            drop = sql.SQL("drop database if exists {} with (force)")
            connection.execute(drop.format(sql.Identifier(self.name)))


def connect(url: str) -> Connection:
    """A connection in autocommit that prepares nothing: a pooler may be between."""
    return psycopg.connect(url, autocommit=True, prepare_threshold=None)


def url_of(server: str, name: str) -> str:
    """The url of another database on the same server."""
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


def ledger_of(url: str) -> list[Committed]:
    """What the database at this url holds as committed."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("select message_id, topic, key, place, digest from ledger")
        return [Committed(str(row[0]), *row[1:]) for row in rows.fetchall()]


def publish(connection: Connection, topic: str, key: bytes | None, value: bytes | None) -> None:
    """Publishes one message and enters it into the ledger."""
    connection.execute(PUBLISH, {"topic": topic, "key": key, "value": value})


class Writers:
    """Threads that commit and roll back random transactions from now on until they are stopped."""

    threads = 3
    pause_s = 0.002
    # Errors behind which they come back on another connection, as a user's would.
    away: tuple[type[Exception], ...] = (psycopg.OperationalError,)

    def __init__(self, url: str, topic: str, seed: int, synchronous_commit: str) -> None:
        self.url = url
        self.topic = topic
        self.synchronous_commit = synchronous_commit
        self.highest_xid = 0
        self.lost_connections = 0
        self.committed = 0
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(self.threads)
        chances = [random.Random(seed * 1000 + number) for number in range(self.threads)]
        self._running = [self._pool.submit(self._run, chance) for chance in chances]

    def are_at_work(self) -> bool:
        """One has committed, or has ended of what `stop` raises."""
        return self.committed > 0 or any(running.done() for running in self._running)

    def stop(self) -> None:
        """Ends all, each behind its transaction; raises what went wrong in one."""
        self._stop.set()
        self._pool.shutdown()
        for running in self._running:
            running.result()

    def _run(self, chance: random.Random) -> None:
        while not self._stop.is_set():
            try:
                with connect(self.url) as connection:
                    connection.execute(sql.SQL("set lock_timeout = {}").format(LOCK_LIMIT_MS))
                    mode = sql.Literal(self.synchronous_commit)
                    connection.execute(sql.SQL("set synchronous_commit = {}").format(mode))
                    while not self._stop.wait(self.pause_s):
                        self._transaction(connection, chance)
            except psycopg.errors.LockNotAvailable as error:
                raise AssertionError(f"{error}\n{self._open_transactions()}") from error
            except self.away:
                self.lost_connections += 1
                self._stop.wait(0.05)

    def _open_transactions(self) -> str:
        with connect(self.url) as connection:
            return "\n".join(str(row[0]) for row in connection.execute(OPEN_TRANSACTIONS))

    def _transaction(self, connection: Connection, chance: random.Random) -> None:
        keys: list[bytes | None] = [
            f"key-{number}".encode()
            for number in sorted(chance.sample(range(1, KEYS + 1), chance.randint(1, 3)))
        ]
        if chance.random() < 0.2:
            keys.append(None)
        commits = chance.random() < 0.7
        with connection.transaction(force_rollback=not commits):
            for key in keys:
                self._change_and_publish(connection, chance, key)
            if chance.random() < 0.3:
                self._stop.wait(chance.random() * 0.02)  # its ids are older than its commit
        self.committed += commits

    def _change_and_publish(
        self, connection: Connection, chance: random.Random, key: bytes | None
    ) -> None:
        if key is not None:
            connection.execute(CHANGE, [key])
        publish(connection, self.topic, key, chance.randbytes(chance.randint(0, 200)))
        if chance.random() < 0.1:
            with connection.transaction(force_rollback=True):
                publish(connection, self.topic, key, b"in a savepoint that is rolled back")
        row = connection.execute("select pg_current_xact_id()::text").fetchone()
        assert row is not None
        self.highest_xid = max(self.highest_xid, int(str(row[0])))
