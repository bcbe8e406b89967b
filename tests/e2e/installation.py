"""One fresh installation for one test: a database, a namespace, a topic and a configuration."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from confluent_kafka.admin import AdminClient
from psycopg import sql

from .checker import Report
from .command_line import CommandLine, RelayProcess
from .kafka_reader import TopicReader, check
from .postgres_load import SCHEMA, ledger, waiting_rows
from .waiting import wait_until

PARTITIONS = 3


@dataclass(frozen=True)
class Servers:
    """Where the servers are."""

    postgres: str
    kafka: str
    zookeeper: str


class Installation:
    """PostgreSQL to Kafka, ready for `init`; leases in ZooKeeper where that is asked for."""

    def __init__(self, servers: Servers, folder: Path, *, zookeeper: bool = False) -> None:
        self.servers = servers
        self.name = f"t{secrets.token_hex(5)}"
        self.topic = f"{self.name}.messages"
        self.folder = folder
        self.zookeeper = zookeeper
        self.shards = 2
        # Small batches, so that a few hundred messages pass every step many times.
        self.relay_settings = {
            "lease_timeout_ms": 1000,
            "batch_messages": 40,
            "retry_limit_ms": 500,
        }
        self.create_database()
        self.command_line = CommandLine(folder, self.configure())

    @property
    def database_url(self) -> str:
        """The test's own database."""
        return database_url(self.servers.postgres, self.name)

    def create_database(self) -> None:
        with psycopg.connect(self.servers.postgres, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(self.name)))
        with psycopg.connect(self.database_url) as connection:
            connection.execute(SCHEMA)

    def configure(self, name: str = "onecommit.toml", servers: Servers | None = None) -> Path:
        """Writes a configuration file; `servers` are those of the installation unless given."""
        servers = servers or self.servers
        tables: dict[str, Mapping[str, str | int | bool]] = {
            "kafka": {"bootstrap.servers": servers.kafka},
            "participants.main": {
                "url": database_url(servers.postgres, self.name),
                "outbox": True,
                "shards": self.shards,
            },
            "relay": self.relay_settings,
        }
        if self.zookeeper:
            tables["zookeeper"] = {"servers": servers.zookeeper, "session_timeout_ms": 1500}
        path = self.folder / name
        path.write_text(f'namespace = "{self.name}"\n' + "".join(map(_table, tables.items())))
        return path

    def init(self) -> None:
        """`onecommit init`, with the topic."""
        self.command_line.succeed("init", "--topic", self.topic, "--partitions", str(PARTITIONS))

    def relay(self, failpoints: str = "") -> RelayProcess:
        """Starts a relay."""
        return self.command_line.relay(failpoints)

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection to the test's database."""
        return psycopg.connect(self.database_url)

    def wait_delivered(self) -> None:
        """Waits until a consumer has seen all that is committed now."""
        wanted = {message.message_id for message in ledger(self.database_url)}
        reader = TopicReader(self.servers.kafka, [self.topic], "read_committed")
        try:
            reader.read_ids(wanted)
        finally:
            reader.close()

    def wait_pruned(self) -> None:
        """Waits until the outbox table is empty."""
        wait_until(lambda: waiting_rows(self.database_url) == 0, "outbox table is empty")

    def report(self) -> Report:
        """The checker's verdict on the topic as it is now."""
        return check(self.servers.kafka, [self.topic], ledger(self.database_url))

    def check_clean(self, at_least: int = 1) -> None:
        """No promise was broken, over at least so many messages."""
        report = self.report()
        assert report.committed >= at_least, f"only {report.committed} messages were committed"
        assert not report.findings, str(report)

    def finish(self, relay: RelayProcess, at_least: int = 1) -> None:
        """Everything committed arrives and the relay stops when told; then the verdict."""
        self.wait_delivered()
        relay.stop()
        self.check_clean(at_least)

    def close(self) -> None:
        """Ends the relays and removes database and topics."""
        self.command_line.close()
        with psycopg.connect(self.servers.postgres, autocommit=True) as connection:
            drop = sql.SQL("drop database if exists {} with (force)")
            connection.execute(drop.format(sql.Identifier(self.name)))
        admin = AdminClient({"bootstrap.servers": self.servers.kafka})
        topics = [topic for topic in admin.list_topics(timeout=15).topics if self.name in topic]
        for answer in admin.delete_topics(topics).values() if topics else []:
            answer.result(timeout=15)


def database_url(server: str, name: str) -> str:
    """The url of another database on the same server."""
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


def _table(named: tuple[str, Mapping[str, str | int | bool]]) -> str:
    name, values = named
    lines = [f'"{key}" = {_value(value)}\n' for key, value in values.items()]
    return f"[{name}]\n" + "".join(lines)


def _value(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)
