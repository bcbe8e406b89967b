"""What the demo shows while it runs: a line that changes in place on a terminal, nothing in a
pipe."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from .command_line import BINARY
from .terminal import on_a_terminal
from .waiting import RUN_LIMIT_S

DEMO = [str(BINARY), "demo", "--messages", "2000", "--kills", "1"]
ERASE = "\x1b[K"


def test_a_terminal_shows_one_line_that_changes_and_is_gone_at_the_end(tmp_path: Path) -> None:
    code, printed, shown = on_a_terminal(DEMO, tmp_path)
    assert code == 0, shown
    assert "\n" not in shown, shown
    published = [int(number) for number in re.findall(r"\r *(\d+) published, ", shown)]
    assert len(set(published)) > 2 and published == sorted(published), shown
    assert re.search(r" delivered, +1 kills", shown), shown
    assert shown.rstrip("\r").endswith(f"\r{ERASE}"), shown
    assert "Exactly once, in order" in printed and "\r" not in printed, printed


def test_a_pipe_gets_the_verdict_only(tmp_path: Path) -> None:
    done = subprocess.run(
        DEMO, cwd=tmp_path, capture_output=True, text=True, timeout=RUN_LIMIT_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Exactly once, in order" in done.stdout
    assert "\r" not in done.stdout and "\x1b" not in done.stdout, done.stdout


def test_json_is_quiet_on_a_terminal_too(tmp_path: Path) -> None:
    code, printed, shown = on_a_terminal([*DEMO, "--json"], tmp_path)
    assert (code, shown) == (0, "")
    assert printed.count("\n") == 1 and printed.startswith("{"), printed
