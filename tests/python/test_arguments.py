"""What can't be an argument is refused by its name, before anything is begun or waited for."""

from __future__ import annotations

import asyncio
import datetime
import os
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import onecommit
import pytest
from onecommit import InvalidError

from .two_databases import Connections, TwoDatabases, close_async

NO_SECONDS: list[Any] = [
    float("inf"),
    float("-inf"),
    float("nan"),
    1e17,
    10**400,
    Decimal("sNaN"),
    "5",
    datetime.timedelta(seconds=5),
    [],
]
SURROGATE = "\ud800"
NOTHING = (0, 0, 0)


class Unshown:
    """Its __repr__ fails, and the error has to be ours all the same."""

    def __repr__(self) -> str:
        raise KeyError("mine")


def as_any(named: Any) -> Any:
    """For what a type checker would refuse."""
    return named


Use = Callable[[onecommit.Onecommit, Connections, Any], Any]


def lock_in_a_transaction(oc: onecommit.Onecommit, conns: Connections, timeout: Any) -> None:
    with oc.transaction(**conns) as tx:
        tx.lock("a", timeout=timeout)


def wait_lost(oc: onecommit.Onecommit, _: Connections, timeout: Any) -> None:
    with oc.lock("a", timeout=60) as lock:
        lock.wait_lost(timeout)


def changed(oc: onecommit.Onecommit, _: Connections, timeout: Any) -> None:
    with oc.group("a") as group:
        group.changed(timeout)


LIMITS: dict[str, Use] = {
    "a lock": lambda oc, _, timeout: oc.lock("a", timeout=timeout),
    "a leader": lambda oc, _, timeout: oc.leader("a", timeout=timeout),
    "a transaction's lock": lock_in_a_transaction,
    "wait_lost": wait_lost,
    "changed": changed,
}


@pytest.mark.parametrize("use", LIMITS.values(), ids=LIMITS)
def test_a_limit_that_is_no_number_of_seconds(
    oc: onecommit.Onecommit, conns: Connections, use: Use
) -> None:
    for wrong in [*NO_SECONDS, Unshown()]:
        with pytest.raises(InvalidError, match="timeout is a number of seconds, 315360000") as told:
            use(oc, conns, wrong)
        assert "timeout" in told.value.context, told.value
    # As other libraries of numbers have them, and what is left of a limit that has passed.
    for right in (Fraction(1, 100), Decimal("0.01"), 0, -1.5):
        with suppress(onecommit.ConflictError, onecommit.UnreachableError):
            use(oc, conns, right)


def test_a_deadline_that_is_none_costs_no_connection(
    oc: onecommit.Onecommit, conns: Connections
) -> None:
    for wrong in [*NO_SECONDS, Unshown()]:
        with pytest.raises(InvalidError, match="deadline is a number of seconds, 315360000"):
            oc.transaction(deadline=wrong, **conns)
    for over in (0, -1, Decimal(0)):
        with pytest.raises(InvalidError, match="deadline is more than 0 seconds"):
            oc.transaction(deadline=over, **conns)  # type: ignore[arg-type]
    with oc.transaction(deadline=60, **conns):
        conns["orders"].execute("select 1")
    assert not conns["orders"].closed


WRONG: dict[str, tuple[Use, Any, str]] = {
    "isolation": (
        lambda oc, conns, wrong: oc.transaction(isolation=wrong, **conns),
        5,
        "isolation is `read committed`, `repeatable read` or `serializable`, not int",
    ),
    "ack": (
        lambda oc, conns, wrong: oc.transaction(ack=wrong, **conns),
        None,
        'ack is "applied" or "decided", not NoneType',
    ),
    "participant": (
        lambda oc, conns, wrong: oc.transaction(**as_any({wrong: conns["orders"]})),
        SURROGATE,
        "participant can't be encoded as UTF-8: it holds a lone surrogate",
    ),
    "attempts": (
        lambda oc, conns, wrong: oc.run(print, attempts=wrong, **conns),
        "3",
        "attempts is an int that is 1 or more, not str",
    ),
    "work": (
        lambda oc, conns, wrong: oc.run(wrong, **conns),
        None,
        "work is a function that is given the transaction, not NoneType",
    ),
    "a lock's name": (
        lambda oc, _, wrong: oc.lock(wrong),
        7,
        "name is a str, not int",
    ),
    "a group's name": (
        lambda oc, _, wrong: oc.group(wrong),
        SURROGATE,
        "name can't be encoded as UTF-8: it holds a lone surrogate",
    ),
    "member": (
        lambda oc, _, wrong: oc.group("a", member=wrong),
        5,
        "member is a str, not int",
    ),
    "data": (
        lambda oc, _, wrong: oc.group("a", data=wrong),
        "text",
        "data is bytes, not str",
    ),
    "config": (
        lambda _, __, wrong: onecommit.open(wrong),
        5,
        "config is a path, not int",
    ),
    "config of bytes": (
        lambda _, __, wrong: onecommit.open_async(wrong),
        b"onecommit.toml",
        "config is a path, not bytes",
    ),
    "config of no text": (
        lambda _, __, wrong: onecommit.open(wrong),
        Path(SURROGATE),
        "config is no path that a file can have: it holds a lone surrogate",
    ),
    "schema": (
        lambda _, __, wrong: onecommit.Outbox(wrong),
        SURROGATE,
        "schema can't be encoded as UTF-8: it holds a lone surrogate",
    ),
}


@pytest.mark.parametrize(("use", "wrong", "says"), WRONG.values(), ids=WRONG)
def test_an_argument_of_the_wrong_kind(
    oc: onecommit.Onecommit, conns: Connections, use: Use, wrong: Any, says: str
) -> None:
    with pytest.raises(InvalidError) as told:
        use(oc, conns, wrong)
    assert says in str(told.value)
    with oc.transaction(**conns):
        conns["orders"].execute("select 1")


def test_the_outbox_of_a_message(oc: onecommit.Onecommit, conns: Connections) -> None:
    with oc.transaction(**conns) as tx:
        for wrong, says in ((5, "outbox is a str, not int"), (SURROGATE, "lone surrogate")):
            with pytest.raises(InvalidError, match=says):
                tx.publish("order.paid", outbox=wrong)  # type: ignore[arg-type]
        tx.publish("order.paid", outbox="orders")


def test_bytes_of_any_type_are_a_members_data(oc: onecommit.Onecommit) -> None:
    with oc.group("a", data=bytearray(b"one")) as group:
        assert [member.data for member in group.view().members] == [b"one"]
        group.say(memoryview(b"two"))
        with pytest.raises(InvalidError, match="data is bytes, not str"):
            group.say("three")  # type: ignore[arg-type]


def test_a_path_of_any_type_is_a_configuration(two_databases: TwoDatabases) -> None:
    class Elsewhere(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(two_databases.config)

    for config in (Elsewhere(), str(two_databases.config)):
        with onecommit.open(config):
            pass


def test_what_is_still_to_be_awaited_is_not_committed(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    async def pay(_: object) -> None:
        raise AssertionError("nobody awaits it")

    def pay_later(tx: onecommit.Transaction) -> object:
        conns["orders"].execute("update orders set paid = true where id = 42")
        tx.publish("order.paid", key="42")
        return pay(tx)

    with pytest.raises(InvalidError, match=r"pay\) is a coroutine function.*open_async"):
        _ = oc.run(pay, attempts=1, **conns)
    with pytest.raises(InvalidError, match=r"pay_later\) returned coroutine.*rolled back"):
        oc.run(pay_later, **conns)
    assert two_databases.paid() == NOTHING
    assert oc.run(lambda _: 42, **conns) == 42


async def test_what_can_not_be_awaited_is_not_committed(two_databases: TwoDatabases) -> None:
    conns = await two_databases.connect_both_async()

    def pay(tx: onecommit.AsyncTransaction) -> int:
        tx.publish("order.paid", key="42")
        return 42

    async def pay_now(_: object) -> int:
        await asyncio.sleep(0)
        return 43

    async with onecommit.open_async(two_databases.config) as oc:
        with pytest.raises(InvalidError, match=r"pay\) returned int, which can't be awaited"):
            await oc.run(pay, **conns)  # type: ignore[arg-type]
        assert two_databases.paid() == NOTHING
        assert await oc.run(pay_now, **conns) == 43
    await close_async(conns)
