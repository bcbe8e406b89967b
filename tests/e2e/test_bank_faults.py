"""The bank while its servers die under it: a database is crashed, ZooKeeper is paused for longer
than its sessions last, and so are the workers, between kills of them. What each was told has to be
true, also of what was in doubt.

A paused process is not dead where the decision log is a file: what it holds stays prepared until it
goes on. With ZooKeeper its session ends, and the relay settles what it left meanwhile.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from .bank import Bank, Worker
from .command_line import is_stopped
from .conftest import OwnServers
from .installation import Servers
from .waiting import RUN_LIMIT_S, wait_until

ROUNDS = 2
WORKERS = 3
EXPIRED = "Expiring session"
DECISIONS = "decisions.db"
LOCKED_S = 1.0


class Siege:
    """A bank at work, and what happens to it."""

    def __init__(self, bank: Bank, servers: OwnServers, chance: random.Random) -> None:
        self.bank = bank
        self.servers = servers
        self.chance = chance
        self.workers = [bank.worker() for _ in range(WORKERS)]

    def crash_database(self) -> None:
        """`pg_ctl stop -m immediate`, under a transaction at least."""
        others = self.others()
        self.servers.postgres.restart("immediate")
        wait_until(lambda: self.others() > others, "a transaction was hit", explain=self.errors)

    def pause_zookeeper(self) -> None:
        """For longer than sessions last: no coordinator may decide any more."""
        ended, others = self.expired(), [worker.others() for worker in self.workers]
        self.servers.zookeeper.pause()
        try:
            wait_until(
                lambda: all(
                    one.others() > had for one, had in zip(self.workers, others, strict=True)
                ),
                "every worker noticed",
                explain=self.errors,
            )
        finally:
            self.servers.zookeeper.resume()
        wait_until(lambda: self.expired() >= ended + WORKERS, "their sessions are over")

    def pause_worker(self) -> None:
        """With ZooKeeper for longer than its session lasts."""
        worker, ended = self.chance.choice(self.workers), self.expired()
        try:
            self.hold(worker)
            if self.bank.installation.zookeeper:
                wait_until(lambda: self.expired() > ended, "its session is over")
            else:
                self.wait_working([other for other in self.workers if other is not worker])
        finally:
            os.kill(worker.process.pid, signal.SIGCONT)

    def hold(self, worker: Worker) -> None:
        """SIGSTOP, taken back and tried again where it hit one that has the lock of a decision log
        in a file: no other could decide."""
        pid, log = worker.process.pid, self.bank.folder / "data" / DECISIONS

        def is_held() -> bool:
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: is_stopped(pid), "it stands still", explain=self.errors)
            if self.bank.installation.zookeeper or not is_locked(log):
                return True
            os.kill(pid, signal.SIGCONT)
            return False

        wait_until(is_held, "it is held without a lock", explain=self.errors)

    def kill_worker(self) -> None:
        """And start another one."""
        victim = self.chance.choice(self.workers)
        victim.kill()
        self.workers.remove(victim)
        self.workers.append(self.bank.worker())

    def wait_working(self, workers: list[Worker]) -> None:
        """Waits until each has made transfers since."""
        for worker in workers:
            worker.wait_working(len(worker.lines()) + self.chance.randint(1, 10))
            had = worker.committed()
            # It may wait again and again for the locks of one that waits itself.
            wait_until(partial(worker.has_committed, had + 1), "it works", RUN_LIMIT_S, self.errors)

    def others(self) -> int:
        """How many transfers were not told to be committed."""
        return sum(worker.others() for worker in self.workers)

    def expired(self) -> int:
        """How many sessions ZooKeeper has ended."""
        if not self.bank.installation.zookeeper:
            return 0
        return self.servers.zookeeper.log.read_text(errors="replace").count(EXPIRED)

    def errors(self) -> str:
        """What the workers say went wrong, and what is prepared."""
        said = (worker.errors.read_text()[-1500:] for worker in self.workers)
        return "\n".join([*said, str(self.bank.listed())])


def is_locked(log: Path) -> bool:
    """Whether somebody writes there, and for longer than it takes."""
    with closing(sqlite3.connect(log, timeout=LOCKED_S, isolation_level=None)) as connection:
        try:
            connection.execute("begin immediate")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            return True
        connection.execute("rollback")
    return False


@pytest.fixture(params=["file", "zookeeper"])
def bank(
    request: pytest.FixtureRequest, servers: Servers, own_servers: OwnServers, tmp_path: Path
) -> Iterator[Bank]:
    with_zookeeper = request.param == "zookeeper"
    if with_zookeeper:
        servers = replace(servers, zookeeper=own_servers.zookeeper.address)
    made = Bank(servers, tmp_path, zookeeper=with_zookeeper, billing=own_servers.postgres.dsn)
    yield made
    made.close()


def test_money_and_words_are_right_while_servers_die(bank: Bank, own_servers: OwnServers) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    relay = bank.installation.relay()
    siege = Siege(bank, own_servers, random.Random(seed))
    faults: list[Callable[[], None]] = [
        siege.crash_database,
        siege.pause_worker,
        siege.kill_worker,
    ]
    if bank.installation.zookeeper:
        faults.append(siege.pause_zookeeper)
    faults *= ROUNDS
    siege.chance.shuffle(faults)
    for fault in faults:
        siege.wait_working(siege.workers)
        print(fault.__name__)
        fault()
    siege.wait_working(siege.workers)
    for worker in siege.workers:
        worker.finish()
    bank.wait_settled()
    bank.installation.finish(relay, at_least=bank.check())
