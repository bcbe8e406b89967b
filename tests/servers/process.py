"""A command run under a guard: what the test side sees of a server's process.

Relies on `guard.py`, which reports the process id and exits when the command and everything it
started are gone. Promises that a `Process` that has ended has left no process behind, and that it
ends when the Python process holding it does, even by SIGKILL. Safe to start from any thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GUARD = Path(__file__).with_name("guard.py")


class ServerError(RuntimeError):
    """A server did not start, answer or stop; the message ends with the tail of its log."""


@dataclass(frozen=True)
class Account:
    """The system user a command runs as, where that is not the present one."""

    user: int
    group: int


def tail(log: Path, lines: int = 40) -> str:
    """The end of a log, for an error message."""
    try:
        last = log.read_text(errors="replace").splitlines()[-lines:]
    except OSError as error:
        return f"(no log: {error})"
    return f"--- end of {log} ---\n" + "\n".join(last)


def keep(folder: Path) -> Process:
    """A process that does nothing but remove `folder` at its `end`, or when the asker dies."""
    return Process([], folder=folder, log=Path(os.devnull))


class Process:
    """One run of one command, its output in `log`. It ends by itself, by `signal`, or by `end`,
    which also removes its `folder`, as does the death of the asker."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path | None = None,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        account: Account | None = None,
        farewell: signal.Signals = signal.SIGKILL,
    ) -> None:
        self._link, theirs = socket.socketpair()
        options = [f"--link={theirs.fileno()}", f"--farewell={int(farewell)}"]
        if folder is not None:
            options.append(f"--folder={folder}")
        if account is not None:
            options += [f"--user={account.user}", f"--group={account.group}"]
        with contextlib.ExitStack() as opened:
            opened.enter_context(theirs)
            output = None if log is None else opened.enter_context(log.open("ab"))
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), *options, "--", *command],
                stdin=None if log is None else subprocess.DEVNULL,
                stdout=output,
                stderr=None if log is None else subprocess.STDOUT,
                cwd=folder if command else None,
                env=environment,
                pass_fds=[theirs.fileno()],
                # a server does not hear the Ctrl-C of the terminal, its tests decide when it ends
                start_new_session=log is not None,
            )
        with self._link.makefile("rb") as answers:
            answer = answers.readline()
        if not answer:
            self.wait()
            reason = "" if log is None else f"\n{tail(log)}"
            raise ServerError(f"could not run {' '.join(command[:1])}{reason}")
        self.pid = int(answer)

    def poll(self) -> int | None:
        """The exit status (128 + N after signal N), or None while the command runs."""
        status = self._guard.poll()
        if status is not None:
            self._link.close()
        return status

    def wait(self, limit: float | None = None) -> int:
        """Waits for the end of the command; raises subprocess.TimeoutExpired after `limit`."""
        status = self._guard.wait(limit)
        self._link.close()
        return status

    def end(self) -> None:
        """What also happens when the asker dies: farewell, SIGKILL, the folder removed."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self.wait()

    def signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
