"""Crashes of PostgreSQL in which transaction numbers really come again.

What PostgreSQL has not flushed is forgotten by a crash, numbers of rolled back and asynchronously
committed transactions among it. Two background processes would flush it within moments; they are
held while a test prepares such a crash, so that it does not depend on luck.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from tests.servers import Postgres

FLUSHERS = """
select pid from pg_stat_activity where backend_type in ('walwriter', 'background writer')
"""


@contextmanager
def nothing_flushed_by_itself(postgres: Postgres) -> Iterator[Callable[[], None]]:
    """Only commits flush in here. What it gives crashes the server, and waits until it is gone."""
    pids = [int(str(row[0])) for row in postgres.query(FLUSHERS)]
    assert len(pids) == 2, pids

    def crash() -> None:
        postgres.ask_to_stop(signal.SIGQUIT)  # `pg_ctl stop -m immediate`
        # Going on, they would flush before they hear of the stop.
        signal_all(pids, signal.SIGKILL)
        postgres.wait_until_stopped()

    signal_all(pids, signal.SIGSTOP)
    try:
        yield crash
    finally:
        signal_all(pids, signal.SIGCONT)


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    """Sends a signal to those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def next_xid(postgres: Postgres) -> int:
    """The number that the next transaction will be given, without drawing it."""
    answer = postgres.query("select pg_snapshot_xmax(pg_current_snapshot())::text")
    return int(str(answer[0][0]))
