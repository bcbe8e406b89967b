"""The database drivers that an outbox can publish through: one small adapter each.

A driver is found by the connection's type, and its module imported only then, so that Onecommit
needs no driver that the caller doesn't use.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

from .._errors import ConfigurationError, InvalidError
from .._message import PUBLISH, Row


class SyncDriver(Protocol):
    """Writes rows through one kind of connection. It keeps nothing of a connection."""

    def check(self, conn: Any) -> None:
        """Raises InvalidError where what is written now could not be part of a transaction.

        Asks the driver only, never the server.
        """

    def insert(self, conn: Any, row: Row) -> None:
        """Writes one row, in one round trip."""

    def insert_many(self, conn: Any, rows: Sequence[Row]) -> None:
        """Writes rows in their order, in about one round trip."""


class AsyncDriver(Protocol):
    """The same for asynchronous connections."""

    def check(self, conn: Any) -> None:
        """As in `SyncDriver`."""

    async def insert(self, conn: Any, row: Row) -> None:
        """As in `SyncDriver`."""

    async def insert_many(self, conn: Any, rows: Sequence[Row]) -> None:
        """As in `SyncDriver`."""


def sync_driver(conn: Any, schema: str) -> SyncDriver:
    """The driver for a connection; InvalidError if there is none."""
    if _is(conn, "psycopg", "Connection"):
        from .psycopg import PsycopgDriver

        return PsycopgDriver(schema)
    if _is(conn, "sqlite3", "Connection"):
        from .sqlite import SqliteDriver

        return SqliteDriver()
    if _is(conn, "psycopg", "AsyncConnection"):
        raise invalid("an asynchronous connection needs AsyncOutbox", conn)
    raise invalid("this is no connection of psycopg (version 3) or sqlite3", conn)


def async_driver(conn: Any, schema: str) -> AsyncDriver:
    """The driver for an asynchronous connection; InvalidError if there is none."""
    if _is(conn, "psycopg", "AsyncConnection"):
        from .psycopg import AsyncPsycopgDriver

        return AsyncPsycopgDriver(schema)
    if _is(conn, "psycopg", "Connection") or _is(conn, "sqlite3", "Connection"):
        raise invalid("this connection is not asynchronous: use Outbox", conn)
    raise invalid("this is no asynchronous connection of psycopg (version 3)", conn)


def _is(conn: Any, module_name: str, class_name: str) -> bool:
    """Whether it is such an object; there is none while the module is not imported."""
    module: ModuleType | None = sys.modules.get(module_name)
    return module is not None and isinstance(conn, getattr(module, class_name))


def is_psycopg(conn: Any, class_name: str) -> bool:
    """Whether it is a connection of psycopg 3, of this class."""
    return _is(conn, "psycopg", class_name)


def is_sqlite(conn: Any) -> bool:
    """Whether it is a connection of sqlite3."""
    return _is(conn, "sqlite3", "Connection")


def invalid(why: str, conn: Any) -> InvalidError:
    """The error for a connection that can't be used."""
    found = f"{type(conn).__module__}.{type(conn).__qualname__}"
    return InvalidError(why, PUBLISH, {"connection": found})


def missing_tables(**context: str) -> ConfigurationError:
    """The error for a database in which the outbox's tables are not there."""
    why = "the outbox's tables are missing in this database: run `onecommit init`"
    return ConfigurationError(why, PUBLISH, context)


def other_tables(**context: str) -> ConfigurationError:
    """The error for a database whose outbox is not as this release writes into it."""
    why = (
        "the outbox's table is of another version than this package: run `onecommit init` of the "
        "later one of both releases"
    )
    return ConfigurationError(why, PUBLISH, context)


def missing_rights(**context: str) -> ConfigurationError:
    """The error for a database user that may not write into the outbox."""
    why = (
        "this database user may not publish: grant it usage on the outbox's schema and insert on "
        "its table (docs/security.md)"
    )
    return ConfigurationError(why, PUBLISH, context)


NO_TRANSACTION = (
    "the connection is in autocommit mode and no transaction is open, so the message would be "
    "committed alone, whatever happens to the change it tells of: "
)
FAILED_TRANSACTION = "the transaction has failed already: roll it back, then begin again"
CLOSED = "the connection is closed: open another one"
