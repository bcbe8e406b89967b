"""`status --watch` shows what changes, whatever is away meanwhile, until it is told to end."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from .command_line import CONFIGURATION
from .installation import Installation, embedded
from .waiting import LIMIT_S, wait_until

CTRL_C = 130
REPAINT = "\x1b[H\x1b[J"


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Installation]:
    """No server; `init` has run."""
    with closing(embedded(tmp_path)) as made:
        made.init()
        yield made


def start(local: Installation, *words: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        local.command_line.arguments(*words),
        cwd=local.folder,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(child: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    child.send_signal(number)
    _, said = child.communicate(timeout=LIMIT_S)
    return child.returncode, said


@contextmanager
def terminal() -> Iterator[tuple[int, list[str]]]:
    """A terminal to write to, and what it gets."""
    ours, theirs = pty.openpty()
    pieces: list[str] = []

    def read() -> None:
        try:
            while piece := os.read(ours, 65536):
                pieces.append(piece.decode())
        except OSError:
            pass  # Linux says so when nobody has the terminal open any more

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield theirs, pieces
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)


def test_a_terminal_is_painted_again_until_ctrl_c(local: Installation) -> None:
    with terminal() as (theirs, pieces):
        child = start(local, "status", "--watch", "1", stdout=theirs)

        def views() -> list[str]:
            return "".join(pieces).split(REPAINT)[1:]

        wait_until(lambda: len(views()) >= 2, "two views", explain=lambda: repr(pieces))
        local.outbox.burst(local.topic, 3)
        wait_until(lambda: "3 messages wait" in views()[-1], "it shows what waits")
        assert "every 1 s; Ctrl-C ends" in views()[0] and "nothing waits" in views()[0]
        assert end(child, signal.SIGINT) == (CTRL_C, "")


def lines(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert child.stdout is not None
    for line in child.stdout:
        found: dict[str, Any] = json.loads(line)
        yield found


def test_a_server_that_goes_away_is_shown_and_comes_back(local: Installation) -> None:
    log = local.folder / "data" / "topics.db"
    child = start(local, "--json", "status", "--watch", "1")
    told = lines(child)
    first = next(told)
    assert first["participants"][0]["error"] is None and first["at_ms"] > 0
    assert first["participants"][0]["oldest_undelivered_age_ms"] == 0
    log.rename(log.with_suffix(".moved"))
    away = next(one for one in told if one["participants"][0]["error"] is not None)
    assert "the topic log is not there" in away["participants"][0]["error"]
    assert away["participants"][0]["oldest_undelivered_age_ms"] is None
    log.with_suffix(".moved").rename(log)
    assert next(one for one in told if one["participants"][0]["error"] is None)
    assert end(child, signal.SIGTERM) == (0, "")


def test_a_pipe_gets_one_view_after_the_other_and_may_be_closed(local: Installation) -> None:
    child = start(local, "status", "--watch", "1")
    assert child.stdout is not None and child.stderr is not None
    read = [child.stdout.readline() for _ in range(5)]
    assert read[0].endswith("every 1 s; Ctrl-C ends\n") and read[3] == "\n", read
    assert "\x1b" not in "".join(read)
    child.stdout.close()
    assert (child.wait(LIMIT_S), child.stderr.read()) == (0, "")
    child.stderr.close()


@pytest.mark.parametrize("interval", ["0", "3601", "soon"])
def test_an_interval_is_between_a_second_and_an_hour(local: Installation, interval: str) -> None:
    done = local.command_line.run("status", "--watch", interval)
    assert done.returncode == CONFIGURATION and interval in done.stderr, done
