"""What a publish costs, counted on the wire to a real server: one round trip in the caller's
transaction, and none for what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from onecommit import AsyncOutbox, InvalidError, Message, Outbox
from onecommit._drivers.psycopg import BATCH_ROWS

from .wire import Wire, kinds, listened, round_trips

# Parse, Bind, Describe, Execute and, last, the Sync that an answer is awaited behind.
ONE_STATEMENT = "PBDES"
MESSAGE: dict[str, Any] = {"key": 1, "value": {"total": 1}, "headers": {"a": "b"}, "partition": 1}
BATCH = [Message("t", **MESSAGE)] * BATCH_ROWS
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("not fine", {}),
    ("", {}),
    ("t", {"key": object()}),
    ("t", {"value": "\ud800"}),
    ("t", {"headers": {"onecommit-id": "x"}}),
    ("t", {"partition": -1}),
]


@pytest.fixture
def wire(empty_url: str) -> Iterator[Wire]:
    with listened(empty_url) as wire:
        yield wire


@pytest.fixture
def conn(wire: Wire) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(wire.url) as conn:
        conn.execute("select 1")
        wire.heard()
        yield conn


def is_one_insert(wire: Wire) -> bool:
    heard = wire.heard()
    return kinds(heard) == ONE_STATEMENT and heard[0][1].lstrip(b"\0").startswith(b"insert into ")


@pytest.mark.parametrize("parts", [{}, {"key": "k", "value": b"v"}, MESSAGE])
def test_a_publish_is_one_insert(
    wire: Wire, conn: psycopg.Connection[Any], parts: dict[str, Any]
) -> None:
    outbox = Outbox()
    # The first one through a connection, and any later one.
    for _ in range(10):
        outbox.publish(conn, "t", **parts)
        assert is_one_insert(wire)


def test_a_batch_is_one_insert(wire: Wire, conn: psycopg.Connection[Any]) -> None:
    Outbox().publish_many(conn, BATCH)
    assert is_one_insert(wire)


def test_the_first_statement_costs_no_more_than_any_other(
    wire: Wire, conn: psycopg.Connection[Any]
) -> None:
    """psycopg itself begins the transaction then."""

    def cost(statement: Callable[[], object]) -> str:
        conn.rollback()
        wire.heard()
        statement()
        return kinds(wire.heard())

    usual = cost(lambda: conn.execute("select %s", [1]))
    assert cost(lambda: Outbox().publish(conn, "t", **MESSAGE)) == usual


def test_what_is_refused_costs_nothing(wire: Wire, conn: psycopg.Connection[Any]) -> None:
    outbox = Outbox()
    for topic, parts in REFUSED:
        with pytest.raises(InvalidError):
            outbox.publish(conn, topic, **parts)
        with pytest.raises(InvalidError):
            outbox.publish_many(conn, [Message("t"), Message(topic, **parts)])
    # Whatever was sent before arrives before this.
    conn.execute("select 'the only one'")
    heard = wire.heard()
    assert round_trips(heard) == 1 and b"the only one" in heard[0][1], heard


def test_a_connection_that_is_refused_costs_nothing(
    wire: Wire, conn: psycopg.Connection[Any]
) -> None:
    conn.rollback()
    conn.autocommit = True
    wire.heard()
    with pytest.raises(InvalidError, match="autocommit"):
        Outbox().publish(conn, "t")
    conn.execute("select 'the only one'")
    heard = wire.heard()
    assert round_trips(heard) == 1 and b"the only one" in heard[0][1], heard


async def test_it_is_the_same_through_an_asynchronous_connection(wire: Wire) -> None:
    outbox = AsyncOutbox()
    async with await psycopg.AsyncConnection.connect(wire.url) as conn:
        await conn.execute("select 1")
        wire.heard()
        for _ in range(10):
            await outbox.publish(conn, "t", **MESSAGE)
            assert is_one_insert(wire)
        await outbox.publish_many(conn, BATCH)
        assert is_one_insert(wire)
        for topic, parts in REFUSED:
            with pytest.raises(InvalidError):
                await outbox.publish(conn, topic, **parts)
            with pytest.raises(InvalidError):
                await outbox.publish_many(conn, [Message("t"), Message(topic, **parts)])
        await conn.execute("select 'the only one'")
        heard = wire.heard()
        assert round_trips(heard) == 1 and b"the only one" in heard[0][1], heard
