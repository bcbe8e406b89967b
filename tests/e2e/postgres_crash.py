"""Crashes of PostgreSQL in which transaction numbers really come again.

What PostgreSQL has not flushed is forgotten by a crash, numbers of rolled back and asynchronously
committed transactions among it. Two background processes would flush it within moments; they are
held while a test prepares such a crash, so that it does not depend on luck.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.servers import Postgres

FLUSHERS = """
select pid from pg_stat_activity where backend_type in ('walwriter', 'background writer')
"""


@contextmanager
def nothing_flushed_by_itself(postgres: Postgres) -> Iterator[None]:
    """Only commits flush in here; the server may be crashed by `crash`."""
    pids = [int(str(row[0])) for row in postgres.query(FLUSHERS)]
    assert len(pids) == 2, pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def crash(postgres: Postgres) -> None:
    """`pg_ctl stop -m immediate`, without waiting: a held process must be let go first."""
    postgres.ask_to_stop(signal.SIGQUIT)


def next_xid(postgres: Postgres) -> int:
    """The number that the next transaction will be given, without drawing it."""
    answer = postgres.query("select pg_snapshot_xmax(pg_current_snapshot())::text")
    return int(str(answer[0][0]))
