"""Run one command so that nothing of it outlives the process that asked for it.

This file is a program of its own, started with the plain interpreter once for each server. It
stands between the asking process and the server and holds one end of a socket. When that socket
closes, however the asking process died, the guard ends the server, everything the server left
behind, and the server's folder. When the server ends by itself the guard ends its orphans
(the backends of a killed PostgreSQL, say), and exits with the server's exit status.

It relies on two Linux calls: the guard adopts orphans (PR_SET_CHILD_SUBREAPER), and a guard that
is itself killed takes the server along (PR_SET_PDEATHSIG). The second one is tied to the *thread*
that started the child, which is why it is used here, where there is one thread, and not in the
asking process, where a server would die with the thread that happened to start it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import math
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
FAREWELL_SECONDS = 5.0

libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def die_with(guard: int) -> None:
    """Runs in the child, after it took on its user (a change of user forgets the setting)."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:  # the guard died before the setting was made
        os._exit(127)


def children() -> Iterator[int]:
    """The running children of this process, adopted orphans included."""
    me = os.getpid()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # "pid (name) state ppid ...": a name may hold spaces and brackets
            stat = (entry / "stat").read_bytes()
            state, parent = stat.rpartition(b")")[2].split()[:2]
            if int(parent) == me and state != b"Z":
                yield int(entry.name)


def end_orphans(number: int, limit: float = math.inf) -> None:
    """Killing a process hands its own children to the guard, so go on until none is left."""
    end = time.monotonic() + limit
    told: set[int] = set()
    while time.monotonic() < end:
        for child in set(children()) - told:
            told.add(child)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def end_server(server: subprocess.Popen[bytes], farewell: int) -> None:
    """Ask with `farewell` first (PostgreSQL has shared memory to give back), then kill."""
    if farewell != signal.SIGKILL:
        server.send_signal(signal.SIGCONT)
        server.send_signal(farewell)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(FAREWELL_SECONDS)
    server.kill()
    server.wait()
    if farewell != signal.SIGKILL:
        end_orphans(farewell, FAREWELL_SECONDS)


def watch(server: subprocess.Popen[bytes], link: socket.socket, wake: int) -> bool:
    """Waits for the server's end (true) or the asking process's (false)."""
    while server.poll() is None:
        ready, _, _ = select.select([link.fileno(), wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
        if link.fileno() in ready and link.recv(1) == b"":
            return False
    return True


def signals_as_bytes() -> int:
    """A pipe that gets a byte for each signal. Handlers, unlike SIG_IGN, end at the child's exec,
    so a Ctrl-C that reaches guard and command together stops the command as it should."""
    wake, sleeper = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(sleeper, False)
    signal.set_wakeup_fd(sleeper, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda *_: None)
    return wake


def keep(link: socket.socket, folder: str) -> int:
    """Without a command: no server runs yet, or it is down, and still the folder is not to stay."""
    with contextlib.suppress(OSError):
        link.sendall(b"%d\n" % os.getpid())
        link.recv(1)
    with contextlib.suppress(OSError):
        lock(folder, fcntl.LOCK_EX)  # waits for the guard of a server that is ending in there
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def lock(folder: str, how: int) -> None:
    """Holds the folder until this process ends; the server does not inherit it."""
    fcntl.flock(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), how)


def main() -> int:
    parser = argparse.ArgumentParser(description="run a command that dies with its asker")
    parser.add_argument("--link", type=int, required=True, help="socket shared with the asker")
    parser.add_argument("--folder", help="removed when the asker is gone", default="")
    parser.add_argument("--farewell", type=int, default=signal.SIGKILL)
    parser.add_argument("--user", type=int)
    parser.add_argument("--group", type=int)
    at = sys.argv.index("--")  # by hand: the command may hold a `--` of its own
    given, command = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1 :]

    link = socket.socket(fileno=given.link)
    link.set_inheritable(False)
    wake = signals_as_bytes()
    if not command:
        return keep(link, given.folder)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    try:
        if given.folder:
            lock(given.folder, fcntl.LOCK_SH)
        server = subprocess.Popen(
            command,
            user=given.user,
            group=given.group,
            extra_groups=None if given.user is None else [],
            preexec_fn=lambda: die_with(guard),
        )
    except OSError as error:
        print(f"{error.filename or command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    with contextlib.suppress(OSError):  # an asker that is gone already is noticed by watch
        link.sendall(b"%d\n" % server.pid)
    ended_by_itself = watch(server, link, wake)
    if not ended_by_itself:
        end_server(server, given.farewell)
    end_orphans(signal.SIGKILL)
    if given.folder and not ended_by_itself:
        shutil.rmtree(given.folder, ignore_errors=True)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


if __name__ == "__main__":
    sys.exit(main())
