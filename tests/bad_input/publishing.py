"""What can be wrong with a message, and with the connection by which it is published."""

from __future__ import annotations

from tests.planted.bug import e2e

from .case import Place, proved, python, tried

OVER_THE_LIMIT = 256 * 1024 * 1024 + 1


def publish_after_a_failure(at: Place) -> None:
    """The transaction was aborted by PostgreSQL and not rolled back yet."""
    try:
        at.pg.execute("select 1 / 0")
    except Exception:
        at.publish(by=at.pg)


def publish_on_a_closed_one(at: Place, connection: object) -> None:
    connection.close()  # type: ignore[attr-defined]
    at.publish(by=connection)


def publish_in_autocommit(at: Place) -> None:
    at.pg.rollback()
    at.pg.autocommit = True
    at.publish(by=at.pg)


def publish_in_autocommit_of_sqlite(at: Place) -> None:
    at.lite.isolation_level = None
    at.publish()


def publish_without_tables(at: Place) -> None:
    at.pg.execute("drop schema onecommit cascade")
    at.publish(by=at.pg)


def publish_without_tables_in_sqlite(at: Place) -> None:
    at.lite.execute("begin")
    at.lite.execute("drop table onecommit_outbox")
    at.publish()


def publish_into_another_version(at: Place) -> None:
    at.pg.execute("alter table onecommit.outbox rename column message_id to uid")
    at.publish(by=at.pg)


def publish_into_another_version_of_sqlite(at: Place) -> None:
    at.lite.execute("begin")
    at.lite.execute("alter table onecommit_outbox rename column message_id to uid")
    at.publish()


PUBLISHING = [
    tried(
        "an empty topic",
        "InvalidError",
        "publish: the topic's name is empty: name the Kafka topic",
        act=lambda at: at.publish(""),
    ),
    tried(
        "an illegal topic",
        "InvalidError",
        "a topic's name has only letters, digits, . _ and -, not '/'",
        'topic: "orders/paid"',
        act=lambda at: at.publish("orders/paid"),
    ),
    tried(
        "a topic with a NUL",
        "InvalidError",
        "a topic's name has only letters, digits, . _ and -, not '\\0'",
        act=lambda at: at.publish("a\0b"),
    ),
    tried(
        "a topic of 250 characters",
        "InvalidError",
        "the topic's name has 250 characters, Kafka takes 249",
        'topic: "xxx',
        act=lambda at: at.publish("x" * 250),
    ),
    tried(
        "a topic that is no text",
        "InvalidError",
        "the topic is a str, not int",
        act=lambda at: at.publish(42),
    ),
    tried(
        "a value over the limit",
        "InvalidError",
        "key, value and headers have more than 268435456 bytes",
        "keep the content elsewhere, and publish where it is",
        "topic: t, bytes: 268435457",
        act=lambda at: at.publish(value=bytes(OVER_THE_LIMIT)),
    ),
    proved(
        "a value over Kafka's limit",
        "a dead letter; later messages of its key wait, everything else goes on",
        e2e(
            "test_dead_letters.py::"
            "test_a_dead_letter_parks_its_key_and_nothing_else_until_it_is_retried"
        ),
        says=["it has … bytes, more than `message.max.bytes` of [kafka] allows"],
    ),
    proved(
        "a key with NUL, or that is no UTF-8",
        "it is delivered as it is",
        python("test_psycopg.py::test_all_parts_are_stored"),
        python("test_sqlite.py::test_all_parts_are_stored"),
        e2e(
            "test_relay.py::"
            "test_every_part_of_a_message_arrives_and_keys_choose_partitions_as_in_java"
        ),
    ),
    tried(
        "a key that is a str and no UTF-8",
        "InvalidError",
        "the key can't be encoded as UTF-8: it holds a lone surrogate",
        "topic: t",
        act=lambda at: at.publish(key="\ud800"),
        cause="UnicodeEncodeError",
    ),
    tried(
        "a key of a type that has no bytes",
        "InvalidError",
        "the key is complex: pass str, bytes, dict, list, a number, a bool or None",
        "`encoder=`",
        "topic: t",
        act=lambda at: at.publish(key=1j),
    ),
    tried(
        "a value that is no JSON",
        "InvalidError",
        "the value can't be written as JSON",
        "Object of type set is not JSON serializable",
        "topic: t",
        act=lambda at: at.publish(value={"a": {1}}),
        cause="TypeError",
    ),
    tried(
        "10,000 headers",
        "InvalidError",
        "10000 headers, at most 1000 are taken",
        "topic: t",
        act=lambda at: at.publish(headers=[("a", None)] * 10_000),
    ),
    tried(
        "a reserved header",
        "InvalidError",
        "headers that start with onecommit- are Onecommit's own: choose another name",
        'header: "onecommit-id"',
        act=lambda at: at.publish(headers={"onecommit-id": "x"}),
    ),
    tried(
        "a header's name with a NUL",
        "InvalidError",
        "a header's name is not empty and has no NUL character",
        'header: "a\\0b"',
        act=lambda at: at.publish(headers={"a\0b": "x"}),
    ),
    tried(
        "a negative partition",
        "InvalidError",
        "a partition's number is 0 or more",
        "topic: t",
        act=lambda at: at.publish(partition=-1),
    ),
    tried(
        "many messages that are none",
        "InvalidError",
        "publish_many takes Message objects in an iterable, not int",
        act=lambda at: at.publish_many(5),
    ),
    tried(
        "one of many that is none",
        "InvalidError",
        "publish_many takes Message objects, not str",
        "index: 0",
        act=lambda at: at.publish_many(["t"]),
    ),
    tried(
        "publish on a closed connection",
        "InvalidError",
        "the connection is closed: open another one",
        "connection: psycopg.Connection",
        act=lambda at: publish_on_a_closed_one(at, at.pg),
    ),
    tried(
        "publish on a closed connection of SQLite",
        "InvalidError",
        "the connection is closed: open another one",
        "connection: sqlite3.Connection",
        act=lambda at: publish_on_a_closed_one(at, at.lite),
        cause="ProgrammingError",
    ),
    tried(
        "publish in an aborted transaction",
        "InvalidError",
        "the transaction has failed already: roll it back, then begin again",
        "connection: psycopg.Connection",
        act=publish_after_a_failure,
    ),
    tried(
        "publish in autocommit",
        "InvalidError",
        "the connection is in autocommit mode and no transaction is open",
        "open one by `with conn.transaction():`, or turn autocommit off",
        "connection: psycopg.Connection",
        act=publish_in_autocommit,
    ),
    tried(
        "publish in autocommit of SQLite",
        "InvalidError",
        "the connection is in autocommit mode and no transaction is open",
        "execute `begin` first, or turn autocommit off",
        "connection: sqlite3.Connection",
        act=publish_in_autocommit_of_sqlite,
    ),
    tried(
        "publish on what is no connection",
        "InvalidError",
        "this is no connection of psycopg (version 3) or sqlite3",
        "connection: builtins.str",
        act=lambda at: at.publish(by="postgresql://localhost"),
    ),
    tried(
        "a connection that is not asynchronous",
        "InvalidError",
        "this connection is not asynchronous: use Outbox",
        act=lambda at: at.publish_async(),
    ),
    proved(
        "a forgotten await",
        "Python warns, and a type checker reports it",
        python("test_async.py::test_a_forgotten_await_is_reported"),
        python("test_typing.py::test_wrong_use_is_an_error_and_so_is_a_forgotten_await"),
    ),
    tried(
        "tables that are not there",
        "ConfigurationError",
        "the outbox's tables are missing in this database: run `onecommit init`",
        "schema: onecommit",
        act=publish_without_tables,
        cause="UndefinedTable",
    ),
    tried(
        "tables that are not there in SQLite",
        "ConfigurationError",
        "the outbox's tables are missing in this database: run `onecommit init`",
        "table: onecommit_outbox",
        act=publish_without_tables_in_sqlite,
        cause="OperationalError",
    ),
    tried(
        "tables of another version",
        "ConfigurationError",
        "the outbox's table is of another version than this package: run `onecommit init`",
        "schema: onecommit",
        act=publish_into_another_version,
        cause="UndefinedColumn",
    ),
    tried(
        "tables of another version in SQLite",
        "ConfigurationError",
        "the outbox's table is of another version than this package: run `onecommit init`",
        "table: onecommit_outbox",
        act=publish_into_another_version_of_sqlite,
        cause="OperationalError",
    ),
    proved(
        "a role that may not publish",
        "ConfigurationError, which says what to grant",
        e2e("test_postgres_rights.py::test_a_writer_in_python_is_told_by_an_exception_of_ours"),
    ),
]
