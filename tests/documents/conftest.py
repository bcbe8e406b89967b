"""A reader of documents, with servers, a database of their own and no topic of theirs yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.e2e.conftest import MakeInstallation, make_installation, servers
from tests.e2e.installation import PostgresInstallation
from tests.e2e.waiting import LIMIT_S, wait_until

from .document import FIRST_USE, README, blocks, places
from .follower import Follower

__all__ = ["make_installation", "servers"]

# Every topic that a document names, and what belongs to its namespace.
TOPICS = ("order.paid", "order.changed", "order.refunded", "account.changed", "onecommit.shop.")
ACCOUNTS = """
create table accounts (id int primary key, total int not null);
insert into accounts values (42, 7);
"""


@pytest.fixture
def made(make_installation: MakeInstallation) -> Iterator[PostgresInstallation]:
    """A database with the reader's own table, and a Kafka where nothing of theirs is."""
    found = make_installation()
    with found.postgres.connect() as connection:
        connection.execute(ACCOUNTS)
    remove_topics(found)
    yield found
    remove_topics(found)


def remove_topics(made: PostgresInstallation) -> None:
    admin = AdminClient({"bootstrap.servers": made.servers.kafka})

    def left() -> list[str]:
        there = admin.list_topics(timeout=LIMIT_S).topics
        return [name for name in there if name.startswith(TOPICS)]

    for topic in TOPICS:
        made.topics.remove(topic)
    wait_until(lambda: not left(), "the topics are gone")


@pytest.fixture
def put(made: PostgresInstallation) -> dict[str, str]:
    """The addresses of this test."""
    return places(made.database_url, made.servers.kafka)


@pytest.fixture
def follower(made: PostgresInstallation, tmp_path: Path) -> Iterator[Follower]:
    """Somebody in an empty folder."""
    folder = tmp_path / "reader"
    folder.mkdir()
    with closing(Follower(folder, made.database_url)) as somebody:
        yield somebody


@pytest.fixture
def shop(follower: Follower, put: dict[str, str]) -> Follower:
    """Somebody who has done the README's first use but for the program: a relay runs."""
    follower.follow(block for block in blocks(README, FIRST_USE, put) if block.language != "python")
    return follower
