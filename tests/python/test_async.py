"""Publishing through psycopg 3, asynchronous, on a real server."""

from __future__ import annotations

import gc
import inspect
import sqlite3
from typing import Any

import psycopg
import pytest
from onecommit import AsyncOutbox, ConfigurationError, InvalidError, Message, MessageId, Outbox

from .outbox_tables import committed

AsyncConnection = psycopg.AsyncConnection[Any]

outbox = AsyncOutbox()


async def test_messages_are_there_when_their_transaction_committed(
    async_pg: AsyncConnection, empty_url: str
) -> None:
    published = await outbox.publish(async_pg, "t", key="42", value={"total": 1.5})
    assert isinstance(published, MessageId)
    more = await outbox.publish_many(async_pg, [Message("t", headers={"a": None}), Message("t")])
    assert committed(empty_url) == []
    await async_pg.commit()
    rows = committed(empty_url)
    assert [row["message_id"] for row in rows] == [published, *more]
    assert rows[0]["value"] == b'{"total":1.5}'
    assert rows[1]["header_values"] == [None]


async def test_the_callers_pipeline(async_pg: AsyncConnection, empty_url: str) -> None:
    async with async_pg.pipeline(), async_pg.transaction():
        await outbox.publish(async_pg, "t", key=1)
        await outbox.publish_many(async_pg, [Message("t", key=2)])
    assert [row["key"] for row in committed(empty_url)] == [b"1", b"2"]


async def test_what_is_refused(async_pg: AsyncConnection) -> None:
    await async_pg.set_autocommit(True)
    with pytest.raises(InvalidError, match="autocommit"):
        await outbox.publish(async_pg, "t")
    with pytest.raises(InvalidError, match="autocommit"):
        await outbox.publish_many(async_pg, [Message("t")])
    await async_pg.close()
    with pytest.raises(InvalidError, match="the connection is closed"):
        await outbox.publish(async_pg, "t")


async def test_missing_tables_are_explained(async_pg: AsyncConnection) -> None:
    with pytest.raises(ConfigurationError, match="run `onecommit init`"):
        await AsyncOutbox("elsewhere").publish(async_pg, "t")


async def test_a_connection_of_the_other_kind(
    async_pg: AsyncConnection, pg: psycopg.Connection[Any], lite: sqlite3.Connection
) -> None:
    with pytest.raises(InvalidError, match="needs AsyncOutbox"):
        Outbox().publish(async_pg, "t")  # type: ignore[arg-type]
    for conn in (pg, lite):
        with pytest.raises(InvalidError, match="not asynchronous: use Outbox"):
            await outbox.publish(conn, "t")  # type: ignore[arg-type]
    with pytest.raises(InvalidError, match="no asynchronous connection of psycopg"):
        await outbox.publish(object(), "t")  # type: ignore[arg-type]


async def test_a_forgotten_await_is_reported(async_pg: AsyncConnection) -> None:
    assert inspect.iscoroutinefunction(outbox.publish)
    assert inspect.iscoroutinefunction(outbox.publish_many)
    with pytest.warns(RuntimeWarning, match=r"AsyncOutbox\.publish' was never awaited"):
        outbox.publish(async_pg, "t")  # type: ignore[unused-coroutine]
        gc.collect()
