"""Publishing inside a transaction that the caller owns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from ._arguments import text
from ._drivers import async_driver, sync_driver
from ._errors import Error, InvalidError
from ._message import PUBLISH, Encoder, Headers, Message, MessageId, Row, to_row

if TYPE_CHECKING:
    import sqlite3

    import psycopg

    from ._drivers import AsyncDriver, SyncDriver

    Connection: TypeAlias = psycopg.Connection[Any] | sqlite3.Connection
    AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]


class _Settings:
    """What both outboxes are made with. Neither holds a connection, so threads may share one."""

    __slots__ = ("_drivers", "_encoder", "_schema")

    def __init__(self, schema: str = "onecommit", encoder: Encoder | None = None) -> None:
        """Publishes into the tables of `schema` (PostgreSQL; SQLite has no schemas).

        `encoder` turns a key or value that is not str, bytes, JSON or None into bytes.
        """
        if not isinstance(schema, str) or not schema or "\0" in schema:
            raise InvalidError("a schema's name is a str that is not empty", "open outbox")
        self._schema = text("schema", schema, "open outbox")
        self._encoder = encoder

    def __repr__(self) -> str:
        """As it was made."""
        return f"{type(self).__name__}(schema={self._schema!r}, encoder={self._encoder!r})"

    def _to_rows(self, messages: Iterable[Message]) -> list[Row]:
        if not isinstance(messages, Iterable):
            why = (
                f"publish_many takes Message objects in an iterable, not {type(messages).__name__}"
            )
            raise InvalidError(why, PUBLISH)
        rows = []
        for index, message in enumerate(messages):
            if not isinstance(message, Message):
                why = f"publish_many takes Message objects, not {type(message).__name__}"
                raise InvalidError(why, PUBLISH, {"index": str(index)})
            try:
                rows.append(to_row(message, self._encoder))
            except Error as error:
                error.context["index"] = str(index)
                raise
        return rows


class Outbox(_Settings):
    """Publishes messages through the caller's own psycopg or sqlite3 connection.

    They are delivered if its transaction commits, and never if it doesn't. Messages of one key
    arrive in the order of insertion among transactions that excluded each other *before*
    publishing. So change the row first, then publish:

    >>> outbox = Outbox()
    >>> with conn:  # a transaction of sqlite3
    ...     _ = conn.execute("update accounts set total = 100 where id = 42")
    ...     id = outbox.publish(conn, "account.changed", key="42", value={"total": 100})

    The other way round, publish first and change then, is atomic too, but two transactions that
    wait for each other at the row may have their messages in either order.
    """

    __slots__ = ()

    def __init__(self, schema: str = "onecommit", encoder: Encoder | None = None) -> None:
        """Publishes into the tables of `schema` (PostgreSQL; SQLite has no schemas).

        `encoder` turns a key or value that is not str, bytes, JSON or None into bytes.
        """
        super().__init__(schema, encoder)
        self._drivers: dict[type, SyncDriver] = {}

    def publish(
        self,
        conn: Connection,
        topic: str,
        *,
        key: Any = None,
        value: Any = None,
        headers: Headers | None = None,
        partition: int | None = None,
    ) -> MessageId:
        """Publishes one message; one round trip. It may be the transaction's first statement.

        A str is UTF-8 as it is, bytes are as they are; dict, list, numbers and bool are JSON;
        everything else goes through `encoder`. No key: any partition; an empty key is a key. A
        value of None is a tombstone. Header names may repeat where `headers` are pairs.

        Raises InvalidError, before anything is sent, for what Kafka could never take, and for a
        connection that is closed, in a failed transaction, or in autocommit without one.
        ConfigurationError: the outbox's tables are missing, or this user may not write into them.
        Other errors of the driver pass through, and have ended the transaction as they always do.
        """
        driver = self._drivers.get(type(conn)) or self._driver(conn)
        driver.check(conn)
        message = Message(topic, key=key, value=value, headers=headers, partition=partition)
        row = to_row(message, self._encoder)
        driver.insert(conn, row)
        return row.id

    def publish_many(self, conn: Connection, messages: Iterable[Message]) -> list[MessageId]:
        """Publishes messages in their order; about one round trip.

        All are checked before the first is sent.

        >>> messages = [Message("account.changed", key=n, value={"total": 0}) for n in range(3)]
        >>> with conn:
        ...     ids = outbox.publish_many(conn, messages)
        >>> len(ids)
        3
        """
        driver = self._drivers.get(type(conn)) or self._driver(conn)
        driver.check(conn)
        rows = self._to_rows(messages)
        driver.insert_many(conn, rows)
        return [row.id for row in rows]

    def _driver(self, conn: Connection) -> SyncDriver:
        driver = self._drivers[type(conn)] = sync_driver(conn, self._schema)
        return driver


class AsyncOutbox(_Settings):
    """Publishes messages through the caller's own psycopg.AsyncConnection.

    As `Outbox`, and `publish` is a coroutine function: a type checker reports a forgotten `await`,
    which would lose the message.

    >>> async def change(conn: psycopg.AsyncConnection) -> None:
    ...     async with conn.transaction():
    ...         await conn.execute("update accounts set total = 100 where id = 42")
    ...         await outbox.publish(conn, "account.changed", key="42", value={"total": 100})
    """

    __slots__ = ()

    def __init__(self, schema: str = "onecommit", encoder: Encoder | None = None) -> None:
        """Publishes into the tables of `schema`; `encoder` is as in `Outbox`."""
        super().__init__(schema, encoder)
        self._drivers: dict[type, AsyncDriver] = {}

    async def publish(
        self,
        conn: AsyncConnection,
        topic: str,
        *,
        key: Any = None,
        value: Any = None,
        headers: Headers | None = None,
        partition: int | None = None,
    ) -> MessageId:
        """Publishes one message, as `Outbox.publish` does."""
        driver = self._drivers.get(type(conn)) or self._driver(conn)
        driver.check(conn)
        message = Message(topic, key=key, value=value, headers=headers, partition=partition)
        row = to_row(message, self._encoder)
        await driver.insert(conn, row)
        return row.id

    async def publish_many(
        self, conn: AsyncConnection, messages: Iterable[Message]
    ) -> list[MessageId]:
        """Publishes messages in their order, as `Outbox.publish_many` does."""
        driver = self._drivers.get(type(conn)) or self._driver(conn)
        driver.check(conn)
        rows = self._to_rows(messages)
        await driver.insert_many(conn, rows)
        return [row.id for row in rows]

    def _driver(self, conn: AsyncConnection) -> AsyncDriver:
        driver = self._drivers[type(conn)] = async_driver(conn, self._schema)
        return driver
