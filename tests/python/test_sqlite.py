"""Publishing through the standard library's sqlite3."""

from __future__ import annotations

import sqlite3
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onecommit import ConfigurationError, InvalidError, Message, Outbox

outbox = Outbox()


def rows(path: Path) -> list[tuple[Any, ...]]:
    """What another connection sees, in order."""
    conn = sqlite3.connect(path)
    columns = "message_id, topic, key, value, partition, headers"
    found = conn.execute(f"select {columns} from onecommit_outbox order by id").fetchall()
    conn.close()
    return found


def header(name: str, value: bytes | None) -> bytes:
    """As Rust stores one: each part behind its length."""
    parts = struct.pack(">I", len(name)) + name.encode()
    return parts + (b"\xff" * 4 if value is None else struct.pack(">I", len(value)) + value)


def test_a_message_is_there_when_its_transaction_committed(
    lite: sqlite3.Connection, sqlite_file: Path
) -> None:
    with lite:
        lite.execute("update accounts set total = 100 where id = 42")
        published = outbox.publish(lite, "account.changed", key="42", value={"total": 100})
        assert rows(sqlite_file) == []
    expected = (published.bytes, "account.changed", b"42", b'{"total":100}', None, None)
    assert rows(sqlite_file) == [expected]


def test_nothing_is_there_after_a_rollback(lite: sqlite3.Connection, sqlite_file: Path) -> None:
    with pytest.raises(ZeroDivisionError), lite:
        outbox.publish(lite, "t")
        raise ZeroDivisionError
    assert rows(sqlite_file) == []


@pytest.mark.parametrize("many", [False, True])
def test_all_parts_are_stored(lite: sqlite3.Connection, sqlite_file: Path, many: bool) -> None:
    parts: list[dict[str, Any]] = [
        {},
        {"key": "", "value": b"\0\xff", "partition": 7},
        {"headers": [("a", None), ("a", b"\xff"), ("b", "")]},
    ]
    if many:
        outbox.publish_many(lite, (Message("t", **part) for part in parts))
    else:
        for part in parts:
            outbox.publish(lite, "t", **part)
    assert rows(sqlite_file) == []  # publish was the transaction's first statement
    lite.commit()
    headers = b"\x01" + header("a", None) + header("a", b"\xff") + header("b", b"")
    assert [row[2:] for row in rows(sqlite_file)] == [
        (None, None, None, None),
        (b"", b"\0\xff", 7, None),
        (None, None, None, headers),
    ]


def test_many_keep_their_order(lite: sqlite3.Connection, sqlite_file: Path) -> None:
    with lite:
        ids = outbox.publish_many(lite, [Message("t", key=n) for n in range(1000)])
    assert [row[0] for row in rows(sqlite_file)] == [one.bytes for one in ids]
    assert [row[2] for row in rows(sqlite_file)] == [str(n).encode() for n in range(1000)]


@pytest.mark.parametrize("publish", [
    lambda conn: outbox.publish(conn, "t"),
    lambda conn: outbox.publish_many(conn, [Message("t")]),
])  # fmt: skip
class TestRefused:
    def test_autocommit(
        self,
        publish: Callable[[sqlite3.Connection], object],
        lite: sqlite3.Connection,
        sqlite_file: Path,
    ) -> None:
        lite.isolation_level = None
        with pytest.raises(InvalidError, match=r"autocommit .* `begin`"):
            publish(lite)
        lite.execute("begin")
        publish(lite)
        assert rows(sqlite_file) == []
        lite.execute("commit")
        assert len(rows(sqlite_file)) == 1

    @pytest.mark.parametrize("autocommit", [True, False])
    def test_autocommit_as_from_python_3_12(
        self,
        publish: Callable[[sqlite3.Connection], object],
        sqlite_file: Path,
        autocommit: bool,
    ) -> None:
        if sys.version_info < (3, 12):
            # Before it there is no such attribute; one of a subclass stands in.
            class Newer(sqlite3.Connection):
                pass

            conn: Any = Newer(sqlite_file)
            conn.autocommit = autocommit
        else:
            conn = sqlite3.connect(sqlite_file, autocommit=autocommit)
        try:
            if autocommit:
                with pytest.raises(InvalidError, match="autocommit"):
                    publish(conn)
            else:
                publish(conn)
                conn.rollback()
        finally:
            conn.close()
        assert rows(sqlite_file) == []

    def test_a_closed_connection(
        self, publish: Callable[[sqlite3.Connection], object], lite: sqlite3.Connection
    ) -> None:
        lite.close()
        with pytest.raises(InvalidError, match="the connection is closed"):
            publish(lite)

    def test_missing_tables(self, publish: Callable[[sqlite3.Connection], object]) -> None:
        conn = sqlite3.connect(":memory:")
        with pytest.raises(ConfigurationError, match="run `onecommit init`") as caught:
            publish(conn)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        conn.close()

    def test_other_errors_of_the_driver_pass_through(
        self, publish: Callable[[sqlite3.Connection], object], lite: sqlite3.Connection
    ) -> None:
        lite.execute("pragma query_only = on")
        with pytest.raises(sqlite3.OperationalError, match="readonly") as caught:
            publish(lite)
        assert caught.value.__cause__ is None


def test_the_callers_factories(lite: sqlite3.Connection, sqlite_file: Path) -> None:
    lite.row_factory = sqlite3.Row
    lite.text_factory = bytes
    with lite:
        outbox.publish(lite, "t", key="ä")
    assert len(rows(sqlite_file)) == 1


@pytest.mark.parametrize("conn", [None, object(), "postgresql://", sqlite3])
def test_what_is_no_connection(conn: Any) -> None:
    with pytest.raises(InvalidError, match=r"no connection of psycopg \(version 3\) or sqlite3"):
        outbox.publish(conn, "t")
