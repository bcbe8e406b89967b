"""The bank under all faults at once, at random: one lane for the servers, and one for the workers.

All chances come from one seed: the deeds of each lane are the same again by it, in kind and order.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from tests.e2e.bank import Bank, Worker
from tests.e2e.bank_worker import LOCKS
from tests.e2e.random_run.journal import Journal
from tests.e2e.random_run.lanes import Deeds, on_servers, work
from tests.e2e.waiting import RUN_LIMIT_S, wait_until

from . import steps
from .case import Case
from .faults import FAULTS, fits
from .servers import WholeSet
from .town import BILLING

WORKERS = 3
# The other faults are the servers' lane's.
OF_WORKERS = ["killed", "paused", "network-cut", "answer-lost"]


def play_at_random(
    servers: WholeSet, seed: int, seconds: float, folder: Path, journal: Journal
) -> None:
    """Harm for so many seconds, and until each deed was done; then the verdict."""
    place = folder / "at-random"
    place.mkdir()
    town, chance = servers.town, random.Random(seed)
    bank = Bank(town.servers, place, zookeeper=True, billing=town.databases[BILLING].dsn)
    try:
        relays = [bank.installation.relay() for _ in range(2)]
        workers = [bank.worker(LOCKS) for _ in range(WORKERS)]
        for worker in workers:
            worker.wait_working(1)
        lanes = [deeds_on_servers(servers), deeds_on_workers(servers, bank, journal)]
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(len(lanes)) as pool:
            working = [
                pool.submit(work, lane, random.Random(chance.getrandbits(32)), end, journal)
                for lane in lanes
            ]
            wait(working, return_when=FIRST_EXCEPTION)
        for one in working:
            one.result()
        judge(bank, workers, journal)
        bank.installation.finish(*relays, at_least=len(workers))
    finally:
        bank.close()


def deeds_on_servers(servers: WholeSet) -> Deeds:
    """Of both databases, Kafka and ZooKeeper."""
    made = {}
    for database, pair in servers.pairs.items():
        for name, deed in on_servers(pair, servers.kafka, servers.zookeeper).items():
            made[f"{database}: {name}" if "PostgreSQL" in name else name] = deed
    return made


def deeds_on_workers(servers: WholeSet, bank: Bank, journal: Journal) -> Deeds:
    """Each by one more worker, at some step; those that it takes once may be over before a fault of
    the other lane is."""
    met = [step for step in steps.all_steps() if step.is_of_many and step.log == steps.ZOOKEEPER]

    def meet(fault: str, chance: random.Random) -> None:
        step = chance.choice([step for step in met if fits(FAULTS[fault], step)])
        case = Case(servers.town, bank, step, fault)
        journal.note(f"{case}: {case.meet(chance)}")

    return {f"worker {fault}": partial(meet, fault) for fault in OF_WORKERS}


def judge(bank: Bank, workers: Sequence[Worker], journal: Journal) -> None:
    """Whoever is left goes on, and gets the lock; then both databases agree."""
    for worker in workers:
        assert worker.process.poll() is None, worker.errors.read_text()[-2000:]
        has_locked = partial(worker.has_locked, len(worker.lines()))
        wait_until(has_locked, f"{worker.name} gets the lock, and commits", RUN_LIMIT_S)
    for worker in workers:
        worker.finish()
    bank.wait_settled()
    told = len(bank.told)
    journal.note(f"{bank.check()} transfers are there, of {told} that somebody was told of")
