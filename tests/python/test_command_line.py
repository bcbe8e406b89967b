"""The wheel's `onecommit`: the Rust command line inside the Python process."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

MODULE = [sys.executable, "-m", "onecommit"]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_module_and_console_script_are_the_same(tmp_path: Path) -> None:
    script = shutil.which("onecommit", path=sysconfig.get_path("scripts"))
    assert script is not None
    for command in ([script], MODULE):
        ran = run([*command, "--version"], tmp_path)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.startswith("onecommit 0.")


def test_exit_codes_come_through(tmp_path: Path) -> None:
    ran = run([*MODULE, "no-such-command"], tmp_path)
    assert ran.returncode == 2
    assert "no-such-command" in ran.stderr
    ran = run([*MODULE, "--config", "absent.toml", "status"], tmp_path)
    assert ran.returncode == 2
    assert "absent.toml" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_argument_that_is_not_utf8(tmp_path: Path) -> None:
    command = [*map(os.fsencode, MODULE), b"--config", b"\xff.toml", b"status"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert ran.returncode == 2
    assert b"Traceback" not in ran.stderr


@pytest.mark.parametrize("command", [["consume", "t"], ["relay"]])
def test_ctrl_c_ends_it_without_a_traceback(tmp_path: Path, command: list[str]) -> None:
    assert run([*MODULE, "init"], tmp_path).returncode == 0
    child = subprocess.Popen(
        [*MODULE, *command],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env={**os.environ, "ONECOMMIT_LOG": "debug"},
    )
    while not handles_sigint(child.pid):
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert b"Traceback" not in errors
    assert child.returncode == 130


def handles_sigint(pid: int) -> bool:
    """Whether Rust has put its own handler in place: before it has threads, Python's is there."""
    if len(os.listdir(f"/proc/{pid}/task")) == 1:
        return False
    (line,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(int(line, 16) & 1 << (signal.SIGINT - 1))
