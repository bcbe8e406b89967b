"""`onecommit init --remove`: what it shows, when it refuses, and what is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from .conftest import MakeInstallation
from .installation import Installation, PostgresInstallation, embedded
from .terminal import answered

BACKLOG = 50


@pytest.fixture
def on_servers(make_installation: MakeInstallation) -> PostgresInstallation:
    made = make_installation(zookeeper=True)
    made.init()
    made.deliver(BACKLOG)
    return made


@pytest.fixture
def on_files(tmp_path: Path) -> Iterator[Installation]:
    made = embedded(tmp_path)
    made.init()
    made.deliver(BACKLOG)
    try:
        yield made
    finally:
        made.close()


def topics(made: PostgresInstallation) -> list[str]:
    admin = AdminClient({"bootstrap.servers": made.servers.kafka})
    return [topic for topic in admin.list_topics(timeout=15).topics if made.name in topic]


def has_schema(made: PostgresInstallation) -> bool:
    with psycopg.connect(made.database_url) as connection:
        sql = "select 1 from pg_namespace where nspname = 'onecommit'"
        return connection.execute(sql).fetchone() is not None


def test_all_of_ours_goes_and_the_topics_for_messages_stay(
    on_servers: PostgresInstallation,
) -> None:
    made = on_servers
    assert len(topics(made)) == 2
    command = made.command_line.arguments("init", "--remove")
    status, printed, shown = answered(command, made.folder, "yes")
    assert status == 1 and "nothing was changed" in shown and has_schema(made)
    status, printed, shown = answered(command, made.folder, made.name)
    assert status == 0 and f"({made.name})" in shown and "removed" in printed, shown
    assert not has_schema(made)
    assert topics(made) == [made.topic]
    assert "nothing is there" in made.command_line.succeed("init", "--remove")
    relay = made.relay()
    assert relay.wait() == 2 and "onecommit init" in relay.text()


def test_messages_that_wait_are_not_thrown_away(on_files: Installation) -> None:
    made = on_files
    made.outbox.burst(made.topic, 7)
    words = ["init", "--remove", "--yes"]
    done = made.command_line.run(*words)
    assert done.returncode == 4 and "messages: 7" in done.stderr, done
    assert "7 messages that were not delivered" in done.stdout
    done = made.command_line.run("--json", *words, "--discard-undelivered")
    assert done.returncode == 0, done
    (participant,) = json.loads(done.stdout)["participants"]
    assert participant == {"participant": "main", "undelivered_messages": 7}
    done = made.command_line.run("status")
    assert done.returncode == 2, done


@pytest.mark.parametrize("given", ["on_servers", "on_files"])
def test_no_relay_may_live(given: str, request: pytest.FixtureRequest) -> None:
    made: Installation = request.getfixturevalue(given)
    relay = made.relay()
    relay.wait_for("delivers", times=made.outbox.shards)
    done = made.command_line.run("init", "--remove", "--yes", "--discard-undelivered")
    assert done.returncode == 4 and relay.id() in done.stderr, done
    made.outbox.burst(made.topic, BACKLOG)
    made.finish(relay, at_least=2 * BACKLOG)


def test_nobody_can_be_asked(on_files: Installation) -> None:
    done = on_files.command_line.run("init", "--remove")
    assert done.returncode == 2 and "--yes" in done.stderr, done
    done = on_files.command_line.run("init", "--remove", "--topic", "t")
    assert done.returncode == 2, done
    on_files.outbox.burst(on_files.topic, BACKLOG)
    on_files.finish(on_files.relay(), at_least=2 * BACKLOG)
