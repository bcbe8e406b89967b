"""Publishing through psycopg 3, synchronous, on a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from onecommit import ConfigurationError, InvalidError, Message, MessageId, Outbox
from onecommit._drivers.psycopg import BATCH_ROWS
from psycopg.rows import dict_row, namedtuple_row

from .outbox_tables import committed, postgres_tables

Connection = psycopg.Connection[Any]

outbox = Outbox()


def test_a_message_is_there_when_its_transaction_committed(pg: Connection, empty_url: str) -> None:
    pg.execute("insert into accounts values (42, 100)")
    published = outbox.publish(pg, "account.changed", key="42", value={"total": 100})
    assert committed(empty_url) == []
    pg.commit()
    (row,) = committed(empty_url)
    assert isinstance(published, MessageId)
    assert row["message_id"] == published
    assert published.version == 4
    assert (row["topic"], row["key"], row["value"]) == (
        "account.changed",
        b"42",
        b'{"total":100}',
    )
    assert (row["partition"], row["header_names"], row["header_values"]) == (None, None, None)


def test_nothing_is_there_after_a_rollback(pg: Connection, empty_url: str) -> None:
    with pytest.raises(ZeroDivisionError), pg.transaction():
        outbox.publish(pg, "t", value="gone")
        raise ZeroDivisionError
    assert committed(empty_url) == []


def test_publish_may_be_the_first_statement(pg: Connection, empty_url: str) -> None:
    outbox.publish(pg, "t")
    assert committed(empty_url) == []
    pg.commit()
    assert len(committed(empty_url)) == 1


@pytest.mark.parametrize("many", [False, True])
def test_all_parts_are_stored(pg: Connection, empty_url: str, many: bool) -> None:
    parts: list[dict[str, Any]] = [
        {},
        {"key": "", "value": b"\0\xff", "partition": 7},
        {"headers": {"a": "ä", "b": None}},
        {"key": "k", "headers": [("a", b""), ("a", None), ("a", b"\xff")]},
        {"headers": [("only", None)]},
    ]
    if many:
        outbox.publish_many(pg, (Message("t", **part) for part in parts))
    else:
        for part in parts:
            outbox.publish(pg, "t", **part)
    pg.commit()
    rows = committed(empty_url)
    assert [(row["key"], row["value"], row["partition"]) for row in rows] == [
        (None, None, None),
        (b"", b"\0\xff", 7),
        (None, None, None),
        (b"k", None, None),
        (None, None, None),
    ]
    assert [(row["header_names"], row["header_values"]) for row in rows] == [
        (None, None),
        (None, None),
        (["a", "b"], ["ä".encode(), None]),
        (["a", "a", "a"], [b"", None, b"\xff"]),
        (["only"], [None]),
    ]


def test_many_keep_their_order_over_several_statements(pg: Connection, empty_url: str) -> None:
    count = 2 * BATCH_ROWS + 1
    messages = [
        Message("t", key=n, headers=[("n", str(n))] * (n % 3), partition=n % 2 or None)
        for n in range(count)
    ]
    ids = outbox.publish_many(pg, messages)
    pg.commit()
    rows = committed(empty_url)
    assert [row["message_id"] for row in rows] == ids
    for n, row in enumerate(rows):
        assert (row["key"], row["partition"]) == (str(n).encode(), n % 2 or None)
        assert row["header_values"] == ([str(n).encode()] * (n % 3) or None)


def test_no_messages_are_no_statement(pg: Connection) -> None:
    assert outbox.publish_many(pg, []) == []
    assert pg.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_many_are_all_checked_before_the_first_is_sent(pg: Connection) -> None:
    with pytest.raises(InvalidError, match="topic's name") as caught:
        outbox.publish_many(pg, [Message("fine"), Message("not fine")])
    assert caught.value.context["index"] == "1"
    with pytest.raises(InvalidError, match="takes Message objects, not str"):
        outbox.publish_many(pg, ["fine"])  # type: ignore[list-item]
    assert pg.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.parametrize("publish", [
    lambda conn: outbox.publish(conn, "t"),
    lambda conn: outbox.publish_many(conn, [Message("t")]),
])  # fmt: skip
class TestRefusedBeforeAnythingIsSent:
    def test_autocommit(self, publish: Callable[[Connection], object], pg: Connection) -> None:
        pg.autocommit = True
        with pytest.raises(InvalidError, match=r"autocommit .* conn\.transaction\(\)"):
            publish(pg)

    def test_autocommit_in_a_pipeline_without_transaction(
        self, publish: Callable[[Connection], object], pg: Connection, empty_url: str
    ) -> None:
        pg.autocommit = True
        with pg.pipeline():
            pg.execute("select 1")
            with pytest.raises(InvalidError, match="autocommit"):
                publish(pg)
        assert committed(empty_url) == []

    def test_a_failed_transaction(
        self, publish: Callable[[Connection], object], pg: Connection
    ) -> None:
        with pytest.raises(psycopg.errors.DivisionByZero):
            pg.execute("select 1 / 0")
        with pytest.raises(InvalidError, match="the transaction has failed"):
            publish(pg)

    def test_a_closed_connection(
        self, publish: Callable[[Connection], object], pg: Connection
    ) -> None:
        pg.close()
        with pytest.raises(InvalidError, match="the connection is closed"):
            publish(pg)


def test_autocommit_inside_a_transaction_block_is_fine(pg: Connection, empty_url: str) -> None:
    pg.autocommit = True
    with pg.transaction():
        outbox.publish(pg, "t")
        with pg.transaction():
            outbox.publish(pg, "t")
        assert committed(empty_url) == []
    assert len(committed(empty_url)) == 2
    pg.execute("begin")
    outbox.publish(pg, "t")
    pg.execute("rollback")
    assert len(committed(empty_url)) == 2


@pytest.mark.parametrize("autocommit", [False, True])
def test_the_callers_pipeline(pg: Connection, empty_url: str, autocommit: bool) -> None:
    pg.autocommit = autocommit
    with pg.pipeline(), pg.transaction():
        pg.execute("insert into accounts values (1, 1)")
        outbox.publish(pg, "t", key=1)
        outbox.publish_many(pg, [Message("t", key=2), Message("t", key=3)])
    assert [row["key"] for row in committed(empty_url)] == [b"1", b"2", b"3"]


def only_for_rows(cursor: Any) -> Any:
    names = [column.name for column in cursor.description]  # None where there are no rows
    return lambda values: (names, values)


@pytest.mark.parametrize("row_factory", [dict_row, namedtuple_row, only_for_rows])
@pytest.mark.parametrize("cursor_factory", [psycopg.ClientCursor, psycopg.RawCursor])
def test_the_callers_factories(empty_url: str, row_factory: Any, cursor_factory: Any) -> None:
    with psycopg.connect(empty_url, row_factory=row_factory, cursor_factory=cursor_factory) as conn:
        outbox.publish(conn, "t", headers={"a": "b"})
        outbox.publish_many(conn, [Message("t"), Message("t", headers={"a": "b"})])
    assert len(committed(empty_url)) == 3


def test_no_statement_is_prepared_by_name(empty_url: str) -> None:
    with psycopg.connect(empty_url, prepare_threshold=0) as conn:
        outbox.publish(conn, "t", key="k", headers={"a": "b"})
        outbox.publish_many(conn, [Message("t")])
        sql = "select count(*) from pg_prepared_statements where statement like '%insert into%'"
        (count,) = conn.execute(sql.encode(), prepare=False).fetchone() or (None,)
    assert count == 0


def test_a_connection_that_is_not_in_utf8(empty_url: str) -> None:
    with psycopg.connect(empty_url, client_encoding="latin1") as conn:
        outbox.publish(conn, "t", key="€", value=["€"], headers={"ä": "€"})
    (row,) = committed(empty_url)
    assert (row["key"], row["value"]) == ("€".encode(), '["€"]'.encode())
    assert (row["header_names"], row["header_values"]) == (["ä"], ["€".encode()])


@pytest.mark.parametrize("schema", ['strange "name" %s {}', "100%"])
def test_a_schema_of_another_name(pg: Connection, schema: str) -> None:
    pg.execute(postgres_tables(schema).encode())
    other = Outbox(schema=schema)
    other.publish(pg, "t")
    other.publish_many(pg, [Message("t")])
    quoted = psycopg.sql.Identifier(schema, "outbox")
    count = pg.execute(psycopg.sql.SQL("select count(*) from {}").format(quoted)).fetchone()
    assert count == (2,)


def test_missing_tables_are_explained(pg: Connection) -> None:
    for publish in (
        lambda: Outbox("elsewhere").publish(pg, "t"),
        lambda: Outbox("elsewhere").publish_many(pg, [Message("t")]),
    ):
        with pytest.raises(ConfigurationError, match="run `onecommit init`") as caught:
            publish()
        assert caught.value.context == {"schema": "elsewhere"}
        assert isinstance(caught.value.__cause__, psycopg.errors.UndefinedTable)
        pg.rollback()


def test_other_errors_of_the_driver_pass_through(pg: Connection) -> None:
    pg.read_only = True
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        outbox.publish(pg, "t")


def test_threads_share_an_outbox(empty_url: str) -> None:
    shared = Outbox()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with psycopg.connect(empty_url) as conn:
                for n in range(25):
                    shared.publish(conn, "t", key=f"{number}.{n}")
                    conn.commit()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    keys = {row["key"] for row in committed(empty_url)}
    assert keys == {f"{number}.{n}".encode() for number in range(8) for n in range(25)}


def test_a_subclass_of_connection(empty_url: str) -> None:
    class Own(psycopg.Connection[Any]):
        pass

    with Own.connect(empty_url) as conn:
        outbox.publish(conn, "t")
    assert len(committed(empty_url)) == 1
