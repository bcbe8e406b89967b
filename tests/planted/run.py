"""Builds what a test needs in the copied tree, and runs it there.

Promises to tell a test that fails from anything else that goes wrong: only what the test itself
says of what it tests is a failure; a build that fails, a fixture, a run without an end is not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from .bug import Kind, KnownTest
from .tree import PLANTED, TARGET, TREE

FEATURES = ("--locked", "--features", "failpoints")
BUILDS: dict[Kind, list[str]] = {
    "unit": ["cargo", "test", *FEATURES, "--lib", "--no-run"],
    "model": ["cargo", "test", *FEATURES, "--test", "model", "--no-run"],
    "rust": ["cargo", "test", *FEATURES, "--test", "rust", "--no-run"],
    "e2e": ["cargo", "build", *FEATURES, "--bin", "onecommit"],
}
# More than any build or test takes: one that does not end says nothing.
BUILD_LIMIT_S = 1800
TEST_LIMIT_S = 600
REPORT = PLANTED / "report.xml"


class RunError(RuntimeError):
    """Something else than the test went wrong."""


@dataclass(frozen=True)
class Outcome:
    """Whether a test passed, and all that it printed."""

    passed: bool
    text: str


def build(kind: Kind) -> None:
    """Builds what tests of this kind run."""
    done = _run(BUILDS[kind], BUILD_LIMIT_S)
    if done.returncode != 0:
        raise RunError(f"it does not build:\n{done.stdout}")


def run(test: KnownTest) -> Outcome:
    """Runs one test; what it needs is built."""
    return _pytest(test.name) if test.kind == "e2e" else _cargo(test)


def _cargo(test: KnownTest) -> Outcome:
    which = ["--lib"] if test.kind == "unit" else ["--test", test.kind]
    command = ["cargo", "test", *FEATURES, *which, "--", "--exact", test.name]
    text = _run(command, TEST_LIMIT_S).stdout
    # What a test prints itself may stand between its name and how it ended.
    results = {
        True: "test result: ok. 1 passed; 0 failed",
        False: "test result: FAILED. 0 passed; 1 failed",
    }
    for passed, result in results.items():
        if result in text:
            return Outcome(passed, text)
    raise RunError(f"{test.name} was not run:\n{text}")


def _pytest(name: str) -> Outcome:
    REPORT.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "--quiet", f"--junitxml={REPORT}", name]
    text = _run(command, TEST_LIMIT_S).stdout
    suite = ElementTree.parse(REPORT).find("testsuite") if REPORT.exists() else None
    if suite is not None:
        tests, failures, errors, skipped = (
            int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")
        )
        if tests == 1 and errors == skipped == 0:
            return Outcome(failures == 0, text)
    raise RunError(f"{name} was not run, or something around it failed:\n{text}")


def _run(command: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[str]:
    """Runs a command in the tree to its end; standard error comes with the output."""
    environment = {
        **os.environ,
        "CARGO_TARGET_DIR": str(TARGET),
        "ONECOMMIT_TEST_BINARY": str(TARGET / "debug" / "onecommit"),
        "RUST_BACKTRACE": "0",
    }
    process = subprocess.Popen(
        command,
        cwd=TREE,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise RunError(f"{' '.join(command)} did not end within {limit_s:.0f} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return subprocess.CompletedProcess(list(command), process.returncode, text)


def log(name: str, text: str) -> Path:
    """Keeps what a test printed."""
    path = PLANTED / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
