"""Publishing through psycopg 3.

Cursors are made here and not by `conn.cursor()`, so that the caller's row and cursor factories
don't matter. No statement is prepared by name: poolers in transaction mode lose those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from .._message import Row
from . import (
    CLOSED,
    FAILED_TRANSACTION,
    NO_TRANSACTION,
    invalid,
    missing_rights,
    missing_tables,
    other_tables,
)

_COLUMNS = "message_id, topic, key, value, partition, header_names, header_values"
# Most messages have no more than these four, and the server parses the text every time.
_INSERT_SHORT = """\
insert into {outbox} (message_id, topic, key, value) values (%b, %b, %b, %b)"""
_INSERT = """\
insert into {outbox} ({columns})
values (%b, %b, %b, %b, %b, %b::text[], %b::bytea[])"""
# One text for any number of rows. An array of arrays can't be ragged, so the headers of all rows
# stand one after another; a row's begin at `first`.
_INSERT_MANY = """\
insert into {outbox} ({columns})
select m.message_id, m.topic, m.key, m.value, m.partition,
       case when m.headers > 0 then (%b::text[])[m.first : m.first + m.headers - 1] end,
       case when m.headers > 0 then (%b::bytea[])[m.first : m.first + m.headers - 1] end
from unnest(%b::uuid[], %b::text[], %b::bytea[], %b::bytea[], %b::int[], %b::int[], %b::int[])
     with ordinality as m (message_id, topic, key, value, partition, first, headers, place)
order by m.place"""

# A statement's limits: finding a slice of an array takes longer the further back it is, and the
# server holds all parameters in memory.
BATCH_ROWS = 500
BATCH_BYTES = 16 * 1024 * 1024

_IDLE, _IN_TRANSACTION = TransactionStatus.IDLE, TransactionStatus.INTRANS
_FAILED, _UNKNOWN = TransactionStatus.INERROR, TransactionStatus.UNKNOWN
_OUTBOX_ERRORS = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InsufficientPrivilege,
)


class _Statements:
    """The SQL for one schema, and the check that sync and async connections share."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        outbox = '"{}".outbox'.format(schema.replace('"', '""').replace("%", "%%"))
        self._insert_short = _INSERT_SHORT.format(outbox=outbox).encode()
        self._insert = _INSERT.format(outbox=outbox, columns=_COLUMNS).encode()
        self._insert_many = _INSERT_MANY.format(outbox=outbox, columns=_COLUMNS).encode()

    def check(self, conn: Any) -> None:
        status = conn.pgconn.transaction_status
        if status == _IN_TRANSACTION:
            return
        if status == _UNKNOWN:
            raise invalid(CLOSED, conn)
        if status == _FAILED:
            raise invalid(FAILED_TRANSACTION, conn)
        # ACTIVE inside a pipeline: what was sent is not yet answered, so only psycopg knows
        # whether it opened a transaction.
        if conn.autocommit and (status == _IDLE or not conn._num_transactions):
            way_out = "open one by `with conn.transaction():`, or turn autocommit off"
            raise invalid(NO_TRANSACTION + way_out, conn)

    def statement(self, row: Row) -> tuple[bytes, Sequence[Any]]:
        if not row.headers and row.partition is None:
            return self._insert_short, (row.id, row.topic, row.key, row.value)
        names = [name for name, _ in row.headers] or None
        values = [value for _, value in row.headers] or None
        return self._insert, (row.id, row.topic, row.key, row.value, row.partition, names, values)

    def batches(self, rows: Sequence[Row]) -> Iterator[tuple[bytes, Sequence[Any]]]:
        for batch in _batches(rows):
            yield self._insert_many, _batch_parameters(batch)

    def explained(self, error: Exception) -> Exception:
        if isinstance(error, psycopg.errors.UndefinedColumn):
            return other_tables(schema=self._schema)
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return missing_rights(schema=self._schema)
        return missing_tables(schema=self._schema)


class PsycopgDriver(_Statements):
    """For psycopg.Connection."""

    def insert(self, conn: psycopg.Connection[Any], row: Row) -> None:
        """Writes one row."""
        self._execute(conn, *self.statement(row))

    def insert_many(self, conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
        """Writes rows, many with one statement."""
        for statement in self.batches(rows):
            self._execute(conn, *statement)

    def _execute(
        self, conn: psycopg.Connection[Any], sql: bytes, parameters: Sequence[Any]
    ) -> None:
        try:
            psycopg.Cursor(conn, row_factory=tuple_row).execute(sql, parameters, prepare=False)
        except _OUTBOX_ERRORS as error:
            raise self.explained(error) from error


class AsyncPsycopgDriver(_Statements):
    """For psycopg.AsyncConnection."""

    async def insert(self, conn: psycopg.AsyncConnection[Any], row: Row) -> None:
        """Writes one row."""
        await self._execute(conn, *self.statement(row))

    async def insert_many(self, conn: psycopg.AsyncConnection[Any], rows: Sequence[Row]) -> None:
        """Writes rows, many with one statement."""
        for statement in self.batches(rows):
            await self._execute(conn, *statement)

    async def _execute(
        self, conn: psycopg.AsyncConnection[Any], sql: bytes, parameters: Sequence[Any]
    ) -> None:
        cursor = psycopg.AsyncCursor(conn, row_factory=tuple_row)
        try:
            await cursor.execute(sql, parameters, prepare=False)
        except _OUTBOX_ERRORS as error:
            raise self.explained(error) from error


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    start = size = 0
    for index, row in enumerate(rows):
        size += len(row.key or b"") + len(row.value or b"")
        size += sum(len(name) + len(value or b"") for name, value in row.headers)
        if index > start and (index - start == BATCH_ROWS or size > BATCH_BYTES):
            yield rows[start:index]
            start, size = index, 0
    if start < len(rows):
        yield rows[start:]


def _batch_parameters(rows: Sequence[Row]) -> Sequence[Any]:
    names = [name for row in rows for name, _ in row.headers]
    values = [value for row in rows for _, value in row.headers]
    firsts, first = [], 1
    for row in rows:
        firsts.append(first)
        first += len(row.headers)
    return (
        names,
        values,
        [row.id for row in rows],
        [row.topic for row in rows],
        [row.key for row in rows],
        [row.value for row in rows],
        [row.partition for row in rows],
        firsts,
        [len(row.headers) for row in rows],
    )
