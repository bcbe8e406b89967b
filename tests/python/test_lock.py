"""Locks: of transactions and of processes, in blocks of `with` and `async with`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import onecommit
import psycopg
import pytest

from tests.e2e.waiting import LIMIT_S, wait_until

from .two_databases import Connections, TwoDatabases, close, close_async

# For whoever waits in vain: the store answers sooner, unless the machine stands still.
SHORT_S = 1.0
ADD = "update payments set total = {} where id = 1"
COUNT = """
import sqlite3, sys
((count,),) = sqlite3.connect(sys.argv[1]).execute("select count(*) from lock_entry")
print(count)
"""


@pytest.fixture
def payments(two_databases: TwoDatabases) -> TwoDatabases:
    """One payment, which everybody changes."""
    with two_databases.connect("billing") as conn:
        conn.execute("insert into payments values (1, 0)")
    return two_databases


def expect_had(attempt: Callable[[], object], why: str = "") -> None:
    """Who waits for SHORT_S is told that somebody has it; unless not even the queue was reached in
    time."""

    def is_told() -> bool:
        with pytest.raises(onecommit.Error) as told:
            attempt()
        if told.errisinstance(onecommit.ConflictError):
            return told.match(why)
        assert told.value.retriable, told.value
        return False

    wait_until(is_told, "it is told that somebody has it")


def add(oc: onecommit.Onecommit, payments: TwoDatabases, times: int) -> list[int]:
    """Reads and writes apart, so that only the lock keeps others out in between."""
    numbers = []
    with payments.connect("orders") as orders, payments.connect("billing") as billing:
        orders.autocommit = billing.autocommit = True
        for _ in range(times):
            with oc.transaction(orders=orders, billing=billing) as tx:
                numbers.append(tx.lock("payment/1"))
                assert tx.lock("payment/1") == numbers[-1]
                row = billing.execute("select total from payments where id = 1").fetchone()
                assert row is not None
                billing.execute(ADD.format(row[0] + 1).encode())
            assert tx.protocol == "two-phase"
    return numbers


def test_one_transaction_holds_a_lock_at_a_time(
    oc: onecommit.Onecommit, payments: TwoDatabases
) -> None:
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(add, oc, payments, 5) for _ in range(4)]
        numbers = [number for future in futures for number in future.result(LIMIT_S)]
    assert payments.number("billing", "select total from payments where id = 1") == 20
    assert len(set(numbers)) == 20


def test_a_lock_that_is_not_free_in_time_is_a_conflict(
    oc: onecommit.Onecommit, conns: Connections
) -> None:
    with oc.lock("payment/1") as held, oc.transaction(deadline=LIMIT_S, **conns) as tx:
        # Its first lock takes longer: the coordinator is made known before.
        tx.lock("payment/0")
        expect_had(
            partial(tx.lock, "payment/1", timeout=SHORT_S), "this very process holds the lock"
        )
        # It goes on without.
        assert tx.lock("payment/2") > held.number
        expect_had(oc.lock("payment/2", timeout=SHORT_S).__enter__)
    assert not held.is_held
    with oc.lock("payment/2", timeout=LIMIT_S) as after:
        assert after.number > held.number


def test_a_deadlock_is_run_again(oc: onecommit.Onecommit, two_databases: TwoDatabases) -> None:
    together = threading.Barrier(2)
    runs = []

    def work(first: str, second: str) -> None:
        conns = two_databases.connect_both(autocommit=True)

        def body(tx: onecommit.Transaction) -> None:
            runs.append(first)
            tx.lock(first)
            if runs.count(first) == 1:
                together.wait(LIMIT_S)
            tx.lock(second)

        try:
            oc.run(body, **conns)
        finally:
            close(conns)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, "a", "b"), pool.submit(work, "b", "a")]:
            done.result(LIMIT_S)
    assert len(runs) > 2, "nobody was told"


def test_an_election_has_one_leader(oc: onecommit.Onecommit) -> None:
    with oc.leader("billing") as leader, oc.lock("billing") as lock:
        assert leader.is_held and lock.is_held and not leader.wait_lost(0.01)
        expect_had(oc.leader("billing", timeout=SHORT_S).__enter__)
    assert not leader.is_held
    with oc.leader("billing", timeout=LIMIT_S) as after:
        assert after.number > leader.number


def test_mistakes_are_told(oc: onecommit.Onecommit, conns: Connections) -> None:
    for name in ("", "x" * 201, 7, None, "\ud800"):
        with pytest.raises(onecommit.InvalidError, match="name"), oc.lock(name):  # type: ignore[arg-type]
            pass
        with oc.transaction(**conns) as tx, pytest.raises(onecommit.InvalidError, match="name"):
            tx.lock(name)  # type: ignore[arg-type]
    begun = oc.transaction(**conns)
    with pytest.raises(onecommit.InvalidError, match="has not begun"):
        begun.lock("a")
    with oc.transaction(**conns) as over:
        pass
    with pytest.raises(onecommit.InvalidError, match="not open"):
        over.lock("a")
    lock = oc.lock("a")
    assert not lock.is_held
    with pytest.raises(onecommit.InvalidError, match="never held"):
        _ = lock.number
    with lock:
        pass
    with pytest.raises(onecommit.InvalidError, match="held already"), lock:
        pass
    with pytest.raises(onecommit.InvalidError, match="released already"):
        lock.__exit__(None, None, None)


def test_a_wait_for_another_process_and_for_this_one(
    oc: onecommit.Onecommit, two_databases: TwoDatabases, conns: Connections
) -> None:
    own, others = "this very process", "somebody else"
    with (
        oc.transaction(deadline=LIMIT_S, **conns) as tx,
        oc.leader("a"),
        onecommit.open(two_databases.config) as no2,
    ):
        tx.lock("a")
        with no2.lock("its first one, which takes longer"):
            pass
        for opened, says in ((oc, own), (no2, others)):
            lock, leader = opened.lock("a", timeout=SHORT_S), opened.leader("a", timeout=SHORT_S)
            expect_had(lock.__enter__, f"{says} h[eo]lds? the lock")
            expect_had(leader.__enter__, f"{says} [a-z]+ the leader")


def test_nothing_is_locked_outside_of_its_block(two_databases: TwoDatabases) -> None:
    oc = onecommit.open(two_databases.config)
    with pytest.raises(onecommit.InvalidError, match="not open"), oc.lock("a"):
        pass
    with oc:
        lock = oc.lock("a")
    with pytest.raises(onecommit.InvalidError, match="closed"), lock:
        pass


def wait_for_entries(two_databases: TwoDatabases, number: int) -> None:
    """Waits until so many hold or wait. Another process asks: who closes the file loses its locks
    on it."""
    (file,) = two_databases.config.parent.rglob("decisions.db")
    asked = [sys.executable, "-c", COUNT, str(file)]

    def entries() -> int:
        return int(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)

    wait_until(lambda: entries() == number, f"{number} entries in all queues")


def test_who_waits_is_told_of_the_end(two_databases: TwoDatabases) -> None:
    oc = onecommit.open(two_databases.config).__enter__()
    held = [oc.lock("a").__enter__(), oc.leader("a").__enter__()]

    def wait_in_vain(kind: str) -> None:
        with getattr(oc, kind)("a", timeout=LIMIT_S):
            raise AssertionError("it is not free")

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(wait_in_vain, kind) for kind in ("lock", "leader")]
        wait_for_entries(two_databases, 4)
        oc.__exit__(None, None, None)
        for one in waiting:
            with pytest.raises(onecommit.InvalidError, match="closed"):
                one.result(LIMIT_S)
    for lock in held:
        assert not lock.is_held
        with pytest.raises(onecommit.InvalidError, match="closed"):
            lock.__exit__(None, None, None)
    with onecommit.open(two_databases.config) as other, other.lock("a", timeout=LIMIT_S) as after:
        assert after.number > held[0].number


def test_the_error_of_the_block_passes_through(oc: onecommit.Onecommit) -> None:
    with pytest.raises(KeyError, match="mine"), oc.lock("a"):
        raise KeyError("mine")
    with oc.lock("a", timeout=LIMIT_S):
        pass


async def test_all_of_it_with_asyncio(payments: TwoDatabases) -> None:
    async def add_async(oc: onecommit.AsyncOnecommit) -> int:
        conns = await payments.connect_both_async()
        async with oc.transaction(**conns) as tx:
            number = await tx.lock("payment/1")
            found = await conns["billing"].execute("select total from payments where id = 1")
            row = await found.fetchone()
            assert row is not None
            await conns["billing"].execute(ADD.format(row[0] + 1).encode())
        await close_async(conns)
        return number

    async with onecommit.open_async(payments.config) as oc:
        numbers = await asyncio.gather(*(add_async(oc) for _ in range(6)))
        assert len(set(numbers)) == 6
        assert payments.number("billing", "select total from payments where id = 1") == 6
        async with oc.lock("payment/1") as held, oc.leader("billing") as leader:
            assert held.is_held and leader.is_held and held.number > max(numbers)
            assert not await leader.wait_lost(0.01)
        assert not held.is_held and not leader.is_held


async def test_a_cancelled_wait_leaves_the_queue(two_databases: TwoDatabases) -> None:
    conns = await two_databases.connect_both_async()
    async with onecommit.open_async(two_databases.config) as oc:

        async def lock_in_vain() -> None:
            async with oc.lock("a"):
                raise AssertionError("it is not free")

        async def transact_in_vain() -> None:
            async with oc.transaction(**conns) as tx:
                await tx.lock("a")

        async with oc.lock("a"):
            for waits in (lock_in_vain, transact_in_vain):
                task = asyncio.create_task(waits())
                await asyncio.to_thread(wait_for_entries, two_databases, 2)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        async with oc.lock("a", timeout=LIMIT_S) as held:
            assert held.is_held
    await close_async(conns)


def test_a_connection_error_gives_the_lock_up(oc: onecommit.Onecommit, conns: Connections) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero), oc.transaction(**conns) as tx:
        tx.lock("a")
        conns["orders"].execute("select 1 / 0")
    with oc.lock("a", timeout=LIMIT_S):
        pass
