"""What users do wrong with transactions: an exception of ours says it, and nothing is left."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onecommit
import psycopg
import pytest

from tests.servers import Postgres

from .conftest import init
from .slow_prepare import SlowPrepare
from .two_databases import NAMES, Connections, TwoDatabases, close

PAY = "update orders set paid = true where id = 42"
PAYMENT = "insert into payments values (42, 100)"
NOTHING = (0, 0, 0)


def work(conns: Connections) -> None:
    """Writes in both."""
    conns["orders"].execute(PAY)
    conns["billing"].execute(PAYMENT)


def pays(oc: onecommit.Onecommit, conns: Connections) -> None:
    """Everything goes on."""
    with oc.transaction(**conns) as tx:
        work(conns)
    assert (tx.protocol, tx.applied) == ("two-phase", True)


@pytest.mark.parametrize(
    ("most", "kind", "says"),
    [
        ("0", onecommit.ConfigurationError, ["set max_prepared_transactions", "restart"]),
        ("1", onecommit.UnreachableError, ["raise max_prepared_transactions", "onecommit doctor"]),
    ],
)
def test_a_server_that_prepares_nothing_or_nothing_more(
    tmp_path: Path, most: str, kind: type[onecommit.Error], says: list[str]
) -> None:
    with Postgres(settings={"max_prepared_transactions": most}) as server:
        databases = TwoDatabases.create(server.dsn, tmp_path)
        init("--config", str(databases.config))
        databases.empty()
        conns = databases.connect_both()
        with onecommit.open(databases.config) as oc:
            with pytest.raises(kind, match="rolled back") as caught, oc.transaction(**conns) as tx:
                work(conns)
                tx.publish("order.paid", key="42")
            for words in [*says, "participant: "]:
                assert words in str(caught.value), caught.value
            assert (databases.paid(), databases.prepared()) == (NOTHING, 0)
            with oc.transaction(**conns) as tx:
                conns["orders"].execute(PAY)
            assert tx.protocol == "one-phase", "that needs nothing prepared"
        close(conns)


@pytest.mark.parametrize(
    "end",
    [
        lambda conn: conn.commit(),
        lambda conn: conn.rollback(),
        lambda conn: conn.execute("commit"),
        lambda conn: conn.execute("rollback"),
    ],
    ids=["commit()", "rollback()", "COMMIT", "ROLLBACK"],
)
@pytest.mark.parametrize("autocommit", [False, True])
def test_ending_a_branch_inside_is_noticed(
    oc: onecommit.Onecommit,
    two_databases: TwoDatabases,
    end: Callable[[psycopg.Connection[Any]], Any],
    autocommit: bool,
) -> None:
    conns = two_databases.connect_both(autocommit=autocommit)
    noticed = pytest.raises(onecommit.InvalidError, match="committed or rolled back inside")
    with noticed as caught, oc.transaction(**conns) as tx:
        tx.publish("order.paid", key="42")
        work(conns)
        end(conns["billing"])
    assert "participant: billing" in str(caught.value)
    paid, payments, messages = two_databases.paid()
    assert (paid, messages) == (0, 0) and payments <= 1, "what was committed inside stays"
    for name in NAMES:
        conns[name].rollback()
    pays(oc, conns)
    close(conns)


def test_a_connection_with_a_transaction_open_is_refused(
    oc: onecommit.Onecommit, conns: Connections
) -> None:
    conns["billing"].execute("select 1")
    with pytest.raises(onecommit.InvalidError, match="end its transaction first") as caught:
        oc.transaction(**conns)
    assert "participant: billing" in str(caught.value)
    conns["billing"].rollback()
    pays(oc, conns)


def test_a_transaction_is_ended_once(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    with oc.transaction(**conns) as tx:
        work(conns)
    with pytest.raises(onecommit.InvalidError, match="over"):
        tx.__exit__(None, None, None)
    with pytest.raises(onecommit.InvalidError, match="begun already"), tx:
        work(conns)
    with pytest.raises(onecommit.InvalidError, match="over"):
        tx.publish("order.paid", key="42")
    assert (tx.protocol, tx.applied) == ("two-phase", True)
    assert two_databases.paid() == (1, 1, 0)
    other = oc.transaction(**conns)
    with pytest.raises(onecommit.InvalidError, match="not begun"):
        other.__exit__(None, None, None)
    with other, pytest.raises(onecommit.InvalidError, match="begun already"):
        other.__enter__()
    pays(oc, conns)


def test_one_that_is_dropped_leaves_nothing_prepared(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    tx = oc.transaction(**conns)
    tx.__enter__()
    work(conns)
    cycle: list[Any] = [tx]
    cycle.append(cycle)
    del tx, cycle
    # Garbage is collected on any thread.
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join()
    with pytest.raises(onecommit.InvalidError, match="end its transaction first"):
        oc.transaction(**conns)
    for name in NAMES:
        conns[name].rollback()
    assert (two_databases.paid(), two_databases.prepared()) == (NOTHING, 0)
    pays(oc, conns)


def test_what_was_opened_is_collected_on_another_thread(
    conns: Connections, two_databases: TwoDatabases
) -> None:
    opened = onecommit.open(two_databases.config)
    pays(opened.__enter__(), conns)
    cycle: list[Any] = [opened]
    cycle.append(cycle)
    del opened, cycle
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join()
    with onecommit.open(two_databases.config) as again, again.transaction(**conns):
        conns["billing"].execute(PAYMENT)
    assert two_databases.paid() == (1, 2, 0)


def test_ctrl_c_inside_rolls_back(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases
) -> None:
    with pytest.raises(KeyboardInterrupt), oc.transaction(**conns):
        work(conns)
        signal.raise_signal(signal.SIGINT)
    assert (two_databases.paid(), two_databases.prepared()) == (NOTHING, 0)
    pays(oc, conns)


def test_ctrl_c_while_it_prepares_leaves_nothing(
    oc: onecommit.Onecommit, conns: Connections, two_databases: TwoDatabases, slow: SlowPrepare
) -> None:
    def interrupt() -> None:
        slow.wait_for_it()
        # As Ctrl-C does: `raise_signal` would be for this thread, and wake no other.
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt), oc.transaction(**conns):
        work(conns)
        interrupter.start()
    interrupter.join()
    assert conns["orders"].closed, "it would be busy for as long as the PREPARE"
    slow.wait_for_its_end()
    assert two_databases.paid() == NOTHING


async def test_a_caller_that_is_cancelled_while_it_prepares_leaves_nothing(
    two_databases: TwoDatabases, slow: SlowPrepare
) -> None:
    async with onecommit.open_async(two_databases.config) as oc:
        conns = await two_databases.connect_both_async()

        async def pay() -> None:
            async with oc.transaction(**conns):
                await conns["orders"].execute(PAY)
                await conns["billing"].execute(PAYMENT)

        task = asyncio.create_task(pay())
        await asyncio.to_thread(slow.wait_for_it)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert conns["orders"].closed, "it would be busy for as long as the PREPARE"
        await conns["billing"].close()
        await asyncio.to_thread(slow.wait_for_its_end)
    assert two_databases.paid() == NOTHING


def test_a_sqlite_branch_is_refused(
    conns: Connections, two_databases: TwoDatabases, tmp_path: Path
) -> None:
    config = tmp_path / "files.toml"
    file = f'[participants.files]\nurl = "sqlite:///{tmp_path}/files.db"\n'
    config.write_text(two_databases.config.read_text() + file)
    lite = sqlite3.connect(":memory:")
    files: tuple[Any, ...] = (lite, conns["billing"])
    with onecommit.open(config) as oc:
        for conn in files:
            with pytest.raises(onecommit.InvalidError, match="SQLite can't prepare") as caught:
                oc.transaction(orders=conns["orders"], files=conn)
            for words in ("onecommit.Outbox", "participant: files"):
                assert words in str(caught.value), caught.value
        pays(oc, conns)
    lite.close()
