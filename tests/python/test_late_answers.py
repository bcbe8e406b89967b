"""What becomes of a transaction, and of its connections, when a database answers too late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import onecommit
import psycopg
import pytest

from tests.e2e.waiting import wait_until

from .slow_prepare import SlowPrepare, slow_prepare
from .two_databases import NAMES, AsyncConnections, Connections, TwoDatabases, close_async

PAY = "update orders set paid = true where id = 42"
PAYMENT = "insert into payments values (42, 100)"
# For all that comes before the PREPARE, which waits for longer.
DEADLINE_S = 8.0
ONLY_ONE = "all but one PREPARE is in time"


def is_only_one(
    told: onecommit.Error, slow: SlowPrepare, conns: Connections | AsyncConnections
) -> bool:
    """Whether the deadline was over while one PREPARE was under way, and the other one answered.
    Where the machine stood still it was over before; in the middle of its registration it ends the
    coordinator, and the next transaction is to be run again."""
    if not slow.is_under_way() or conns["billing"].closed:
        assert told.retriable, told
        return False
    assert isinstance(told, onecommit.UnreachableError) and "deadline" in str(told), told
    assert [conns[name].closed for name in NAMES] == [True, False]
    return True


def test_a_connection_whose_answer_is_late_is_closed(
    oc: onecommit.Onecommit,
    connect_both: Callable[[], Connections],
    two_databases: TwoDatabases,
) -> None:
    def is_tried() -> bool:
        conns = connect_both()
        with slow_prepare(two_databases) as slow:
            late = pytest.raises(onecommit.Error)
            with late as told, oc.transaction(deadline=DEADLINE_S, **conns):
                conns["orders"].execute(PAY)
                conns["billing"].execute(PAYMENT)
            if not is_only_one(told.value, slow, conns):
                return False
            slow.wait_for_its_end()
        assert two_databases.paid() == (0, 0, 0)
        with pytest.raises(onecommit.InvalidError, match=r"closed.*orders"):
            oc.transaction(**conns)
        with pytest.raises(psycopg.OperationalError, match="closed"):
            conns["orders"].execute("select 1")
        with oc.transaction(billing=conns["billing"]):
            conns["billing"].execute("select 1")
        return True

    wait_until(is_tried, ONLY_ONE)


def test_the_same_with_asyncio(two_databases: TwoDatabases) -> None:
    async def attempt() -> bool:
        conns = await two_databases.connect_both_async()
        async with onecommit.open_async(two_databases.config) as oc:
            with slow_prepare(two_databases) as slow:
                with pytest.raises(onecommit.Error) as told:
                    async with oc.transaction(deadline=DEADLINE_S, **conns):
                        await conns["orders"].execute(PAY)
                        await conns["billing"].execute(PAYMENT)
                is_tried = is_only_one(told.value, slow, conns)
                if is_tried:
                    await asyncio.to_thread(slow.wait_for_its_end)
        assert two_databases.paid() == (0, 0, 0)
        await close_async(conns)
        return is_tried

    wait_until(lambda: asyncio.run(attempt()), ONLY_ONE)
