"""Money moves between two databases, and Kafka hears of it, while whoever moves it is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from .bank_worker import ACCOUNTS, DIES_BESIDE_CHILD, DIES_PREPARED, SCHEMA
from .installation import PostgresInstallation, Servers
from .postgres_outbox import PostgresOutbox
from .waiting import LIMIT_S, wait_until

WORKERS = 3
KILLS = 15
DEADLINE_MS = 5000
PREPARED = "select count(*) from pg_prepared_xacts where database = current_database()"


class Bank:
    """Two databases, and workers that move money between them."""

    def __init__(
        self, servers: Servers, folder: Path, *, zookeeper: bool, billing: str | None = None
    ) -> None:
        self.installation = PostgresInstallation(servers, folder, zookeeper=zookeeper)
        billing = billing or servers.postgres
        self.billing = PostgresOutbox(billing, f"{self.installation.name}_billing")
        self.config = self.installation.configure(
            other={
                "participants.billing": {"url": self.billing.url},
                # Who waits for a lock of a process that stands still goes on soon.
                "coordinator": {"deadline_ms": DEADLINE_MS},
            }
        )
        self.installation.init()
        for database in self.databases:
            database.execute(SCHEMA)
        self.folder = folder
        self.names = iter(range(10_000))
        self.told: list[str] = []
        self.started: list[Worker] = []

    @property
    def databases(self) -> list[PostgresOutbox]:
        return [self.installation.postgres, self.billing]

    def worker(self, end: str = "", environment: Mapping[str, str] | None = None) -> Worker:
        """Starts one more."""
        worker = Worker(self, f"w{next(self.names)}", end, environment or {})
        self.started.append(worker)
        return worker

    def prepared(self) -> int:
        """How many branches wait for their end."""
        return sum(int(self.ask(database, PREPARED)[0][0]) for database in self.databases)

    def wait_settled(self) -> None:
        """Waits until none does."""
        wait_until(lambda: self.prepared() == 0, "every branch is settled")

    def command(self, *words: str) -> Callable[[], Any]:
        """What a command says with `--json`."""
        command_line = self.installation.command_line
        return lambda: json.loads(command_line.succeed("--json", *words))

    def listed(self) -> Any:
        """What `onecommit transaction list` says."""
        return self.command("transaction", "list")()["transactions"]

    def entries(self) -> list[dict[str, int]]:
        """The transfers that each database knows, with their amounts."""
        query = "select transfer, amount from entry"
        return [dict(self.ask(one, query)) for one in self.databases]

    def check(self) -> int:
        """Both databases have the same transfers, and what was told is true; returns how many."""
        here, there = self.entries()
        assert here == {transfer: -amount for transfer, amount in there.items()}
        query = "select sum(total) from balance"
        totals = [int(self.ask(database, query)[0][0]) for database in self.databases]
        assert totals == [
            1000 * ACCOUNTS + sum(here.values()),
            1000 * ACCOUNTS + sum(there.values()),
        ]
        assert sum(totals) == 2 * 1000 * ACCOUNTS
        for line in self.told:
            outcome, transfer = line.rsplit(" ", 1)
            if outcome.startswith("in doubt"):
                outcome = self.outcome_of(outcome.split()[-1])
            assert (outcome == "committed") == (transfer in here), line
        return len(here)

    def outcome_of(self, transaction: str) -> str:
        """How a transaction ended of which that was not known."""
        show = self.command("transaction", "show", transaction)
        ends = {"committed", "rolled back"}
        return wait_until(
            lambda: found if (found := str(show()["state"])) in ends else "",
            f"the end of {transaction}",
            explain=lambda: str(show()),
        )

    @staticmethod
    def ask(database: PostgresOutbox, query: str) -> list[Any]:
        with database.connect() as connection:
            return connection.execute(query.encode()).fetchall()

    def close(self) -> None:
        """Ends what a failed test left, and removes everything."""
        for worker in self.started:
            worker.process.kill()
            worker.process.wait(LIMIT_S)
        self.installation.close()
        self.billing.drop()


class Worker:
    """One process that moves money."""

    def __init__(self, bank: Bank, name: str, end: str, environment: Mapping[str, str]) -> None:
        self.bank = bank
        urls = [database.url for database in bank.databases]
        words = [str(bank.config), *urls, bank.installation.topic, name, end]
        self.output = bank.folder / f"{name}.out"
        self.errors = self.output.with_suffix(".err")
        with self.output.open("w") as output, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.bank_worker", *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                cwd=Path(__file__).resolve().parents[2],
                env={**os.environ, **environment},
            )

    def lines(self) -> list[str]:
        """What it was told so far; a line that was cut off is none."""
        return [line for line in self.output.read_text().split("\n")[:-1] if line]

    def committed(self) -> int:
        """How many transfers it was told to be committed."""
        return sum(line.startswith("committed ") for line in self.lines())

    def has_committed(self, transfers: int) -> bool:
        """Whether it was told so of that many."""
        return self.committed() >= transfers

    def others(self) -> int:
        """How many it was not."""
        return len(self.lines()) - self.committed()

    def wait_working(self, transfers: int) -> None:
        """Waits until it has made so many transfers."""
        wait_until(
            lambda: len(self.lines()) >= transfers,
            f"{transfers} transfers",
            explain=lambda: self.errors.read_text()[-2000:],
        )

    def kill(self) -> None:
        """Kills it, wherever it is."""
        assert self.process.poll() is None, self.errors.read_text()
        self.process.kill()
        self.ended(-signal.SIGKILL)

    def finish(self) -> None:
        """Has it end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.ended(0)

    def ended(self, code: int) -> None:
        """Waits until it has ended, with this code."""
        found = self.process.wait(LIMIT_S)
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert found == code, self.errors.read_text()
        self.bank.told += self.lines()


@pytest.fixture(params=["file", "zookeeper"])
def bank(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Iterator[Bank]:
    made = Bank(servers, tmp_path, zookeeper=request.param == "zookeeper")
    yield made
    made.close()


def test_what_a_dead_process_left_prepared_is_settled_by_a_relay(bank: Bank) -> None:
    bank.worker(DIES_PREPARED).ended(-signal.SIGKILL)
    assert bank.prepared() == 2
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
    assert bank.prepared() == 2
    bank.installation.relay()
    bank.wait_settled()
    child = int(worker.errors.read_text())
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
