"""Money moves between two databases, and Kafka hears of it, while whoever moves it is killed."""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from .bank import Bank
from .bank_worker import ACCOUNTS, CHILD, DIES_BESIDE_CHILD, DIES_PREPARED
from .installation import Servers
from .waiting import LIMIT_S, wait_until

WORKERS = 3
KILLS = 15


@pytest.fixture(params=["file", "zookeeper"])
def bank(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Iterator[Bank]:
    made = Bank(servers, tmp_path, zookeeper=request.param == "zookeeper")
    yield made
    made.close()


def test_what_a_dead_process_left_prepared_is_settled_by_a_relay(bank: Bank) -> None:
    bank.worker(DIES_PREPARED).ended(-signal.SIGKILL)
    bank.wait_prepared()
    (seen,) = bank.listed()
    assert {branch["participant"] for branch in seen["prepared"]} == {"main", "billing"}
    assert seen["state"] in {"unsettled", "under way"}, "ZooKeeper has to notice the death first"
    relay = bank.installation.relay()
    bank.wait_settled()
    assert bank.listed() == []
    shown = bank.command("transaction", "show", seen["transaction"])
    wait_until(lambda: shown()["state"] == "rolled back", "its end is told")
    assert bank.check() == 0
    worker = bank.worker()
    worker.wait_working(3)
    worker.finish()
    assert bank.check() >= 3
    bank.installation.finish(relay, at_least=3)


def test_what_a_dead_process_left_is_settled_while_its_forked_child_lives(bank: Bank) -> None:
    worker = bank.worker(DIES_BESIDE_CHILD)
    assert worker.process.wait(LIMIT_S) == -signal.SIGKILL
    bank.wait_prepared()
    bank.installation.relay()
    bank.wait_settled()
    told = re.compile(f"^{CHILD}(\\d+)$", re.MULTILINE)
    found = wait_until(lambda: told.search(worker.errors.read_text()), "it says which it is")
    child = int(found[1])
    assert runs(child), "it has all of its parent's files open"
    worker.ended(-signal.SIGKILL)
    wait_until(lambda: not runs(child), "it has ended")


def runs(pid: int) -> bool:
    """Whether a process goes on. One that has ended may wait for its parent to take notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_no_money_is_lost_and_no_word_is_wrong_while_workers_are_killed(bank: Bank) -> None:
    relay = bank.installation.relay()
    workers = [bank.worker() for _ in range(WORKERS)]
    for _ in range(KILLS):
        victim = random.choice(workers)
        victim.wait_working(random.randint(1, 10))
        victim.kill()
        workers.remove(victim)
        workers.append(bank.worker())
    for worker in workers:
        worker.wait_working(3)
        worker.finish()
    bank.wait_settled()
    transfers = bank.check()
    assert transfers >= KILLS
    bank.installation.finish(relay, at_least=transfers)


def test_the_checker_notices_what_is_torn_or_told_wrong(bank: Bank) -> None:
    worker = bank.worker()
    worker.wait_working(3)
    worker.finish()
    transfers = bank.check()
    one = "where transfer = (select min(transfer) from entry)"
    wrong = [
        (1, f"delete from entry {one}"),
        (0, f"update entry set amount = amount - 1 {one}"),
        (0, "update balance set total = total + 1 where account = 1"),
    ]
    for place, change in wrong:
        database = bank.databases[place]
        with psycopg.connect(database.url) as connection:
            connection.execute(change.encode())
            connection.commit()
        with pytest.raises(AssertionError):
            bank.check()
        with psycopg.connect(database.url) as connection:
            restore(connection, bank, place)
    assert bank.check() == transfers
    bank.told.append("committed nobody-1")
    with pytest.raises(AssertionError):
        bank.check()


def restore(connection: psycopg.Connection[Any], bank: Bank, place: int) -> None:
    """Makes a database agree with the other one again."""
    other = bank.entries()[1 - place]
    connection.execute("delete from entry")
    for transfer, amount in other.items():
        connection.execute("insert into entry values (%s, %s)", [transfer, -amount])
    total = 1000 * ACCOUNTS - sum(other.values())
    connection.execute("update balance set total = 0")
    connection.execute("update balance set total = %s where account = 1", [total])
