"""Failovers and restores under transactions over several databases, by the documented way on.

Each time a transaction is decided, and then a server goes back behind it: nothing of it is rolled
back, whoever refuses names the branches, and once a person has done what is said all goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.servers import Postgres, ZooKeeper

from .bank import Bank
from .bank_worker import LOCKS
from .command_line import FAILPOINTS, REFUSED, is_stopped
from .copied_postgres import BaseBackup
from .installation import Servers
from .postgres_outbox import PostgresOutbox, url_of
from .standby import Standby
from .waiting import wait_until

TRANSFERS, MANY = 6, 40
DEADLINE = "ONECOMMIT_COORDINATOR__DEADLINE_MS"
PREPARED = "select gid from pg_prepared_xacts where database = current_database()"
UNKNOWN = "prepared branches of a coordinator that the decision log does not know"
CONFIRM = "delete from onecommit.coordinator where id = '00000000-0000-0000-0000-000000000000'"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(stack: ExitStack, servers: Servers, folder: Path, primary: Postgres) -> Bank:
    """A bank with the decision log in a file, and a server of its own for one database."""
    bank = Bank(servers, folder, zookeeper=False, billing=primary.dsn)
    stack.callback(bank.installation.close)
    stack.callback(bank.end_workers)
    return bank


def work(bank: Bank, end: str = "", transfers: int = TRANSFERS) -> None:
    """Some transfers, of a program that comes and goes."""
    worker = bank.worker(end)
    said = worker.errors.read_text
    wait_until(lambda: worker.has_committed(transfers), "it works", explain=said)
    worker.finish()


def die_decided(bank: Bank, log: str) -> str:
    """Leaves a transaction that is decided and prepared everywhere; its id."""
    bank.worker("", {FAILPOINTS: f"{log}_log.decide.after_commit=kill"}).ended(-signal.SIGKILL)
    (seen,) = bank.listed()
    assert len(seen["prepared"]) == 2
    return str(seen["transaction"])


def branches(database: PostgresOutbox) -> list[str]:
    return [str(name) for (name,) in Bank.ask(database, PREPARED)]


def move_billing(bank: Bank, server: Postgres) -> None:
    """The participant's address leads to another server from now on."""
    bank.billing.url = url_of(server.dsn, bank.billing.name)
    bank.tables["participants.billing"] = {"url": bank.billing.url}
    bank.installation.configure(other=bank.tables)


def refused(bank: Bank, transaction: str) -> dict[str, Any]:
    """What `transaction resolve` says, once the dead count as such."""
    words = ("--json", "transaction", "resolve", transaction, "--yes")
    said: list[str] = []

    def is_refused() -> bool:
        done = bank.installation.command_line.reached(*words)
        said.append(str(done))
        return done.returncode == REFUSED and bool(done.stdout)

    wait_until(is_refused, "it is refused", explain=lambda: said[-1])
    done = bank.installation.command_line.reached(*words)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def mend_billing(bank: Bank) -> None:
    """By hand: what is in the other database, and was lost here."""
    here, there = bank.entries()
    with psycopg.connect(bank.billing.url) as connection:
        for transfer in here.keys() - there.keys():
            amount = -here[transfer]
            connection.execute("insert into entry values (%s, %s)", [transfer, amount])
            connection.execute("update balance set total = total + %s where account = 1", [amount])


def by_hand(database: PostgresOutbox, sql: str) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(sql.encode())


def nothing_is_left(bank: Bank) -> None:
    """No branch, and no record of a dead coordinator."""
    bank.wait_settled()
    wait_until(lambda: bank.listed() == [], "nothing is listed")
    status = bank.command("status")
    wait_until(lambda: status()["transactions"]["dead_coordinators"] == 0, "no dead one is left")


def goes_on(bank: Bank) -> None:
    """All of it works again, with locks, and nothing is left."""
    relay = bank.installation.relay()
    work(bank, LOCKS)
    nothing_is_left(bank)
    bank.installation.finish(relay, at_least=bank.check())


def test_a_promoted_asynchronous_standby(
    stack: ExitStack, servers: Servers, tmp_path: Path
) -> None:
    primary = stack.enter_context(Postgres())
    bank = opened(stack, servers, tmp_path, primary)
    standby = stack.enter_context(Standby(primary))
    work(bank)
    standby.catch_up()
    standby.cut_off()
    transaction = die_decided(bank, "file")
    (lost,) = branches(bank.billing)
    primary.kill()
    standby.promote()
    move_billing(bank, standby)

    relay = bank.installation.relay()
    told = refused(bank, transaction)
    assert told["state"] == "committed" and not told["resolved"], told
    assert {left["participant"] for left in told["left"]} == {"billing"}, told
    assert lost in str(told), told
    wait_until(lambda: branches(bank.installation.postgres) == [], "the other one is committed")
    here, there = bank.entries()
    assert len(here) == len(there) + 1, "nothing is rolled back"

    mend_billing(bank)
    assert bank.command("transaction", "forget", "billing", "--yes")()["forgotten"]
    relay.stop()
    goes_on(bank)


def test_a_restored_base_backup(stack: ExitStack, servers: Servers, tmp_path: Path) -> None:
    primary = stack.enter_context(Postgres())
    bank = opened(stack, servers, tmp_path, primary)
    # What is not done by its deadline is settled by others, who keep what came of it: then nothing
    # is unknown.
    environment = {FAILPOINTS: "file_log.decide.after_commit=stop@3", DEADLINE: "300000"}
    worker = bank.worker("", environment)
    wait_until(lambda: is_stopped(worker.process.pid), "it stands at its third decision")
    # Others may have been rolled back before they were decided.
    transfer = f"{worker.name}-{len(worker.lines()) + 1}"
    backup = stack.enter_context(BaseBackup(primary))
    (again,) = branches(bank.billing)
    os.kill(worker.process.pid, signal.SIGCONT)
    log = tmp_path / "data" / "decisions.db"
    # What is still in the log would be committed by it, and what others settled is known there.
    wait_until(lambda: is_deleted(log, 2), "it goes on, and the third decision is not needed")
    worker.kill()
    relay = bank.installation.relay()
    nothing_is_left(bank)
    assert bank.check() >= TRANSFERS
    relay.stop()
    primary.kill()
    move_billing(bank, backup)

    relay = bank.installation.relay()
    told = refused(bank, ":".join(again.split(":")[3:5]))
    assert again in str(told), told
    relay.wait_for(UNKNOWN)
    assert branches(bank.billing) == [again], "nothing is rolled back"

    # The other database has it.
    by_hand(bank.billing, f"commit prepared '{again}'")
    assert transfer in bank.entries()[1]
    mend_billing(bank)
    relay.stop()
    goes_on(bank)


def is_deleted(log: Path, batch: int) -> bool:
    """Whether a decision is no longer in the file."""
    with closing(sqlite3.connect(log)) as connection:
        ((left,),) = connection.execute("select min(batch) from decision").fetchall()
    return left is not None and int(left) > batch


def on_own_zookeeper(stack: ExitStack, servers: Servers, folder: Path) -> tuple[ZooKeeper, Bank]:
    zookeeper = stack.enter_context(ZooKeeper())
    bank = Bank(replace(servers, zookeeper=zookeeper.address), folder, zookeeper=True)
    stack.callback(bank.close)
    return zookeeper, bank


def committed_in_one(bank: Bank) -> tuple[str, str]:
    """A decided transaction whose coordinator was able to commit one branch only; its id, and the
    name of the other branch."""
    # The second one's first lock notes how high the numbers of the first one were.
    for _ in range(2):
        work(bank, LOCKS, MANY)
    transaction = die_decided(bank, "zookeeper")
    (first,), (second,) = (branches(database) for database in bank.databases)
    by_hand(bank.installation.postgres, f"commit prepared '{first}'")
    return transaction, second


def locks_are_refused(bank: Bank) -> None:
    """Until somebody confirms, as numbers of locks would come again."""
    worker = bank.worker(LOCKS)
    said = worker.errors.read_text
    refusal = "older than numbers of locks that were handed out"
    wait_until(lambda: refusal in said(), "it is refused", explain=said)
    worker.finish()
    for database in bank.databases:
        by_hand(database, CONFIRM)


def test_zookeeper_restored_from_a_backup(
    stack: ExitStack, servers: Servers, tmp_path: Path
) -> None:
    zookeeper, bank = on_own_zookeeper(stack, servers, tmp_path)
    work(bank)
    zookeeper.stop()
    data, kept = zookeeper.folder / "data", tmp_path / "kept"
    shutil.copytree(data, kept)
    zookeeper.start()
    transaction, branch = committed_in_one(bank)
    zookeeper.stop()
    shutil.rmtree(data)
    shutil.copytree(kept, data)
    zookeeper.start()

    relay = bank.installation.relay()
    told = refused(bank, transaction)
    assert branch in str(told), told
    relay.wait_for(UNKNOWN)
    assert branches(bank.billing) == [branch], "nothing is rolled back"

    by_hand(bank.billing, f"commit prepared '{branch}'")
    relay.stop()
    locks_are_refused(bank)
    goes_on(bank)


def test_zookeeper_wiped(stack: ExitStack, servers: Servers, tmp_path: Path) -> None:
    zookeeper, bank = on_own_zookeeper(stack, servers, tmp_path)
    _, branch = committed_in_one(bank)
    zookeeper.stop()
    shutil.rmtree(zookeeper.folder / "data")
    zookeeper.start()

    init = ("init", "--topic", bank.installation.topic)
    done = bank.installation.command_line.reached(*init)
    assert done.returncode == REFUSED and branch in done.stderr, done
    assert branches(bank.billing) == [branch], "nothing is rolled back"

    by_hand(bank.billing, f"commit prepared '{branch}'")
    bank.installation.init()
    locks_are_refused(bank)
    goes_on(bank)
