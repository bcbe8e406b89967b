"""The life of one real server: started, answering, paused, stopped, killed, started again.

PostgreSQL, a Kafka broker and ZooKeeper each say how their folder is prepared, which command runs
them and how to ask whether they answer; the rest is here. Promises that `start` returns only when
the server answered a real request, that ports and data stay the same until `close`, and that
errors carry the tail of the server's log. If the test process dies, so do the server and its
folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from .process import Account, Process, ServerError, keep, tail
from .started import Started

START_LIMIT = 180.0
STOP_LIMIT = 180.0  # the checkpoint of a PostgreSQL that stops can be long
ASK_EVERY = 0.05


class Server(Started):
    """One server process with its own folder. Use as a context manager, or call `close`."""

    # what ends the server when it is closed, or the test process is gone
    farewell: signal.Signals = signal.SIGKILL

    def __init__(self, title: str) -> None:
        self.title = title
        # /tmp and not TMPDIR, which may be out of reach for PostgreSQL's user
        kind = title.split()[0].lower()
        self.folder = Path(f"/tmp/onecommit-{kind}-{secrets.token_hex(6)}")
        self.log = self.folder / "server.log"
        self.account: Account | None = None
        self._process: Process | None = None
        self._keeper: Process | None = None
        self._prepared = False
        self._closed = False
        self._lock = threading.Lock()  # `close` may come while another thread starts the server

    @property
    @abstractmethod
    def address(self) -> str:
        """Where clients connect."""

    @abstractmethod
    def _fetch(self) -> None:
        """Gets the programs, which may take minutes; there is no folder yet."""

    @abstractmethod
    def _prepare(self) -> None:
        """Makes the folder ready, once, before the first start."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The command that is the server, in the foreground."""

    @abstractmethod
    def _ask(self) -> None:
        """Sends a real request; raises OSError or ValueError when the answer is not good yet."""

    def _environment(self) -> Mapping[str, str]:
        return os.environ

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError(f"{self.title} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the server and waits until it answers. Nothing happens if it runs already."""
        self.launch()
        self.wait_until_answering()

    def launch(self) -> None:
        """The first half of `start`, for servers that need each other to become ready."""
        if self.running:
            return
        if not self._prepared:
            self._fetch()
            with self._until_closed():
                self._keeper = keep(self.folder)
                self.folder.mkdir(mode=0o700)
            self._prepare()
            self._prepared = True
        self._run(self._command(), self.log, self.farewell)

    def _run(self, command: Sequence[str], log: Path, farewell: signal.Signals) -> Process:
        """Runs the server itself or, before it, a program that prepares its folder."""
        with self._until_closed():
            self._process = Process(
                command,
                log=log,
                folder=self.folder,
                environment=self._environment(),
                account=self.account,
                farewell=farewell,
            )
            return self._process

    @contextlib.contextmanager
    def _until_closed(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise ServerError(f"{self.title} is closed")
            yield

    def wait_until_answering(self, ask: Callable[[], None] | None = None) -> None:
        """The second half of `start`; `ask` may ask for more than the server's own question."""
        end = time.monotonic() + START_LIMIT
        while True:
            try:
                (ask or self._ask)()
                return
            except (OSError, ValueError) as error:
                reason = error
            status = None if self._process is None else self._process.poll()
            if self._process is None or status is not None:
                raise ServerError(f"{self.title} ended with status {status}\n{tail(self.log)}")
            if time.monotonic() > end:
                raise ServerError(
                    f"{self.title} did not answer within {START_LIMIT:.0f} s ({reason})\n"
                    f"{tail(self.log)}"
                )
            time.sleep(ASK_EVERY)

    def stop(self) -> None:
        """Asks the server to stop and waits until it and all its processes are gone."""
        self.ask_to_stop()
        self.wait_until_stopped()

    def ask_to_stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """The first half of `stop`, for servers that wait for each other when they stop."""
        if self._process is not None:
            self._process.signal(signal.SIGCONT)
            self._process.signal(number)

    def wait_until_stopped(self) -> None:
        """The second half of `stop`."""
        if self._process is None:
            return
        try:
            self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(
                f"{self.title} did not stop within {STOP_LIMIT:.0f} s\n{tail(self.log)}"
            ) from None

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer would, to the server and all its processes."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)
            self._process.wait()

    def restart(self) -> None:
        """Stops and starts again, on the same port and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers, as on a hung node."""
        if self._process is not None:
            self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: undoes `pause`."""
        if self._process is not None:
            self._process.signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends the server for good, without ceremony, and removes its folder."""
        with self._lock:
            self._closed = True
        for process in (self._process, self._keeper):
            if process is not None:
                process.end()
