"""Transactions over two databases, on psycopg's connections."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import onecommit
import psycopg
import pytest

from .short_deadlines import Reached, until_reached
from .two_databases import AsyncConnections, Connections, TwoDatabases, close, close_async

PAY = "update orders set paid = true where id = 42"
PAYMENT = "insert into payments values (42, 100)"
LIMIT_S = 120.0
# For what comes before the end of it; where the machine stands still it is not enough.
DEADLINE_S = 3.0


@pytest.fixture
async def async_conns(two_databases: TwoDatabases) -> AsyncIterator[AsyncConnections]:
    opened = await two_databases.connect_both_async()
    yield opened
    await close_async(opened)


def test_two_databases_and_a_message_commit_as_one(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    for round_ in (1, 2):
        with oc.transaction(**conns) as tx:
            early = tx.protocol
            conns["orders"].execute(PAY)
            conns["billing"].execute(PAYMENT)
            id_ = tx.publish("order.paid", key="42", value={"total": 100})
            assert two_databases.paid() == (int(round_ > 1), round_ - 1, round_ - 1)
        assert (early, tx.protocol, tx.applied) == (None, "two-phase", True)
        assert two_databases.paid() == (1, round_, round_)
        found = "select message_id, topic, key, value from onecommit.outbox order by id desc"
        assert conns["orders"].execute(found).fetchone() == (
            id_,
            "order.paid",
            b"42",
            b'{"total":100}',
        )
        conns["orders"].rollback()
    assert two_databases.prepared() == 0


@pytest.mark.parametrize("autocommit", [False, True])
def test_an_exception_rolls_everything_back(
    oc: onecommit.Onecommit, two_databases: TwoDatabases, autocommit: bool
) -> None:
    conns = two_databases.connect_both(autocommit=autocommit)
    with pytest.raises(KeyError, match="mine"), oc.transaction(**conns) as tx:
        conns["orders"].execute(PAY)
        conns["billing"].execute(PAYMENT)
        tx.publish("order.paid", key="42")
        raise KeyError("mine")
    assert (two_databases.paid(), tx.applied, tx.protocol) == ((0, 0, 0), False, None)
    # The connections are as they were.
    with oc.transaction(**conns) as tx:
        conns["orders"].execute(PAY)
    assert tx.protocol == "one-phase"
    assert two_databases.paid() == (1, 0, 0)
    close(conns)


def test_what_a_database_refuses_rolls_the_other_back(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation), oc.transaction(**conns):
        conns["orders"].execute(PAY)
        conns["billing"].execute("insert into payments values (42, -1)")
    with pytest.raises(onecommit.FailedError, match="billing"), oc.transaction(**conns):
        conns["orders"].execute(PAY)
        with pytest.raises(psycopg.errors.CheckViolation):
            conns["billing"].execute("insert into payments values (42, -1)")
    assert two_databases.paid() == (0, 0, 0)


def test_committing_inside_is_noticed(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    with pytest.raises(onecommit.InvalidError, match="billing") as caught, oc.transaction(**conns):
        conns["orders"].execute(PAY)
        conns["billing"].execute(PAYMENT)
        conns["billing"].commit()
    assert "rolled back" in str(caught.value)
    assert two_databases.paid() == (0, 1, 0), "what was committed inside stays"


def test_connections_that_can_not_take_part_are_refused(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    orders, billing = conns["orders"], conns["billing"]
    closed = two_databases.connect("orders")
    closed.close()
    asynchronous = asyncio.run(two_databases.connect_async("orders"))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"orders": closed}, "closed"),
        ({"orders": object()}, "psycopg"),
        ({"orders": asynchronous}, "psycopg"),
        ({"orders": orders, "billing": orders}, "same connection"),
        ({"nowhere": orders}, "orders"),
        ({"orders": orders, "isolation": "snapshot"}, "isolation"),
        ({"orders": orders, "ack": "soon"}, "ack"),
    ]
    for arguments, why in wrong:
        with pytest.raises(onecommit.InvalidError, match=why), oc.transaction(**arguments):
            pass
    asyncio.run(asynchronous.close())
    with pytest.raises(onecommit.RefusedError, match="another database"):
        oc.transaction(orders=billing).__enter__()
    with oc.transaction(orders=orders):
        with pytest.raises(onecommit.InvalidError, match="in use"):
            oc.transaction(orders=orders)
        orders.execute(PAY)
    assert two_databases.paid() == (1, 0, 0)


def test_only_what_kafka_takes_and_only_where_there_is_an_outbox(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    with oc.transaction(billing=conns["billing"]) as tx, pytest.raises(onecommit.InvalidError):
        tx.publish("order.paid", key="42")
    with oc.transaction(**conns) as tx:
        for topic, outbox, why in [
            ("no spaces", None, "topic"),
            ("order.paid", "billing", "no outbox"),
            ("order.paid", "Nowhere", "small letter"),
        ]:
            with pytest.raises(onecommit.InvalidError, match=why):
                tx.publish(topic, key="42", outbox=outbox)
        tx.publish("order.paid", key="42", outbox="orders")
    with pytest.raises(onecommit.InvalidError, match="over"):
        tx.publish("order.paid", key="42")
    assert two_databases.paid() == (0, 0, 1)


def test_a_conflict_is_run_again(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    runs: list[str] = []

    def pay(tx: onecommit.Transaction) -> int:
        conns["orders"].execute("select count(*) from orders where paid")
        conns["billing"].execute(PAYMENT)
        if not runs:
            with two_databases.connect("orders") as rival:
                rival.execute(PAY)
        runs.append(tx.id)
        conns["orders"].execute(PAY)
        return len(runs)

    assert oc.run(pay, isolation="repeatable read", **conns) == 2
    assert len(set(runs)) == 2
    assert two_databases.paid() == (1, 1, 0)
    with pytest.raises(psycopg.errors.SerializationFailure):
        runs.clear()
        oc.run(pay, isolation="serializable", attempts=1, **conns)
    with pytest.raises(onecommit.InvalidError, match="attempts"):
        oc.run(pay, attempts=0, **conns)


def test_the_deadline_holds_for_all_of_it(
    oc: onecommit.Onecommit,
    connect_both: Callable[[], Connections],
    two_databases: TwoDatabases,
) -> None:
    def wait_for_a_lock(reached: Reached) -> None:
        conns = connect_both()
        with oc.transaction(deadline=DEADLINE_S, **conns):
            conns["orders"].execute(PAY)
            reached()
            conns["billing"].execute(PAYMENT)

    def take_too_long(reached: Reached) -> None:
        conns = connect_both()
        with oc.transaction(deadline=DEADLINE_S, **conns):
            conns["orders"].execute(PAY)
            conns["billing"].execute(PAYMENT)
            reached()
            conns["orders"].execute(f"select pg_sleep({DEADLINE_S + 0.2})".encode())

    with two_databases.connect("billing") as rival:
        rival.execute("lock table payments")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            until_reached(wait_for_a_lock)
    with pytest.raises(onecommit.UnreachableError, match="deadline"):
        until_reached(take_too_long)
    assert (two_databases.paid(), two_databases.prepared()) == ((0, 0, 0), 0)


def test_threads_share_it(oc: onecommit.Onecommit, two_databases: TwoDatabases) -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with (
                two_databases.connect("orders") as orders,
                two_databases.connect("billing") as billing,
            ):
                for _ in range(10):
                    with oc.transaction(orders=orders, billing=billing) as tx:
                        orders.execute("insert into payments values (1, 1)")
                        billing.execute(PAYMENT)
                        tx.publish("order.paid", key="42")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert not failed
    assert two_databases.paid() == (0, 80, 80)


def test_a_forked_child_begins_nothing(
    oc: onecommit.Onecommit, two_databases: TwoDatabases
) -> None:
    child = os.fork()
    if child == 0:
        try:
            conn = two_databases.connect("orders")
            oc.transaction(orders=conn)
        except onecommit.InvalidError as error:
            os._exit(0 if "forked" in str(error) else 2)
        except BaseException:
            os._exit(3)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_it_is_used_in_its_block(two_databases: TwoDatabases) -> None:
    oc = onecommit.open(two_databases.config)
    with two_databases.connect("orders") as orders:
        uses: list[Callable[[], object]] = [
            lambda: oc.transaction(orders=orders),
            lambda: oc.lock("account/42").__enter__(),
            lambda: oc.leader("billing").__enter__(),
            lambda: oc.group("workers").__enter__(),
        ]

        def expect_not_open() -> None:
            for use in uses:
                with pytest.raises(onecommit.InvalidError, match="not open: use it inside"):
                    use()

        expect_not_open()
        with oc:
            pass
        expect_not_open()
    with pytest.raises(onecommit.ConfigurationError):
        onecommit.open("/no/such/file.toml").__enter__()


async def test_asyncio_has_the_same(
    two_databases: TwoDatabases, async_conns: AsyncConnections
) -> None:
    async with onecommit.open_async(two_databases.config) as oc:
        async with oc.transaction(**async_conns) as tx:
            await async_conns["orders"].execute(PAY)
            await async_conns["billing"].execute(PAYMENT)
            tx.publish("order.paid", key="42", value={"total": 100})
        assert (tx.protocol, tx.applied) == ("two-phase", True)
        assert two_databases.paid() == (1, 1, 1)
        with pytest.raises(KeyError):
            async with oc.transaction(**async_conns):
                await async_conns["billing"].execute(PAYMENT)
                raise KeyError

        async def pay(tx: onecommit.AsyncTransaction) -> str:
            await async_conns["billing"].execute(PAYMENT)
            return tx.id

        assert await oc.run(pay, **async_conns)
        assert two_databases.paid() == (1, 2, 1)


async def test_many_at_a_time_in_one_loop(two_databases: TwoDatabases) -> None:
    async with onecommit.open_async(two_databases.config) as oc:

        async def work() -> None:
            orders = await two_databases.connect_async("orders")
            billing = await two_databases.connect_async("billing")
            async with orders, billing:
                for _ in range(5):
                    async with oc.transaction(orders=orders, billing=billing) as tx:
                        await orders.execute("insert into payments values (1, 1)")
                        await billing.execute(PAYMENT)
                        tx.publish("order.paid", key="42")

        await asyncio.wait_for(asyncio.gather(*(work() for _ in range(8))), LIMIT_S)
    assert two_databases.paid() == (0, 40, 40)


async def test_a_caller_that_is_cancelled_leaves_nothing(
    two_databases: TwoDatabases, async_conns: AsyncConnections
) -> None:
    begun = asyncio.Event()
    async with onecommit.open_async(two_databases.config) as oc:

        async def work() -> None:
            async with oc.transaction(**async_conns):
                await async_conns["orders"].execute(PAY)
                await async_conns["billing"].execute(PAYMENT)
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await asyncio.wait_for(begun.wait(), LIMIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (two_databases.paid(), two_databases.prepared()) == ((0, 0, 0), 0)
