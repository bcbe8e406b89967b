"""A transaction ends while others still work on its connections, or on itself: none is torn.

Psycopg's own block commits what is open on a connection when it ends well. So whatever was not
rolled back by then would be committed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import onecommit
import psycopg
import pytest

from tests.e2e.waiting import LIMIT_S, wait_until

from .short_deadlines import Reached, until_reached
from .slow_prepare import SlowPrepare
from .two_databases import NAMES, Connections, TwoDatabases

PAY = "update orders set paid = true where id = 42"
PAYMENT = "insert into payments values (42, 100)"
GATE = 42
PAYMENT_BEHIND_THE_GATE = f"insert into payments select 42, 100 from pg_advisory_xact_lock({GATE})"
AT_THE_GATE = """
select count(*) from pg_stat_activity
where wait_event = 'advisory' and datname = current_database()"""
LAST_IN_ORDERS = f"""
select count(*) from pg_stat_activity
where query = '{PAY}' and datname = current_database()"""
NOTHING = (0, 0, 0)
# For what comes before; then it is waited for.
DEADLINE_S = 4.0
LEFT = """
select count(*) from pg_stat_activity
where query ~ '^(select generate_series|copy payments)' and datname = current_database()"""
# Sooner than the kernel gives up what is closed at one end.
TOLD_LIMIT_S = 50.0


@contextmanager
def gate(databases: TwoDatabases) -> Iterator[threading.Thread]:
    """Shut until the transaction ends in `orders`, where nobody works any more."""
    with databases.connect("billing", autocommit=True) as keeper:
        keeper.execute(f"select pg_advisory_lock({GATE})".encode())

        def open_it() -> None:
            wait_until(lambda: databases.number("orders", LAST_IN_ORDERS) == 0, "it ends in orders")
            keeper.execute(f"select pg_advisory_unlock({GATE})".encode())

        opening = threading.Thread(target=open_it)
        yield opening
        opening.join()


def wait_at_the_gate(databases: TwoDatabases) -> None:
    wait_until(lambda: databases.number("billing", AT_THE_GATE) == 1, "it is at the gate")


class OwnError(Exception):
    """The program's own."""


async def test_what_another_task_is_writing_is_rolled_back(two_databases: TwoDatabases) -> None:
    conns = await two_databases.connect_both_async()

    async def fails() -> None:
        await asyncio.to_thread(wait_at_the_gate, two_databases)
        await conns["orders"].execute(PAY)
        opening.start()
        raise OwnError

    with gate(two_databases) as opening:
        async with onecommit.open_async(two_databases.config) as oc:
            with pytest.raises(OwnError):
                async with oc.transaction(**conns):
                    behind = conns["billing"].execute(PAYMENT_BEHIND_THE_GATE)
                    await asyncio.gather(behind, fails())
            for name in NAMES:
                assert not conns[name].closed
                await conns[name].commit()
                await conns[name].close()
    assert (two_databases.paid(), two_databases.prepared()) == (NOTHING, 0)


@pytest.mark.parametrize("raises", [True, False], ids=["rolled back", "committed"])
def test_what_another_thread_is_writing_is_part_of_it(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases, raises: bool
) -> None:
    with ThreadPoolExecutor(1) as other, gate(two_databases) as opening:
        with suppress(OwnError), oc.transaction(**conns):
            behind = other.submit(conns["billing"].execute, PAYMENT_BEHIND_THE_GATE)
            wait_at_the_gate(two_databases)
            conns["orders"].execute(PAY)
            opening.start()
            if raises:
                raise OwnError
        behind.result()
    for name in NAMES:
        conns[name].commit()
    assert two_databases.paid() == (NOTHING if raises else (1, 1, 0))
    assert two_databases.prepared() == 0


def left_in_a_stream(conn: psycopg.Connection[Any]) -> Any:
    stream = conn.cursor().stream("select generate_series(1, 1000000)")
    next(stream)
    return stream


def left_in_a_copy(conn: psycopg.Connection[Any]) -> Any:
    copying = conn.cursor().copy("copy payments from stdin")
    copying.__enter__().write_row((42, 100))
    return copying


@pytest.mark.parametrize("left", [left_in_a_stream, left_in_a_copy])
def test_what_is_not_at_its_end_is_cut_off_at_the_deadline(
    oc: onecommit.Onecommit,
    connect_both: Callable[[], Connections],
    two_databases: TwoDatabases,
    left: Callable[[psycopg.Connection[Any]], Any],
) -> None:
    open_still: list[Any] = []

    def leave_it(reached: Reached) -> Connections:
        conns = connect_both()
        with pytest.raises(OwnError), oc.transaction(deadline=DEADLINE_S, **conns):
            conns["orders"].execute(PAY)
            conns["billing"].execute(PAYMENT)
            open_still.append(left(conns["billing"]))
            reached()
            raise OwnError
        return conns

    conns = until_reached(leave_it)
    # A server that writes does not always hear of a mere end.
    with socket.socket(fileno=os.dup(conns["billing"].fileno())) as shut:
        reset = struct.pack("ii", 1, 0)
        assert shut.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(reset)) == reset
    open_still.clear()
    with suppress(psycopg.OperationalError):
        conns["billing"].commit()
    assert (two_databases.paid(), two_databases.prepared()) == (NOTHING, 0)

    def is_gone() -> bool:
        return two_databases.number("billing", LEFT) == 0

    wait_until(is_gone, "its server has let go of its locks", TOLD_LIMIT_S)


def test_a_pipeline_that_is_left_open_is_cut_off(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    pipeline = conns["billing"].pipeline()
    with pytest.raises(onecommit.FailedError, match="in use") as caught, oc.transaction(**conns):
        conns["orders"].execute(PAY)
        conns["billing"].execute(PAYMENT)
        pipeline.__enter__()
    assert "participant: billing" in str(caught.value)
    assert [conns[name].closed for name in NAMES] == [False, True]
    conns["orders"].commit()
    assert (two_databases.paid(), two_databases.prepared()) == (NOTHING, 0)


def test_a_pipeline_around_it_is_refused(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    refused = pytest.raises(onecommit.InvalidError, match=r"pipeline.*orders")
    with conns["orders"].pipeline(), refused:
        oc.transaction(**conns)
    with oc.transaction(**conns), conns["orders"].pipeline():
        conns["orders"].execute(PAY)
        conns["billing"].execute(PAYMENT)
    assert two_databases.paid() == (1, 1, 0)


def test_what_a_signals_handler_raises_leaves_nothing_prepared(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases, slow: SlowPrepare
) -> None:
    def handler(*_: Any) -> None:
        raise OwnError

    def interrupt() -> None:
        slow.wait_for_it()
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        interrupting = threading.Thread(target=interrupt)
        with pytest.raises(OwnError), oc.transaction(**conns) as tx:
            conns["orders"].execute(PAY)
            conns["billing"].execute(PAYMENT)
            interrupting.start()
        interrupting.join()
    finally:
        signal.signal(signal.SIGALRM, before)
    slow.wait_for_its_end()
    assert (two_databases.paid(), tx.applied) == (NOTHING, False), "though it is not collected yet"


def test_who_commits_while_another_thread_closes_is_told_the_truth(
    conns: Connections, two_databases: TwoDatabases, slow: SlowPrepare
) -> None:
    def pay() -> None:
        with oc.transaction(**conns):
            conns["orders"].execute(PAY)
            conns["billing"].execute(PAYMENT)

    with ThreadPoolExecutor(1) as other:
        with onecommit.open(two_databases.config) as oc:
            paying = other.submit(pay)
            slow.wait_for_it()
        slow.let_go()
        with pytest.raises((onecommit.InDoubt, onecommit.FencedError)) as told:
            paying.result(LIMIT_S)
    # The transaction is referred to still, by the error's own frames.
    with onecommit.open(two_databases.config):
        slow.wait_for_its_end()
    possible = [NOTHING, (1, 1, 0)] if told.errisinstance(onecommit.InDoubt) else [NOTHING]
    assert two_databases.paid() in possible


def test_the_end_of_a_transaction_ends_the_wait_for_its_locks(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    def waits() -> bool:
        try:
            tx.publish("order.paid", key="42")
        except onecommit.InvalidError as error:
            return "waits for a lock" in str(error)
        return False

    with oc.lock("account/42"), ThreadPoolExecutor(1) as other:
        with pytest.raises(OwnError), oc.transaction(**conns) as tx:
            conns["orders"].execute(PAY)
            waiting = other.submit(tx.lock, "account/42")
            wait_until(waits, "it waits for the lock")
            raise OwnError
        with pytest.raises(onecommit.InvalidError, match="it was ended"):
            waiting.result(LIMIT_S)
    assert two_databases.paid() == NOTHING
