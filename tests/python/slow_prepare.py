"""A PREPARE that takes its time: it runs what was deferred, and that sleeps."""

from __future__ import annotations

from tests.e2e.waiting import wait_until

from .two_databases import TwoDatabases

SLOW = """
create function slow() returns trigger language plpgsql as
    'begin perform pg_sleep(1.5); return null; end';
create constraint trigger slow after update on orders deferrable initially deferred
    for each row execute function slow()"""
FAST = "drop trigger if exists slow on orders; drop function if exists slow()"
# In this run's own database: another run may be at the same server.
UNDER_WAY = """
select count(*) from pg_stat_activity
where wait_event = 'PgSleep' and datname = current_database()"""


def wait_for_a_prepare(databases: TwoDatabases) -> None:
    """Waits until one is under way in `orders`."""
    wait_until(lambda: databases.number("orders", UNDER_WAY) == 1, "a PREPARE is under way")


def wait_for_its_end(databases: TwoDatabases) -> None:
    """Waits until it is over, and nothing prepared: it lands behind the first try to end it."""
    wait_until(lambda: databases.number("orders", UNDER_WAY) == 0, "the PREPARE is over")
    wait_until(lambda: databases.prepared() == 0, "nothing is prepared")
