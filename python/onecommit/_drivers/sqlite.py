"""Publishing through the standard library's sqlite3.

SQLite itself is the caller's: a second copy of it, which Rust has, could corrupt the file. Only the
format of the headers comes from Rust.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from .._message import Row
from .._native.sqlite import encode_headers
from . import CLOSED, NO_TRANSACTION, invalid, missing_tables, other_tables

_INSERT = """\
insert into onecommit_outbox (message_id, topic, key, value, partition, headers)
values (?, ?, ?, ?, ?, ?)"""
_TABLE = "onecommit_outbox"
_NO_TABLE = f"no such table: {_TABLE}"
_NO_COLUMN = f"table {_TABLE} has no column named"


class SqliteDriver:
    """For sqlite3.Connection."""

    def check(self, conn: sqlite3.Connection) -> None:
        """Lets through what sqlite3 has in a transaction, or will begin one for."""
        try:
            if conn.in_transaction:
                return
        except sqlite3.ProgrammingError as error:
            raise invalid(CLOSED, conn) from error
        # Python 3.12 brought `autocommit`; before it, and while it is -1, `isolation_level` rules.
        autocommit = getattr(conn, "autocommit", -1)
        if autocommit is True or (autocommit == -1 and conn.isolation_level is None):
            raise invalid(NO_TRANSACTION + "execute `begin` first, or turn autocommit off", conn)

    def insert(self, conn: sqlite3.Connection, row: Row) -> None:
        """Writes one row."""
        try:
            sqlite3.Cursor(conn).execute(_INSERT, _parameters(row))
        except sqlite3.OperationalError as error:
            _explain(error)
            raise

    def insert_many(self, conn: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Writes rows, one after another: there is no server to wait for."""
        try:
            sqlite3.Cursor(conn).executemany(_INSERT, map(_parameters, rows))
        except sqlite3.OperationalError as error:
            _explain(error)
            raise


def _explain(error: sqlite3.OperationalError) -> None:
    """Raises ConfigurationError where the tables are to blame."""
    said = str(error)
    if said == _NO_TABLE:
        raise missing_tables(table=_TABLE) from error
    if said.startswith(_NO_COLUMN):
        raise other_tables(table=_TABLE) from error


def _parameters(row: Row) -> Sequence[Any]:
    headers = encode_headers(row.headers) if row.headers else None
    return (row.id.bytes, row.topic, row.key, row.value, row.partition, headers)
