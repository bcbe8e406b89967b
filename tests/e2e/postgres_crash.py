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

from .waiting import wait_until

FLUSHERS = """
select pid from pg_stat_activity where backend_type in ('walwriter', 'background writer')
"""
# What is at work may have a lock that all others need; what waits for its next turn has none.
AT_WORK = """
select pid from pg_stat_activity
where pid = any('{{{}}}') and coalesce(wait_event_type, '') not in ('Activity', 'Client')
"""
ANSWER_LIMIT_S = 5.0


@contextmanager
def nothing_flushed_by_itself(postgres: Postgres) -> Iterator[Callable[[], None]]:
    """Only commits flush in here. What it gives crashes the server, and waits until it is gone."""

    def both() -> list[int] | None:
        pids = [int(str(row[0])) for row in postgres.query(FLUSHERS)]
        return pids if len(pids) == 2 else None

    # A server that was started just now may answer before they are there.
    pids = wait_until(both, "the WAL writer and the background writer are there")

    def crash() -> None:
        postgres.ask_to_stop(signal.SIGQUIT)  # `pg_ctl stop -m immediate`
        # Going on, they would flush before they hear of the stop.
        signal_all(pids, signal.SIGKILL)
        postgres.wait_until_stopped()

    hold(postgres, pids)
    try:
        yield crash
    finally:
        signal_all(pids, signal.SIGCONT)


def hold(postgres: Postgres, pids: Sequence[int]) -> None:
    """SIGSTOP, taken back and tried again where it hit one at work: that could hold everybody."""
    at_work = AT_WORK.format(",".join(map(str, pids)))

    def held() -> bool:
        signal_all(pids, signal.SIGSTOP)
        try:
            if not postgres.query(at_work, limit_s=ANSWER_LIMIT_S):
                return True
        except TimeoutError:
            pass  # one was stopped while it changed what this reads
        signal_all(pids, signal.SIGCONT)
        return False

    wait_until(held, f"{pids} are held while they wait")


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    """Sends a signal to those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def next_xid(postgres: Postgres) -> int:
    """The number that the next transaction will be given, without drawing it."""
    answer = postgres.query("select pg_snapshot_xmax(pg_current_snapshot())::text")
    return int(str(answer[0][0]))
