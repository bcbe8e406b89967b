"""`onecommit doctor` on real servers, with a fault planted for each thing that it looks at.

What can't be planted in a test (a clock that is wrong, a network file system, a transaction that is
prepared for minutes) is a case of the unit tests beside the judgement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from tests.servers import Kafka, Postgres, free_port

from .command_line import CommandLine
from .conftest import MakeInstallation
from .installation import Installation, PostgresInstallation, Servers, Table, embedded
from .kafka_topics import REQUEST_LIMIT_S
from .postgres_outbox import publish
from .standby import Standby
from .waiting import wait_until

OK, PROBLEMS, CONFIGURATION, UNREACHABLE = 0, 1, 2, 3
DEAD_ROWS = 210_000


class Found:
    """What a run of the doctor said."""

    def __init__(self, code: int, told: Mapping[str, Any]) -> None:
        self.code = code
        self.all: list[dict[str, str]] = list(told["findings"])
        assert told["problems"] == len(self.of("problem"))
        assert told["warnings"] == len(self.of("warning"))

    def of(self, severity: str) -> list[str]:
        return [
            f"{one['where']}: {one['what']}; {one['what_to_do']}"
            for one in self.all
            if one["severity"] == severity
        ]

    def has(self, severity: str, *words: str) -> bool:
        return any(all(word in said for word in words) for said in self.of(severity))


def examine(command_line: CommandLine) -> Found:
    """Where all servers are there: again where one is late."""
    return found_by(command_line.reached("--json", "doctor"))


def found_by(done: CompletedProcess[str]) -> Found:
    assert done.stdout, done
    found = Found(done.returncode, json.loads(done.stdout))
    for one in found.all:
        assert (one["what_to_do"] is None) == (one["severity"] == "ok"), one
    return found


def wait_told_unwritable(command_line: CommandLine, says: str) -> None:
    """Where nothing can be written, the code is that of a server that can't be reached."""

    def told() -> bool:
        return found_by(command_line.run("--json", "doctor")).has("problem", says)

    wait_until(told, f"{says!r} is told")


def with_tables(installation: Installation, tables: Mapping[str, Table]) -> CommandLine:
    return CommandLine(installation.folder, installation.configure("doctor.toml", tables))


def expect(found: Found, severity: str, *words: str) -> None:
    assert found.has(severity, *words), f"no {severity} says {words}: {found.all}"
    wanted = {"problem": PROBLEMS, "warning": OK}[severity]
    assert found.code == wanted or found.of("problem"), found.all


@pytest.fixture
def served(installation: PostgresInstallation) -> Iterator[PostgresInstallation]:
    """An installation whose shards are delivered."""
    relay = installation.relay()
    relay.wait_for("delivers", times=installation.outbox.shards)
    yield installation
    relay.kill()


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_a_healthy_installation_has_no_problem(served: PostgresInstallation) -> None:
    def served_by_a_relay() -> Found | None:
        """A relay that stands still for a moment counts as dead."""
        found = examine(served.command_line)
        return found if found.has("ok", "shard 1 is delivered by") else None

    found = wait_until(served_by_a_relay, "who delivers is told")
    assert found.code == OK and not found.of("problem"), found.all
    assert found.has("ok", "fsync is on") and found.has("ok", "clock")
    assert found.has("ok", "cleanup.policy is compact")
    assert found.has("ok", "release is 4.0 or later")
    told = served.command_line.succeed("doctor")
    assert "0 problems, " in told and "warning  Kafka: 1 brokers answer" in told
    assert "         what to do: run 3" in told


def test_nothing_embedded_is_missed_and_before_init_it_says_so(tmp_path: Path) -> None:
    with closing(embedded(tmp_path)) as made:
        found = examine(made.command_line)
        assert found.code == PROBLEMS and found.has("problem", "onecommit init"), found.all
        made.init()
        found = examine(made.command_line)
        assert found.code == OK and found.has("ok", "MiB are free"), found.all
        assert found.has("warning", "no relay delivers shard 0")
        made.outbox.burst(made.topic, 2)
        expect(examine(made.command_line), "problem", "2 messages wait in shard 0")
        wrong = made.folder / "wrong.toml"
        wrong.write_text("[relays]\n")
        assert CommandLine(made.folder, wrong).run("doctor").returncode == CONFIGURATION


@pytest.mark.parametrize(
    ("plant", "severity", "says"),
    [
        (
            "alter table onecommit.outbox set (autovacuum_enabled = false)",
            "problem",
            "autovacuum is switched off",
        ),
        (
            "alter sequence onecommit.outbox_id_seq cache 32",
            "problem",
            "changed by hand",
        ),
        (
            "update onecommit.installation set delivery_id = 'another'",
            "problem",
            "set up with another",
        ),
        (
            "update onecommit.installation set schema_version = 1000",
            "problem",
            "version 1000",
        ),
        (
            "update onecommit.shard set last_error = 'planted', last_error_at = now()",
            "problem",
            "planted",
        ),
    ],
)
def test_a_database_that_was_changed(
    installation: PostgresInstallation, plant: str, severity: str, says: str
) -> None:
    assert not examine(installation.command_line).has(severity, says)
    execute(installation.database_url, plant)
    expect(examine(installation.command_line), severity, says)


def test_settings_of_the_role_and_the_database(installation: PostgresInstallation) -> None:
    change = f"alter database {installation.name} set "
    execute(installation.database_url, change + "synchronous_commit = off")
    expect(examine(installation.command_line), "warning", "synchronous_commit is off")
    execute(installation.database_url, change + "default_transaction_read_only = on")
    wait_told_unwritable(installation.command_line, "default_transaction_read_only is on")


def test_rights_that_are_missing_are_named(installation: PostgresInstallation) -> None:
    role = f"{installation.name}_role"
    at = urlsplit(installation.database_url)
    url = at._replace(netloc=f"{role}@{at.hostname}:{at.port}").geturl()
    table: Table = {"url": url, "outbox": True, "shards": installation.outbox.shards}
    limited = with_tables(installation, {"participants.main": table})
    execute(installation.database_url, f"create role {role} login")
    try:
        found = examine(limited)
        expect(found, "problem", "USAGE on schema onecommit")
        expect(found, "warning", "grant pg_read_all_stats")
        execute(
            installation.database_url,
            f"grant usage on schema onecommit to {role}",
            f"grant select on all tables in schema onecommit to {role}",
        )
        expect(examine(limited), "problem", "DELETE on", "outbox", "UPDATE on", "shard")
        execute(
            installation.database_url,
            f"grant all on all tables in schema onecommit to {role}",
            f"grant all on all sequences in schema onecommit to {role}",
        )
        found = examine(limited)
        assert not found.has("problem", "lacks") and found.has("ok", role), found.all
    finally:
        execute(installation.database_url, f"drop owned by {role}", f"drop role {role}")


def test_rows_that_a_transaction_keeps_alive(installation: PostgresInstallation) -> None:
    with psycopg.connect(installation.database_url) as holds:
        holds.execute("set transaction isolation level repeatable read")
        holds.execute("select pg_current_snapshot()")
        execute(
            installation.database_url,
            f"insert into onecommit.outbox (topic) select 't' from generate_series(1, {DEAD_ROWS})",
            "delete from onecommit.outbox",
            "analyze onecommit.outbox",
        )

        def told() -> bool:
            return examine(installation.command_line).has("warning", f"{DEAD_ROWS} dead rows")

        wait_until(told, "dead rows are told")


@pytest.fixture
def careless(servers: Servers) -> Iterator[Servers]:
    """A server that whoever set it up wanted to be fast."""
    settings = ["fsync", "full_page_writes", "autovacuum", "track_counts"]
    with Postgres(settings={**dict.fromkeys(settings, "off"), "max_connections": "20"}) as own:
        yield replace(servers, postgres=own.dsn)


def test_a_careless_server(careless: Servers, make_installation: MakeInstallation) -> None:
    made = make_installation(careless)
    made.init()
    found = examine(made.command_line)
    for name in ("fsync", "full_page_writes", "autovacuum", "track_counts"):
        expect(found, "problem", f"{name} is off", "switch it on")
    held = [psycopg.connect(made.database_url) for _ in range(15)]
    expect(examine(made.command_line), "warning", "of 20 connections are open")
    for connection in held:
        connection.close()


@pytest.fixture
def primary() -> Iterator[Postgres]:
    with Postgres() as own:
        yield own


def test_a_standby_and_the_slot_that_it_leaves(
    primary: Postgres, servers: Servers, make_installation: MakeInstallation
) -> None:
    made = make_installation(replace(servers, postgres=primary.dsn))
    made.init()
    primary.query("select pg_create_physical_replication_slot('left_over')")
    with Standby(primary) as standby:
        for setting in ("hot_standby_feedback = on", "primary_slot_name = 'left_over'"):
            standby.query(f"alter system set {setting}")
        standby.query("select pg_reload_conf()")
        kept = "select 1 from pg_replication_slots where xmin is not null"
        wait_until(lambda: primary.query(kept) == [("1",)], "the slot keeps rows")
        standby.catch_up()
        table: Table = {"url": standby.database_url(made.name), "outbox": True, "shards": 2}
        reading = with_tables(made, {"participants.main": table})
        wait_told_unwritable(reading, "the server is a standby")
    wait_until(
        lambda: examine(made.command_line).has("warning", "left_over", "read by nobody"),
        "the slot is told",
    )


@pytest.fixture
def oldest(servers: Servers) -> Iterator[Servers]:
    with Postgres(version="13") as own:
        yield replace(servers, postgres=own.dsn)


def test_the_oldest_version_understands_what_it_is_asked(
    oldest: Servers, make_installation: MakeInstallation
) -> None:
    made = make_installation(oldest)
    made.init()
    found = examine(made.command_line)
    assert found.code == OK and found.has("ok", "PostgreSQL 13"), found.all


def alter(servers: str, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": servers})
    for answer in admin.incremental_alter_configs([resource]).values():
        answer.result(timeout=REQUEST_LIMIT_S)


@pytest.mark.parametrize(
    ("name", "value"),
    [("cleanup.policy", "delete"), ("unclean.leader.election.enable", "true")],
)
def test_a_progress_topic_that_forgets(
    installation: PostgresInstallation, name: str, value: str
) -> None:
    kafka = installation.servers.kafka
    alter(kafka, installation.progress_topic(), name, value)

    def told() -> bool:
        return examine(installation.command_line).has("problem", f"{name} is {value}")

    wait_until(told, "it is told")


def test_topics_of_waiting_messages(installation: PostgresInstallation) -> None:
    absent = f"{installation.name}.absent"
    with installation.postgres.connect() as connection:
        publish(connection, absent, b"k", b"v")
        publish(connection, installation.topic, b"k", b"v")
    expect(examine(installation.command_line), "problem", "is not there", f"--topic {absent}")
    execute(
        installation.database_url,
        "update onecommit.outbox set created_at = now() - interval '8 days'",
    )
    found = examine(installation.command_line)
    expect(found, "problem", installation.topic, "retention.ms is 604800000", "192 h old")
    alter(installation.servers.kafka, installation.topic, "message.timestamp.type", "LogAppendTime")
    alter(installation.servers.kafka, installation.topic, "max.message.bytes", "5000")

    def told() -> bool:
        found = examine(installation.command_line)
        small = found.has("warning", installation.topic, "max.message.bytes is 5000")
        return small and not found.has("problem", "retention.ms")

    wait_until(told, "its settings are told")


@pytest.fixture
def hasty(servers: Servers) -> Iterator[Servers]:
    """A broker that gives transactions less time than the relay asks for."""
    with Kafka(properties={"transaction.max.timeout.ms": "9000"}) as own:
        yield replace(servers, kafka=own.address)


def test_a_broker_that_allows_no_transaction_of_ours(
    hasty: Servers, make_installation: MakeInstallation
) -> None:
    made = make_installation(hasty)
    made.init()
    expect(examine(made.command_line), "problem", "transaction.max.timeout.ms is 9000")


def test_leases_in_two_places_and_a_session_that_lasts_longer(
    make_installation: MakeInstallation,
) -> None:
    made = make_installation(zookeeper=True)
    made.init()
    assert made.zookeeper is not None

    def version_is_told() -> Found | None:
        """ZooKeeper is given only a moment to tell it."""
        found = examine(made.command_line)
        return found if found.has("ok", f"{made.zookeeper} runs 3.") else None

    right = wait_until(version_is_told, "ZooKeeper's version is told")
    assert right.has("ok", "3000 ms are granted"), right.all
    assert right.has("ok", "no relay keeps its leases beside the outbox"), right.all
    # Its ticks of 500 ms allow no session below a second.
    zookeeper: Table = {"servers": made.zookeeper, "session_timeout_ms": 600}
    found = examine(with_tables(made, {"zookeeper": zookeeper}))
    expect(found, "warning", "600 ms is asked for, 1000 ms are granted")
    text = made.command_line.configuration.read_text()
    without = made.folder / "without.toml"
    without.write_text(text.split("[zookeeper]")[0])
    relay = made.command_line.relay(configuration=without)
    relay.wait_for("delivers", times=2)

    def told() -> bool:
        return examine(made.command_line).has("problem", "same configuration")

    wait_until(told, "it is told", explain=relay.text)
    relay.stop()


AWAY: dict[str, Callable[[str], dict[str, Table]]] = {
    "PostgreSQL": lambda address: {
        "participants.main": {
            "url": f"postgresql://postgres:verysecret@{address}/x",
            "outbox": True,
            "shards": 2,
        }
    },
    "Kafka": lambda address: {"kafka": {"bootstrap.servers": address}},
    "ZooKeeper": lambda address: {"zookeeper": {"servers": address, "session_timeout_ms": 1500}},
}


@pytest.mark.parametrize("server", list(AWAY))
def test_a_server_that_is_away(installation: PostgresInstallation, server: str) -> None:
    tables = AWAY[server](f"127.0.0.1:{free_port()}")
    command_line = with_tables(installation, tables)

    def others_are_looked_at() -> Found | None:
        """PostgreSQL may be late, and what is away is then told with it."""
        found = found_by(command_line.run("--json", "doctor"))
        assert found.code == UNREACHABLE, found.all
        return found if server == "PostgreSQL" or found.has("ok", "fsync is on") else None

    found = wait_until(others_are_looked_at, "the others are looked at")
    expect(found, "problem", "correct its address")
    assert "verysecret" not in str(found.all)
