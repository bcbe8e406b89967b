"""What becomes of a transaction, and of its connections, when a database answers too late."""

from __future__ import annotations

import asyncio

import onecommit
import psycopg
import pytest

from .slow_prepare import UNDER_WAY, wait_for_its_end
from .two_databases import NAMES, Connections, TwoDatabases

PAY = "update orders set paid = true where id = 42"
PAYMENT = "insert into payments values (42, 100)"
# Shorter than a slow PREPARE.
DEADLINE_S = 1.0

pytestmark = pytest.mark.usefixtures("slow")


def test_a_connection_whose_answer_is_late_is_closed(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    late = pytest.raises(onecommit.UnreachableError, match="deadline")
    with late, oc.transaction(deadline=DEADLINE_S, **conns):
        conns["orders"].execute(PAY)
        conns["billing"].execute(PAYMENT)
    assert two_databases.number("orders", UNDER_WAY) == 1, "the PREPARE is on its way"
    assert [conns[name].closed for name in NAMES] == [True, False]
    wait_for_its_end(two_databases)
    assert two_databases.paid() == (0, 0, 0)
    with pytest.raises(onecommit.InvalidError, match=r"closed.*orders"):
        oc.transaction(**conns)
    with pytest.raises(psycopg.OperationalError, match="closed"):
        conns["orders"].execute("select 1")
    with oc.transaction(billing=conns["billing"]):
        conns["billing"].execute("select 1")


async def test_the_same_with_asyncio(two_databases: TwoDatabases) -> None:
    conns = await two_databases.connect_both_async()
    async with onecommit.open_async(two_databases.config) as oc:
        with pytest.raises(onecommit.UnreachableError, match="deadline"):
            async with oc.transaction(deadline=DEADLINE_S, **conns):
                await conns["orders"].execute(PAY)
                await conns["billing"].execute(PAYMENT)
        assert [conns[name].closed for name in NAMES] == [True, False]
        await asyncio.to_thread(wait_for_its_end, two_databases)
    assert two_databases.paid() == (0, 0, 0)
    await conns["billing"].close()
