"""One fresh installation for one test: a database, a namespace, a topic and a configuration."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .checker import Report
from .command_line import CommandLine, RelayProcess
from .kafka_topics import KafkaTopics, progress_topics
from .postgres_outbox import PostgresOutbox
from .sqlite_outbox import SqliteOutbox
from .topic_log import TopicLog
from .waiting import wait_until

PARTITIONS = 3
Table = Mapping[str, str | int | bool]


@dataclass(frozen=True)
class Servers:
    """Where the servers are."""

    postgres: str
    kafka: str
    zookeeper: str


class Installation:
    """Stores and configuration, ready for `init`."""

    def __init__(
        self,
        name: str,
        folder: Path,
        outbox: PostgresOutbox | SqliteOutbox,
        topics: KafkaTopics | TopicLog,
        zookeeper: str | None,
    ) -> None:
        self.name = name
        self.topic = f"{name}.messages"
        self.all_topics = [self.topic]
        self.folder = folder
        self.outbox = outbox
        self.topics = topics
        self.zookeeper = zookeeper
        # Small batches, so that a few hundred messages pass every step many times.
        self.relay_settings: dict[str, int] = {
            "lease_timeout_ms": 3000,
            "batch_messages": 40,
            "retry_limit_ms": 500,
        }
        self.command_line = CommandLine(folder, self.configure())

    def configure(
        self, name: str = "onecommit.toml", other: Mapping[str, Table] | None = None
    ) -> Path:
        """Writes a configuration file; `other` tables replace the installation's own."""
        participant: Table = {
            "url": self.outbox.url,
            "outbox": True,
            "shards": self.outbox.shards,
        }
        tables: dict[str, Table] = {
            **self.topics.configuration(),
            "participants.main": participant,
            "relay": self.relay_settings,
        }
        if self.zookeeper is not None:
            tables["zookeeper"] = {"servers": self.zookeeper, "session_timeout_ms": 3000}
        tables.update(other or {})
        path = self.folder / name
        head = f'namespace = "{self.name}"\ndata_dir = "{self.folder / "data"}"\n'
        path.write_text(head + "".join(map(_table, tables.items())))
        return path

    def init(self) -> None:
        """`onecommit init`, with the topic."""
        self.command_line.succeed("init", "--topic", self.topic, "--partitions", str(PARTITIONS))

    def relay(self, failpoints: str = "") -> RelayProcess:
        """Starts a relay."""
        return self.command_line.relay(failpoints)

    def wait_delivered(self) -> None:
        """Waits until a consumer has seen all that is committed now."""
        wanted = {message.message_id for message in self.outbox.ledger()}
        try:
            self.topics.wait_delivered(self.all_topics, wanted)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.command_line.said()}") from None

    def wait_pruned(self) -> None:
        """Waits until the outbox table is empty."""
        wait_until(
            lambda: self.outbox.waiting_rows() == 0,
            "outbox table is empty",
            explain=self.command_line.said,
        )

    def deliver(self, messages: int) -> None:
        """Publishes so many; they are delivered and pruned, and no relay is left."""
        self.outbox.burst(self.topic, messages)
        relay = self.relay()
        self.wait_delivered()
        self.wait_pruned()
        relay.stop()

    def setting(self, key: str) -> tuple[str, str]:
        """A setting's value, and where it comes from."""
        told = self.command_line.succeed("--json", "settings", "get", key)
        (found,) = json.loads(told)["settings"]
        return found["value"], found["source"]

    def owners(self) -> set[str | None]:
        """Who owns the shards; None stands for those that nobody does."""
        return {shard["owner"] for shard in self.command_line.status()}

    def wait_shared(self, relays: int) -> set[str | None]:
        """Waits until the shards are shared out among so many relays; returns their ids."""

        def shared() -> set[str | None]:
            # A busy ZooKeeper does not always answer in time.
            shards = self.command_line.status_if_reached()
            found = {shard["owner"] for shard in shards}
            return found if None not in found and len(found) == relays else set()

        what = f"shards shared among {relays}"
        explain = self.command_line.status_if_reached
        return wait_until(shared, what, explain=lambda: str(explain()))

    def report(self) -> Report:
        """The checker's verdict on the topics as they are now."""
        return self.topics.check(self.all_topics, self.outbox.ledger())

    def check_clean(self, at_least: int = 1) -> None:
        """No promise was broken, over at least so many messages."""
        report = self.report()
        assert report.committed >= at_least, f"only {report.committed} messages were committed"
        assert not report.findings, str(report)

    def finish(self, *relays: RelayProcess, at_least: int = 1) -> None:
        """Everything committed arrives and the relays stop when told; then the verdict."""
        self.wait_delivered()
        for relay in relays:
            relay.stop()
        self.check_clean(at_least)

    def close(self) -> None:
        """Ends the relays and removes database and topics."""
        self.command_line.close()
        self.outbox.drop()
        self.topics.remove(self.name)


class PostgresInstallation(Installation):
    """PostgreSQL to Kafka; leases in ZooKeeper where that is asked for."""

    def __init__(self, servers: Servers, folder: Path, *, zookeeper: bool = False) -> None:
        name = fresh_name()
        self.servers = servers
        self.postgres = PostgresOutbox(servers.postgres, name)
        kafka = KafkaTopics(servers.kafka)
        super().__init__(
            name, folder, self.postgres, kafka, servers.zookeeper if zookeeper else None
        )

    @property
    def database_url(self) -> str:
        """The test's own database."""
        return self.postgres.url

    def progress_topic(self) -> str:
        """The one of its incarnation: a broker may hear of it a little later."""
        with self.postgres.connect() as connection:
            row = connection.execute(
                "select incarnation::text from onecommit.installation"
            ).fetchone()
        assert row is not None

        def found() -> str | None:
            named = progress_topics(self.servers.kafka, self.name)
            return next((topic for topic in named if str(row[0]) in topic), None)

        return wait_until(found, "the progress topic is there")


def embedded(folder: Path) -> Installation:
    """SQLite to the topic log, without any server."""
    name = fresh_name()
    return Installation(name, folder, SqliteOutbox(folder, name), TopicLog(folder / "data"), None)


def postgres_to_topic_log(servers: Servers, folder: Path) -> Installation:
    """PostgreSQL to the topic log."""
    name = fresh_name()
    outbox = PostgresOutbox(servers.postgres, name)
    return Installation(name, folder, outbox, TopicLog(folder / "data"), None)


def sqlite_to_kafka(kafka: str, folder: Path) -> Installation:
    """SQLite to Kafka."""
    name = fresh_name()
    return Installation(name, folder, SqliteOutbox(folder, name), KafkaTopics(kafka), None)


def fresh_name() -> str:
    """A namespace that nobody uses."""
    return f"t{secrets.token_hex(5)}"


def _table(named: tuple[str, Table]) -> str:
    name, values = named
    lines = [f'"{key}" = {_value(value)}\n' for key, value in values.items()]
    return f"[{name}]\n" + "".join(lines)


def _value(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)
