"""Opening waits for databases, and whoever waits can give that up."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import onecommit
import pytest

from tests.e2e.waiting import LIMIT_S

from .two_databases import TwoDatabases

REQUEST_LIMIT_MS = 300_000
"""Longer than any test waits."""


class SilentServer:
    """Takes connections, and says nothing."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(LIMIT_S)
        self.port = self._listening.getsockname()[1]

    def wait_for_one(self) -> socket.socket:
        """Waits until somebody has connected."""
        return self._listening.accept()[0]

    def close(self) -> None:
        """Gives the port back."""
        self._listening.close()


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    server = SilentServer()
    yield server
    server.close()


@pytest.fixture
def config(silent: SilentServer, tmp_path: Path) -> Path:
    made = tmp_path / "onecommit.toml"
    made.write_text(
        f"""
namespace = "silent"
data_dir = "{tmp_path}/data"
coordinator.request_timeout_ms = {REQUEST_LIMIT_MS}
relay.request_timeout_ms = {REQUEST_LIMIT_MS}
[participants.orders]
url = "postgresql://postgres@127.0.0.1:{silent.port}/orders"
[participants.billing]
url = "postgresql://postgres@127.0.0.1:{silent.port}/billing"
"""
    )
    return made


def test_ctrl_c_is_heard_while_a_database_does_not_answer(
    silent: SilentServer, config: Path
) -> None:
    heard = threading.Event()

    def interrupt() -> bool:
        with silent.wait_for_one():
            # As Ctrl-C does: `raise_signal` would be for this thread, and wake no other.
            os.kill(os.getpid(), signal.SIGINT)
            return heard.wait(LIMIT_S)

    with ThreadPoolExecutor(1) as threads:
        in_time = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt), onecommit.open(config):
            pass
        heard.set()
        assert in_time.result(), "it heard only once the connection was closed"


async def test_who_is_cancelled_meanwhile_leaves_no_connection(
    silent: SilentServer, config: Path
) -> None:
    opening = asyncio.create_task(onecommit.open_async(config).__aenter__())
    with await asyncio.to_thread(silent.wait_for_one) as connection:
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        connection.settimeout(LIMIT_S)
        # Its first words, and then the end.
        while await asyncio.to_thread(connection.recv, 1024):
            pass


def test_what_is_closed_can_be_opened_again(two_databases: TwoDatabases) -> None:
    opened = onecommit.open(two_databases.config)
    for _ in range(2):
        with ExitStack() as stack:
            oc = stack.enter_context(opened)
            assert oc.lock("a").name == "a"
            with oc.lock("a") as lock:
                assert lock.is_held
        with pytest.raises(onecommit.InvalidError, match="not open"):
            oc.lock("a").__enter__()


ENDS_AT_ONCE = """
import concurrent.futures, sys, time
import onecommit
from onecommit import _waiting


class Slow(concurrent.futures.Future):
    def set_result(self, result):
        super().set_result(result)
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            pass


_waiting.Future = Slow
with onecommit.open(sys.argv[1]):
    pass
"""


def test_a_program_that_ends_behind_it_is_not_aborted(two_databases: TwoDatabases) -> None:
    """Who tells it that all is closed is a thread of ours, which the interpreter waits for."""
    command = [sys.executable, "-c", ENDS_AT_ONCE, str(two_databases.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stderr) == (0, ""), done
