"""The files of an embedded installation, removed or replaced under a running relay.

An open file outlives its name: a relay that did not look would go on delivering into, or reading
from, what nobody else can see.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from .command_line import UNREACHABLE
from .installation import Installation, embedded
from .sqlite_outbox import SqliteOutbox

MESSAGES = 20


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Installation]:
    """No server; `init` has run."""
    with closing(embedded(tmp_path)) as made:
        made.init()
        yield made


def test_what_goes_into_a_removed_topic_log_stays_in_the_outbox(local: Installation) -> None:
    log = local.folder / "data" / "topics.db"
    aside = local.folder / "aside.db"
    local.outbox.burst(local.topic, MESSAGES)
    relay = local.relay()
    local.wait_delivered()
    local.wait_pruned()

    log.rename(aside)
    local.outbox.burst(local.topic, MESSAGES)
    relay.wait_for("removed or replaced while it was in use")
    relay.wait_for("the topic log is not there")
    assert local.outbox.waiting_rows() == MESSAGES
    for words in (["init", "--topic", "other"], ["consume", local.topic]):
        done = local.command_line.run(*words)
        assert done.returncode == UNREACHABLE and "the topic log is not there" in done.stderr, done
    assert not log.exists(), "none of them has made a new one"

    aside.rename(log)
    local.wait_pruned()
    local.finish(relay, at_least=2 * MESSAGES)


def test_an_outbox_that_is_replaced_is_opened_again(local: Installation) -> None:
    local.outbox.burst(local.topic, MESSAGES)
    relay = local.relay()
    local.wait_delivered()
    local.wait_pruned()

    assert isinstance(local.outbox, SqliteOutbox)
    relay.pause()
    replace_by_copy(local.outbox.path)
    relay.resume()
    local.outbox.burst(local.topic, MESSAGES)
    local.wait_delivered()
    local.wait_pruned()
    assert "removed or replaced while it was in use" in relay.text()
    local.finish(relay, at_least=2 * MESSAGES)


def replace_by_copy(path: Path) -> None:
    """As a person replaces a database: all in the one file, and nothing of the old one left."""
    copy = path.with_name("copy.db")
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)
    for leftover in path.parent.glob(f"{path.name}-*"):
        leftover.unlink()
    os.replace(copy, path)
