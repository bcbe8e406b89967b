"""`onecommit init --remove`: what it shows, when it refuses, and what is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from .adoption import long_leases
from .command_line import CONFIGURATION, FAILED, REFUSED
from .conftest import MakeInstallation
from .installation import Installation, PostgresInstallation, embedded
from .kafka_topics import REQUEST_LIMIT_S, progress_topics
from .waiting import wait_until

BACKLOG = 50


@pytest.fixture
def on_servers(make_installation: MakeInstallation) -> PostgresInstallation:
    made = make_installation(zookeeper=True)
    made.configure(other=long_leases(made))
    made.init()
    made.deliver(BACKLOG)
    return made


@pytest.fixture
def on_files(tmp_path: Path) -> Iterator[Installation]:
    made = embedded(tmp_path)
    made.configure(other=long_leases(made))
    made.init()
    made.deliver(BACKLOG)
    try:
        yield made
    finally:
        made.close()


def topics(made: PostgresInstallation) -> list[str]:
    admin = AdminClient({"bootstrap.servers": made.servers.kafka})
    listed = admin.list_topics(timeout=REQUEST_LIMIT_S).topics
    return [topic for topic in listed if made.name in topic]


def has_schema(made: PostgresInstallation) -> bool:
    with psycopg.connect(made.database_url) as connection:
        sql = "select 1 from pg_namespace where nspname = 'onecommit'"
        return connection.execute(sql).fetchone() is not None


def test_all_of_ours_goes_and_the_topics_for_messages_stay(
    on_servers: PostgresInstallation,
) -> None:
    made = on_servers
    progress = made.progress_topic()
    stays = set(topics(made)) - {progress}
    # An `init` that was late and began anew has left another one.
    assert stays - set(progress_topics(made.servers.kafka, made.name)) == {made.topic}
    done = made.command_line.answered("yes", "init", "--remove")
    assert done.returncode == FAILED and "nothing was changed" in done.stderr, done
    assert has_schema(made)
    done = made.command_line.answered(made.name, "init", "--remove")
    assert done.returncode == 0 and f"({made.name})" in done.stderr, done
    assert "removed" in done.stdout, done
    assert not has_schema(made)
    # The broker may hear of it a little later.
    wait_until(lambda: set(topics(made)) == stays, "the topic for messages alone is there")
    assert "nothing is there" in made.command_line.succeed("init", "--remove")
    relay = made.relay()
    assert relay.wait() == 2 and "onecommit init" in relay.text()


def test_messages_that_wait_are_not_thrown_away(on_files: Installation) -> None:
    made = on_files
    made.outbox.burst(made.topic, 7)
    words = ["init", "--remove", "--yes"]
    done = made.command_line.reached(*words)
    assert done.returncode == REFUSED and "messages: 7" in done.stderr, done
    assert "7 messages that were not delivered" in done.stdout
    told = made.command_line.succeed("--json", *words, "--discard-undelivered")
    (participant,) = json.loads(told)["participants"]
    assert participant == {"participant": "main", "undelivered_messages": 7}
    done = made.command_line.reached("status")
    assert done.returncode == CONFIGURATION, done


@pytest.mark.parametrize("given", ["on_servers", "on_files"])
def test_no_relay_may_live(given: str, request: pytest.FixtureRequest) -> None:
    made: Installation = request.getfixturevalue(given)
    relay = made.relay()
    relay.wait_for("delivers", times=made.outbox.shards)
    done = made.command_line.reached("init", "--remove", "--yes", "--discard-undelivered")
    assert done.returncode == REFUSED and relay.id() in done.stderr, done
    made.outbox.burst(made.topic, BACKLOG)
    made.finish(relay, at_least=2 * BACKLOG)


def test_nobody_can_be_asked(on_files: Installation) -> None:
    done = on_files.command_line.reached("init", "--remove")
    assert done.returncode == CONFIGURATION and "--yes" in done.stderr, done
    done = on_files.command_line.reached("init", "--remove", "--topic", "t")
    assert done.returncode == CONFIGURATION, done
    on_files.outbox.burst(on_files.topic, BACKLOG)
    on_files.finish(on_files.relay(), at_least=2 * BACKLOG)
