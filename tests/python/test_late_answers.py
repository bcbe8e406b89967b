"""What becomes of a transaction, and of its connections, when a database answers too late."""

from __future__ import annotations

import asyncio

import onecommit
import psycopg
import pytest

from .slow_prepare import SlowPrepare
from .two_databases import NAMES, Connections, TwoDatabases

PAY = "update orders set paid = true where id = 42"
PAYMENT = "insert into payments values (42, 100)"
# For all that comes before the PREPARE, which waits for longer.
DEADLINE_S = 8.0


def test_a_connection_whose_answer_is_late_is_closed(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases, slow: SlowPrepare
) -> None:
    late = pytest.raises(onecommit.UnreachableError, match="deadline")
    with late, oc.transaction(deadline=DEADLINE_S, **conns):
        conns["orders"].execute(PAY)
        conns["billing"].execute(PAYMENT)
    assert slow.is_under_way()
    assert [conns[name].closed for name in NAMES] == [True, False]
    slow.wait_for_its_end()
    assert two_databases.paid() == (0, 0, 0)
    with pytest.raises(onecommit.InvalidError, match=r"closed.*orders"):
        oc.transaction(**conns)
    with pytest.raises(psycopg.OperationalError, match="closed"):
        conns["orders"].execute("select 1")
    with oc.transaction(billing=conns["billing"]):
        conns["billing"].execute("select 1")


async def test_the_same_with_asyncio(two_databases: TwoDatabases, slow: SlowPrepare) -> None:
    conns = await two_databases.connect_both_async()
    async with onecommit.open_async(two_databases.config) as oc:
        with pytest.raises(onecommit.UnreachableError, match="deadline"):
            async with oc.transaction(deadline=DEADLINE_S, **conns):
                await conns["orders"].execute(PAY)
                await conns["billing"].execute(PAYMENT)
        assert [conns[name].closed for name in NAMES] == [True, False]
        await asyncio.to_thread(slow.wait_for_its_end)
    assert two_databases.paid() == (0, 0, 0)
    await conns["billing"].close()
