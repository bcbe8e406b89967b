"""A bank: two databases, workers that move money between them and announce it, and its judge.

Promises that what a judge finds agrees with what each worker was told, whatever happened to it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bank_worker import ACCOUNTS, LOCK_EVERY, SCHEMA
from .installation import PostgresInstallation, Servers, Table
from .postgres_outbox import PostgresOutbox
from .waiting import LIMIT_S, wait_until

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
        self.tables: dict[str, Table] = {
            "participants.billing": {"url": self.billing.url},
            # Who waits for a lock of a process that stands still goes on soon.
            "coordinator": {"deadline_ms": DEADLINE_MS},
        }
        self.config = self.installation.configure(other=self.tables)
        self.installation.init()
        for database in self.databases:
            database.execute(SCHEMA)
        self.folder = folder
        self.names = iter(range(10_000))
        self.told: list[str] = []
        self.outcomes: dict[str, str] = {}
        self.started: list[Worker] = []

    @property
    def databases(self) -> list[PostgresOutbox]:
        return [self.installation.postgres, self.billing]

    def way(self) -> Way:
        """How a worker reaches everything."""
        return Way(self.config, [database.url for database in self.databases])

    def worker(
        self,
        end: str = "",
        environment: Mapping[str, str] | None = None,
        way: Way | None = None,
    ) -> Worker:
        """Starts one more."""
        name = f"w{next(self.names)}"
        worker = Worker(self, name, end, environment or {}, way or self.way())
        self.started.append(worker)
        return worker

    def prepared(self) -> int:
        """How many branches wait for their end."""
        return sum(int(self.ask(database, PREPARED)[0][0]) for database in self.databases)

    def wait_prepared(self) -> None:
        """Waits until both branches are: a PREPARE may be under way when its sender is killed."""
        wait_until(lambda: self.prepared() == 2, "both are prepared")

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
        """How a transaction ended of which that was not known. That never changes."""
        if transaction in self.outcomes:
            return self.outcomes[transaction]
        show = self.command("transaction", "show", transaction)
        ends = {"committed", "rolled back"}
        self.outcomes[transaction] = wait_until(
            lambda: found if (found := str(show()["state"])) in ends else "",
            f"the end of {transaction}",
            explain=lambda: str(show()),
        )
        return self.outcomes[transaction]

    @staticmethod
    def ask(database: PostgresOutbox, query: str) -> list[Any]:
        with database.connect() as connection:
            return connection.execute(query.encode()).fetchall()

    def close(self) -> None:
        """Ends what a failed test left, and removes everything."""
        self.end_workers()
        self.installation.close()
        self.billing.drop()

    def end_workers(self) -> None:
        """Kills those that are there still."""
        for worker in self.started:
            worker.process.kill()
            worker.process.wait(LIMIT_S)


@dataclass(frozen=True)
class Way:
    """A configuration, and the urls of both databases; there may be proxies in between."""

    config: Path
    urls: Sequence[str]


class Worker:
    """One process that moves money."""

    def __init__(
        self, bank: Bank, name: str, end: str, environment: Mapping[str, str], way: Way
    ) -> None:
        self.bank = bank
        self.name = name
        words = [str(way.config), *way.urls, bank.installation.topic, name, end]
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

    def has_locked(self, since: int) -> bool:
        """Whether one was committed, among those it was told of since, that had a lock."""
        told = [line.rsplit("-", 1) for line in self.lines()[since:]]
        return any(
            outcome.startswith("committed ") and int(number) % LOCK_EVERY == 1
            for outcome, number in told
        )

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
