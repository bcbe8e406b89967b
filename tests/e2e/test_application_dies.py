"""An application is killed with its messages published: only its commit decides about them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import dying_application
from .dying_application import COMMITS, MESSAGES
from .installation import Installation, PostgresInstallation, Servers, embedded
from .waiting import LIMIT_S

ROUNDS = 3


@pytest.fixture(params=["psycopg", "sqlite3"])
def stores(
    request: pytest.FixtureRequest, servers: Servers, tmp_path: Path
) -> Iterator[Installation]:
    """An installation for each driver that the package publishes through."""
    sqlite = request.param == "sqlite3"
    made = embedded(tmp_path) if sqlite else PostgresInstallation(servers, tmp_path)
    try:
        made.init()
        yield made
    finally:
        made.close()


def published_and_killed(installation: Installation, end: str) -> list[str]:
    """Runs the application to its death; the ids of the messages that it had published."""
    program = dying_application.__file__
    command = [sys.executable, program, installation.outbox.url, installation.topic, end]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == -signal.SIGKILL, done
    message_ids = done.stdout.split()
    assert len(message_ids) == MESSAGES, done
    return message_ids


def test_messages_of_a_killed_application_live_and_die_with_its_transaction(
    stores: Installation,
) -> None:
    relay = stores.relay()
    kept: set[str] = set()
    for _ in range(ROUNDS):
        published_and_killed(stores, "dies first")
        kept |= set(published_and_killed(stores, COMMITS))
    assert {message.message_id for message in stores.outbox.ledger()} == kept
    stores.finish(relay, at_least=ROUNDS * MESSAGES)
    assert stores.report().delivered == len(kept)
