"""`onecommit adopt` where everything is in files: one of them is restored, replaced or gone."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from .adoption import Adoption
from .installation import Installation, embedded
from .sqlite_outbox import SqliteOutbox
from .topic_log import TopicLog

BACKLOG = 50


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Installation]:
    """An embedded installation that has delivered and pruned, with no relay now."""
    installation = embedded(tmp_path)
    try:
        installation.init()
        installation.deliver(BACKLOG)
        yield installation
    finally:
        installation.close()


def outbox_file(made: Installation) -> Path:
    assert isinstance(made.outbox, SqliteOutbox)
    return made.outbox.path


def topic_log_file(made: Installation) -> Path:
    assert isinstance(made.topics, TopicLog)
    return made.topics.path


def copy(file: Path, to: Path) -> None:
    """A consistent copy of a SQLite file."""
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def replace_file(file: Path, by: Path) -> None:
    for ending in ("-wal", "-shm"):
        file.with_name(file.name + ending).unlink(missing_ok=True)
    shutil.copy(by, file)


def test_an_outbox_restored_from_a_backup(made: Installation, tmp_path: Path) -> None:
    made.outbox.burst(made.topic, BACKLOG)
    backup = tmp_path / "backup"
    copy(outbox_file(made), backup)
    relay = made.relay()
    made.wait_delivered()
    relay.stop()
    replace_file(outbox_file(made), backup)
    made.outbox.burst(made.topic, 7)

    adoption = Adoption(made)
    adoption.refused("barrier row")
    said = adoption.adopt()
    assert said["messages"] == BACKLOG + 7
    report = adoption.deliver(said, made.outbox.ledger())
    assert report.counts() == {"duplicate": BACKLOG}


def test_a_topic_log_that_knows_a_later_owner(made: Installation) -> None:
    """Its epoch is far above all that outbox, leases and progress know, which were set back."""
    made.outbox.burst(made.topic, 7)
    made.outbox.execute("delete from onecommit_barrier")
    (topic_log_file(made).parent / "leases.db").unlink()
    with closing(sqlite3.connect(topic_log_file(made))) as connection, connection:
        changed = connection.execute("update deliverer set epoch = 100000")
        assert changed.rowcount == 1
    adoption = Adoption(made)
    said = adoption.adopt()
    report = adoption.deliver(said, made.outbox.ledger())
    assert not report.findings, str(report)


@pytest.mark.parametrize("how", ["removed", "replaced", "restored"])
def test_a_topic_log(made: Installation, tmp_path: Path, how: str) -> None:
    backup = tmp_path / "backup"
    copy(topic_log_file(made), backup)
    before = made.outbox.ledger()
    made.deliver(BACKLOG)
    made.outbox.burst(made.topic, 7)
    if how == "removed":
        topic_log_file(made).unlink()
        relay = made.relay()
        relay.wait_for("the topic log is not there: restore it.*onecommit adopt")
        relay.stop()
    elif how == "replaced":
        other = embedded(tmp_path_of(tmp_path))
        other.init()
        replace_file(topic_log_file(made), topic_log_file(other))
    else:
        replace_file(topic_log_file(made), backup)

    adoption = Adoption(made)
    if how != "removed":
        adoption.refused("is another one" if how == "replaced" else "barrier row")
    said = adoption.adopt()
    assert said["messages"] == 7 and said["twice_at_most"] == 7
    known = {message.message_id for message in before}
    waiting = [message for message in made.outbox.ledger()[-7:] if message.message_id not in known]
    report = adoption.deliver(said, waiting + (before if how == "restored" else []))
    assert "duplicate" not in report.counts(), str(report)


def tmp_path_of(folder: Path) -> Path:
    """A folder for another installation."""
    other = folder / "other"
    other.mkdir()
    return other
