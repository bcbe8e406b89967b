"""Ctrl-C at any moment: a command ends with 130, and what it had begun is whole or not there. It is
held at a durable step, so that the signal meets it exactly there."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from .command_line import RelayProcess
from .conftest import MakeInstallation
from .crash_points import both
from .installation import Installation, embedded

CTRL_C = 130
MESSAGES = 200
RELAY = [
    "relay.take.after_lease",
    "outbox.claim.before_commit",
    "outbox.barrier.after_commit",
    "relay.batch.sent",
    "relay.batch.committed",
    "outbox.prune.before_commit",
]


def interrupted(process: RelayProcess, step: str) -> int:
    """Its exit code."""
    process.wait_hit(step)
    process.wait_paused()
    process.interrupt()
    process.resume()
    status = process.wait()
    wrong = re.search(r"panicked|^\S+ ERROR", process.text(), re.MULTILINE)
    assert not wrong, process.text()
    return status


@pytest.mark.parametrize("step", both("sqlite.birth", "init.outbox", "topic_log.create_topic"))
def test_a_command_is_begun_again(tmp_path: Path, step: str) -> None:
    with closing(embedded(tmp_path)) as made:
        words = ("init", "--topic", made.topic)
        status = interrupted(made.command_line.relay(f"{step}=stop", words=words), step)
        again = made.command_line.succeed(*words)
        # What is held at its last step may be through before it hears the signal.
        assert status == CTRL_C or (status == 0 and "made" not in again), (status, again)
        made.outbox.burst(made.topic, MESSAGES)
        made.finish(made.relay(), at_least=MESSAGES)


@pytest.mark.parametrize("stores", ["embedded", "postgres"])
@pytest.mark.parametrize("step", RELAY)
def test_a_relay_goes_on(
    stores: str, step: str, tmp_path: Path, make_installation: MakeInstallation
) -> None:
    made: Installation = embedded(tmp_path) if stores == "embedded" else make_installation()
    made.init()
    made.outbox.burst(made.topic, MESSAGES)
    assert interrupted(made.relay(f"{step}=stop@1"), step) == CTRL_C
    again = made.relay()
    again.wait_for("delivers", times=made.outbox.shards)
    made.finish(again, at_least=MESSAGES)
    if stores == "embedded":
        made.close()
