"""A PREPARE in `orders` that lasts until a test lets it go: what was deferred waits in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.waiting import LIMIT_S, wait_until

from .two_databases import TwoDatabases

# It asks again and again: a wait for the lock would end with the transaction's own limit for locks.
SLOW = """
create function slow() returns trigger language plpgsql as
    'begin
       while not pg_try_advisory_lock(1) loop perform pg_sleep(0.01); end loop;
       perform pg_advisory_unlock(1);
       return null;
     end';
create constraint trigger slow after update on orders deferrable initially deferred
    for each row execute function slow()"""
FAST = "drop trigger if exists slow on orders; drop function if exists slow()"
# In this run's own database: another run may be at the same server.
UNDER_WAY = """
select count(*) from pg_stat_activity
where state = 'active' and query ilike 'prepare transaction%' and datname = current_database()"""


class SlowPrepare:
    """What holds it."""

    def __init__(self, databases: TwoDatabases) -> None:
        self._databases = databases
        self._holding = databases.connect("orders", autocommit=True)
        self._holding.execute("select pg_advisory_lock(1)")

    def is_under_way(self) -> bool:
        """Whether it waits."""
        return self._databases.number("orders", UNDER_WAY) == 1

    def wait_for_it(self) -> None:
        """Waits until it is under way, and the other branch prepared."""

        def is_met() -> bool:
            return self.is_under_way() and self._databases.prepared() == 1

        wait_until(is_met, "a PREPARE is under way")

    def wait_for_its_end(self) -> None:
        """Lets it go, and waits until it is over, and nothing prepared: it lands behind the first
        try to end it."""
        self.let_go()
        wait_until(lambda: not self.is_under_way(), "the PREPARE is over")
        wait_until(lambda: self._databases.prepared() == 0, "nothing is prepared")

    def let_go(self) -> None:
        """It goes on."""
        self._holding.close()


@contextmanager
def slow_prepare(databases: TwoDatabases) -> Iterator[SlowPrepare]:
    """Each PREPARE waits, as long as the block runs and what it gives does not let it go."""
    with databases.connect("orders") as conn:
        conn.execute(SLOW.encode())
    held = SlowPrepare(databases)
    try:
        yield held
    finally:
        held.let_go()
        with databases.connect("orders") as conn:
            # What a failed test has left prepared would keep it waiting for ever.
            conn.execute(f"set lock_timeout = '{LIMIT_S:.0f}s'")
            conn.execute(FAST.encode())
