"""What the core has to say, in Python's own log."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import onecommit
import pytest

from tests.e2e.waiting import wait_until

from .two_databases import TwoDatabases

# Nobody listens there.
AWAY = """
[zookeeper]
servers = "127.0.0.1:1"
"""
TOLD = "transactions can't be settled now"
FORKS = """
import logging, onecommit, os, sys
nowhere, away, told = sys.argv[1:]
try:
    onecommit.open(nowhere).__enter__()
except onecommit.UnreachableError:
    child = os.fork()
    if child == 0:
        logging.getLogger("onecommit").addHandler(logging.FileHandler(told))
        with onecommit.open(away):
            sys.stdin.read()
        sys.exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
PROGRAM = """
import onecommit, sys
with onecommit.open(sys.argv[1]):
    sys.stdin.read()
"""


def without_zookeeper(databases: TwoDatabases, folder: Path) -> Path:
    config = folder / "away.toml"
    config.write_text(databases.config.read_text() + AWAY)
    return config


def test_a_zookeeper_that_is_away_is_told_of(
    two_databases: TwoDatabases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with onecommit.open(without_zookeeper(two_databases, tmp_path)):
        wait_until(lambda: TOLD in caplog.text, "it is told", explain=lambda: caplog.text)
    found = [record for record in caplog.records if TOLD in record.getMessage()]
    assert {record.name for record in found} == {"onecommit"}
    assert found[0].levelno == logging.WARNING
    assert "127.0.0.1:1" in found[0].getMessage()


def test_without_any_logging_warnings_go_to_standard_error(
    two_databases: TwoDatabases, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(without_zookeeper(two_databases, tmp_path))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        # Beside it, that settings can't be followed.
        lines = [process.stderr.readline(), process.stderr.readline()]
        process.communicate("")
    assert any(TOLD in line for line in lines), lines
    assert process.returncode == 0


def test_a_forked_child_has_a_log_of_its_own(two_databases: TwoDatabases, tmp_path: Path) -> None:
    away, nowhere = without_zookeeper(two_databases, tmp_path), tmp_path / "nowhere.toml"
    nowhere.write_text('[participants.main]\nurl = "postgresql://127.0.0.1:1/none"\n')
    told = tmp_path / "told"
    told.touch()
    command = [sys.executable, "-c", FORKS, str(nowhere), str(away), str(told)]
    # The parent has a log, and has opened nothing.
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        wait_until(lambda: TOLD in told.read_text(), "it is told")
        process.communicate("")
    assert process.returncode == 0
