"""What becomes of a transaction, and of its connections, when a database answers too late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import onecommit
import psycopg
import pytest

from .two_databases import TwoDatabases

# What a PREPARE does before it is one: so it comes behind the deadline.
SLOW = """
create function slow() returns trigger language plpgsql as
  $$ begin perform pg_sleep(2); return null; end $$;
create constraint trigger slow after insert on payments deferrable initially deferred
  for each row execute function slow();
"""
FAST = "drop trigger slow on payments; drop function slow"
SLEEPING = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
PAY = "update orders set paid = true where id = 42"
PAYMENT = "insert into payments values (42, 100)"
LIMIT_S = 120.0


@pytest.fixture
def slow_to_prepare(two_databases: TwoDatabases) -> Iterator[TwoDatabases]:
    with two_databases.connect("billing") as conn:
        conn.execute(SLOW)
    yield two_databases
    with two_databases.connect("billing") as conn:
        conn.execute(FAST)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def check_settled(databases: TwoDatabases) -> None:
    """The late PREPARE is rolled back, too."""
    wait_until(lambda: databases.number("billing", SLEEPING) == 0)
    wait_until(lambda: databases.prepared() == 0)
    assert databases.paid() == (0, 0, 0)


def test_a_connection_whose_answer_is_late_is_closed(slow_to_prepare: TwoDatabases) -> None:
    with (
        onecommit.open(slow_to_prepare.config) as oc,
        slow_to_prepare.connect("orders") as orders,
        slow_to_prepare.connect("billing") as billing,
    ):
        late = pytest.raises(onecommit.UnreachableError, match="deadline")
        with late, oc.transaction(orders=orders, billing=billing, deadline=1):
            orders.execute(PAY)
            billing.execute(PAYMENT)
        assert slow_to_prepare.number("billing", SLEEPING) == 1, "it is on its way"
        assert (orders.closed, billing.closed) == (False, True)
        check_settled(slow_to_prepare)
        with pytest.raises(onecommit.InvalidError, match=r"closed.*billing"):
            oc.transaction(orders=orders, billing=billing)
        with pytest.raises(psycopg.OperationalError, match="closed"):
            billing.execute("select 1")
        with oc.transaction(orders=orders):
            orders.execute("select 1")


async def test_the_same_with_asyncio(slow_to_prepare: TwoDatabases) -> None:
    orders = await slow_to_prepare.connect_async("orders")
    billing = await slow_to_prepare.connect_async("billing")
    async with onecommit.open_async(slow_to_prepare.config) as oc, orders, billing:
        with pytest.raises(onecommit.UnreachableError, match="deadline"):
            async with oc.transaction(orders=orders, billing=billing, deadline=1):
                await orders.execute(PAY)
                await billing.execute(PAYMENT)
        assert (orders.closed, billing.closed) == (False, True)
        await asyncio.to_thread(check_settled, slow_to_prepare)


async def test_who_is_cancelled_while_it_commits(slow_to_prepare: TwoDatabases) -> None:
    orders = await slow_to_prepare.connect_async("orders")
    billing = await slow_to_prepare.connect_async("billing")

    async def pay(oc: onecommit.AsyncOnecommit) -> None:
        async with oc.transaction(orders=orders, billing=billing):
            await orders.execute(PAY)
            await billing.execute(PAYMENT)

    def is_preparing() -> bool:
        return slow_to_prepare.number("billing", SLEEPING) == 1

    async with onecommit.open_async(slow_to_prepare.config) as oc, orders, billing:
        paying = asyncio.create_task(pay(oc))
        await asyncio.to_thread(wait_until, is_preparing)
        paying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await paying
        assert billing.closed
        await asyncio.to_thread(check_settled, slow_to_prepare)
