"""Runs the program under test: short commands, and relays that are killed, paused and stopped.

Relies on `tests.servers.process`, so that no relay outlives the test process, however that dies.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.servers.process import Process

from . import terminal
from .waiting import LIMIT_S, RUN_LIMIT_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("ONECOMMIT_TEST_BINARY", ROOT / "target" / "debug" / "onecommit"))
# A command's exit status, by what can be done.
FAILED, CONFIGURATION, UNREACHABLE, REFUSED = 1, 2, 3, 4
# How errors whose outcome is not known are told: the same command may succeed later.
UNCLEAR = re.compile(
    '"retriable":true|did not confirm it|could not be kept for long enough|outcome is not known'
)
KILLED = 128 + signal.SIGKILL
FAILPOINTS = "ONECOMMIT_FAILPOINTS"
FAILPOINTS_LOG = "ONECOMMIT_FAILPOINTS_LOG"
ID = re.compile(r"starts relay=([0-9a-f-]{36})")


class CommandLine:
    """The program with one configuration file, in one folder."""

    def __init__(self, folder: Path, configuration: Path) -> None:
        self.folder = folder
        self.configuration = configuration
        self._started: list[RelayProcess] = []

    def arguments(self, *words: str, configuration: Path | None = None) -> list[str]:
        assert BINARY.exists(), f"{BINARY} is missing: run `cargo build --features failpoints`"
        return [str(BINARY), "--config", str(configuration or self.configuration), *words]

    def run(
        self, *words: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, whatever its exit code."""
        return subprocess.run(
            self.arguments(*words),
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT_S,
            check=False,
            cwd=self.folder,
            env={**os.environ, **(environment or {})},
        )

    def reached(
        self, *words: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`run` for a command whose servers are there: again where one is late."""
        return in_time(partial(self.run, *words, environment=environment))

    def answered(self, answer: str, *words: str) -> subprocess.CompletedProcess[str]:
        """`reached` at a terminal, where a person has typed `answer`; the result's `stderr` is what
        the terminal shows."""

        def run() -> subprocess.CompletedProcess[str]:
            command = self.arguments(*words)
            ended = terminal.answered(command, self.folder, answer)
            return subprocess.CompletedProcess(command, *ended)

        return in_time(run)

    def unreached(
        self, said: str, *words: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command that can't reach something until that is what it says: another server may
        have been late, and be named in its place."""

        def is_told(done: subprocess.CompletedProcess[str]) -> bool:
            assert done.returncode == UNREACHABLE, done
            return said in done.stdout + done.stderr

        run = partial(self.run, *words, environment=environment)
        return _run_until(is_told, f"{said!r} is told", run)

    def succeed(self, *words: str) -> str:
        """`reached` for a command that has to succeed; returns what it printed."""
        done = self.reached(*words)
        assert done.returncode == 0, f"{words} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def status(self) -> list[dict[str, Any]]:
        """The shards of the one participant, as `status --json` tells them."""
        return _shards(self.succeed("--json", "status"))

    def status_if_reached(self) -> list[dict[str, Any]]:
        """The same, or nothing while a server does not answer."""
        done = self.run("--json", "status")
        if was_late(done):
            return []
        assert done.returncode == 0, done
        return _shards(done.stdout)

    def status_in_part(self, away: str) -> list[dict[str, Any]]:
        """The same while a server is away; `away` is what has to be said about it. As in
        `unreached`, another server may have been late."""

        def is_told(done: subprocess.CompletedProcess[str]) -> bool:
            assert done.returncode == UNREACHABLE, done
            return away in str(json.loads(done.stdout)["participants"][0]["error"])

        run = partial(self.run, "--json", "status")
        return _shards(_run_until(is_told, f"{away!r} is told", run).stdout)

    def relay(
        self,
        failpoints: str = "",
        configuration: Path | None = None,
        words: tuple[str, ...] = ("relay",),
        environment: Mapping[str, str] | None = None,
    ) -> RelayProcess:
        """Starts a relay, with another configuration than this one where one is given."""
        command = self.arguments(*words, configuration=configuration)
        number = len(self._started) + 1
        relay = RelayProcess(command, self.folder, number, failpoints, environment)
        self._started.append(relay)
        return relay

    def said(self) -> str:
        """The last words of each relay: why something does not come."""
        return "\n".join(f"{one.log.name}:\n{one.text()[-2000:]}" for one in self._started)

    def close(self) -> None:
        """Ends every relay that still runs."""
        for relay in self._started:
            relay.kill()


def was_late(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a command ended by a server that did not answer in time: it was not reached, or it is
    not known what became of what was asked for."""
    told = UNCLEAR.search(done.stdout + done.stderr) is not None
    unclear = done.returncode == FAILED and told
    return done.returncode == UNREACHABLE or unclear


def in_time(
    run: Callable[[], subprocess.CompletedProcess[str]],
) -> subprocess.CompletedProcess[str]:
    """Runs a command again while a server is late, as may be on a busy machine."""
    return _run_until(lambda done: not was_late(done), "the servers answer in time", run)


def _run_until(
    is_over: Callable[[subprocess.CompletedProcess[str]], bool],
    what: str,
    run: Callable[[], subprocess.CompletedProcess[str]],
) -> subprocess.CompletedProcess[str]:
    tried: list[subprocess.CompletedProcess[str]] = []

    def ended() -> bool:
        tried.append(run())
        return is_over(tried[-1])

    wait_until(ended, what, explain=lambda: str(tried[-1]))
    return tried[-1]


def _shards(printed: str) -> list[dict[str, Any]]:
    shards: list[dict[str, Any]] = json.loads(printed)["participants"][0]["shards"]
    return shards


def handles_signals(pid: int) -> bool:
    """Whether Ctrl-C and SIGTERM are a process's own to end by: just started, they end it."""
    try:
        caught = int(_in_status(pid, r"SigCgt:\s+(\w+)"), 16)
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has ended
    return all(caught & 1 << (number - 1) for number in (signal.SIGINT, signal.SIGTERM))


def is_stopped(pid: int) -> bool:
    """Whether a process stands still, by SIGSTOP."""
    return _in_status(pid, r"State:\s+(\w)") == "T"


def _in_status(pid: int, line: str) -> str:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(f"^{line}", status, re.MULTILINE)
    assert found is not None, status
    return found[1]


class RelayProcess:
    """One run of `onecommit relay`."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        number: int,
        failpoints: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = folder / f"relay-{number}.log"
        self.hits = folder / f"relay-{number}.failpoints"
        environment = {
            **os.environ,
            **(environment or {}),
            FAILPOINTS: failpoints,
            FAILPOINTS_LOG: str(self.hits),
        }
        self._process = Process(words, log=self.log, environment=environment)
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def text(self) -> str:
        """Everything it has said."""
        return self.log.read_text(errors="replace")

    def hit(self) -> list[str]:
        """The failpoints that acted."""
        lines = self.hits.read_text().splitlines() if self.hits.exists() else []
        return [line.split()[1] for line in lines]

    def wait_for(self, pattern: str, times: int = 1) -> None:
        """Waits until its log has `pattern` that many times."""

        def found() -> bool:
            return len(re.findall(pattern, self.text())) >= times

        wait_until(found, f"{pattern!r} {times} times in the relay's log", explain=self.text)

    def id(self) -> str:
        """Under which it is known to the other relays and to `status`."""
        self.wait_for(ID.pattern)
        found = ID.search(self.text())
        assert found is not None
        return found[1]

    def wait_hit(self, name: str) -> None:
        """Waits until a failpoint acted."""
        wait_until(lambda: name in self.hit(), f"failpoint {name} hit", explain=self.text)

    def wait(self) -> int:
        """Waits for its end; the exit status, 128 + N after signal N."""
        try:
            return self._process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the relay did not end:\n{self.text()}") from None

    def kill(self) -> None:
        """SIGKILL, and waits."""
        self._process.signal(signal.SIGKILL)
        self._process.wait()

    def terminate(self) -> None:
        """SIGTERM, without waiting for the end."""
        self._ask_to_end(signal.SIGTERM)

    def interrupt(self) -> None:
        """SIGINT, as Ctrl-C sends it, without waiting for the end."""
        self._ask_to_end(signal.SIGINT)

    def _ask_to_end(self, number: signal.Signals) -> None:
        """As soon as that is asking, and not killing what has only just started."""
        wait_until(
            lambda: handles_signals(self.pid) or not self.running,
            "the relay handles signals",
            explain=self.text,
        )
        self._process.signal(number)

    def stop(self) -> None:
        """SIGTERM: it has to finish and exit with 0."""
        self.terminate()
        status = self.wait()
        assert status == 0, f"after SIGTERM the relay ended with {status}:\n{self.text()}"

    def pause(self) -> None:
        """SIGSTOP, and waits: until it stands still it goes on."""
        self._process.signal(signal.SIGSTOP)
        self.wait_paused()

    def wait_paused(self) -> None:
        """A failpoint is noted before it pauses the process."""
        wait_until(lambda: is_stopped(self.pid), "the relay is paused", explain=self.text)

    def resume(self) -> None:
        """SIGCONT, once it is paused."""
        self.wait_paused()
        self._process.signal(signal.SIGCONT)

    def memory_peak_bytes(self) -> int:
        """The most resident memory that it ever had."""
        return int(_in_status(self.pid, r"VmHWM:\s+(\d+) kB")) * 1024
