"""A process that forks while it holds locks and is in the middle of a transaction: the child holds
nothing, waits for nothing, and takes nothing from its parent."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from typing import IO, Any

import onecommit
import pytest

from . import forking_application
from .forking_application import LEADS, LEAVES, OPENS_AGAIN, OPENS_IN_CHILD, USES
from .installation import Table
from .two_databases import TwoDatabases
from .waiting import LIMIT_S, RUN_LIMIT_S

FORKED = "this process was forked after `open`"
WAY = "open nothing before the fork, and in the child only"
ENDED = forking_application.EXIT_CODE


@pytest.fixture
def databases(databases: TwoDatabases) -> TwoDatabases:
    """What is held over many forks is not lost where a busy machine stands still."""
    made = databases.installation
    tables: dict[str, Table] = {
        "participants.billing": {"url": databases.url},
        "coordinator": {"deadline_ms": 120_000},
    }
    if made.zookeeper is not None:
        tables["zookeeper"] = {"servers": made.zookeeper, "session_timeout_ms": 30_000}
    made.configure(other=tables)
    return databases


def command(databases: TwoDatabases, what: str) -> list[str]:
    config = str(databases.installation.command_line.configuration)
    urls = [databases.installation.outbox.url, databases.url]
    return [sys.executable, forking_application.__file__, config, what, *urls]


def told(databases: TwoDatabases, what: str) -> list[tuple[str, Any]]:
    """What the application and its children have said."""
    run = subprocess.run(
        command(databases, what), capture_output=True, text=True, timeout=RUN_LIMIT_S, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return [(name, said) for name, said in map(json.loads, run.stdout.splitlines())]


def test_a_forked_child_is_told_so_and_touches_nothing_of_its_parents(
    databases: TwoDatabases,
) -> None:
    said = dict(told(databases, USES))
    lock, leader = said.pop("numbers")
    assert said.pop("held lock") == [False, True, lock], "lost, as far as the child goes"
    assert said.pop("held leader") == [False, True, leader]
    assert said.pop("garbage") == "collected"
    assert said.pop("parent") == ["two-phase", True]
    assert len(said) >= 13
    for what, error in said.items():
        assert str(error).startswith("InvalidError") and FORKED in error, (what, error)
        assert WAY in error, (what, error)


def test_a_forked_child_leaves_its_parents_blocks_as_it_wants(databases: TwoDatabases) -> None:
    assert told(databases, LEAVES) == [("error", ENDED), ("exit", ENDED)]


def test_a_forked_child_does_not_lead_while_another_program_does(databases: TwoDatabases) -> None:
    pipe = subprocess.PIPE
    words = command(databases, LEADS)
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        children = []
        try:
            number, child = line(process.stdout)
            children.append(child)
            process.kill()
            config = databases.installation.command_line.configuration
            with onecommit.open(config) as oc, oc.leader("job", timeout=LIMIT_S) as leader:
                assert leader.is_held and leader.number > number
                process.stdin.write("\n")
                process.stdin.flush()
                assert line(process.stdout) == [False, True, number]
        finally:
            process.kill()
            for child in children:
                os.kill(child, signal.SIGKILL)


def line(output: IO[str]) -> Any:
    assert select.select([output], [], [], LIMIT_S)[0], "nothing was said"
    return json.loads(output.readline())[1]


def test_nothing_is_opened_anew_in_a_forked_child(databases: TwoDatabases) -> None:
    parent, *refused, after = told(databases, OPENS_AGAIN)
    assert parent == after == ("parent", "two-phase")
    assert [what for what, _ in refused] == ["closed before", "open", "async"]
    for what, error in refused:
        assert error.startswith("InvalidError: open: ") and FORKED in error, (what, error)
        assert WAY in error, (what, error)


def test_children_open_what_their_parent_has_not(databases: TwoDatabases) -> None:
    both = [("child", "two-phase")] * 2
    assert told(databases, OPENS_IN_CHILD) == [*both, ("parent", "two-phase")]
