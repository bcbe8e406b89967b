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
from . import CLOSED, NO_TRANSACTION, invalid, missing_tables

_INSERT = """\
insert into onecommit_outbox (message_id, topic, key, value, partition, headers)
values (?, ?, ?, ?, ?, ?)"""
_NO_TABLE = "no such table: onecommit_outbox"


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
            if str(error) != _NO_TABLE:
                raise
            raise missing_tables(table="onecommit_outbox") from error

    def insert_many(self, conn: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Writes rows, one after another: there is no server to wait for."""
        try:
            sqlite3.Cursor(conn).executemany(_INSERT, map(_parameters, rows))
        except sqlite3.OperationalError as error:
            if str(error) != _NO_TABLE:
                raise
            raise missing_tables(table="onecommit_outbox") from error


def _parameters(row: Row) -> Sequence[Any]:
    headers = encode_headers(row.headers) if row.headers else None
    return (row.id.bytes, row.topic, row.key, row.value, row.partition, headers)
