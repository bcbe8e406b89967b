"""One case: a worker meets a step, and there a fault; then all has to settle, and be right."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from tests.e2e.bank import Bank, Way, Worker
from tests.e2e.bank_worker import DIES_PREPARED, LOCKS
from tests.e2e.command_line import FAILPOINTS, FAILPOINTS_LOG, RelayProcess
from tests.e2e.installation import Table
from tests.e2e.waiting import LIMIT_S, RUN_LIMIT_S, wait_until

from . import steps
from .faults import FAULTS, go_on, is_stopped
from .steps import Step
from .town import BILLING, MAIN, ZOOKEEPER, Town

SESSION_MS = 2000
GIDS = "select gid from pg_prepared_xacts where database = current_database()"


class Case:
    """A step and a fault, in a bank of the step's own."""

    def __init__(self, town: Town, bank: Bank, step: Step, fault: str) -> None:
        self.town, self.bank, self.step, self.fault = town, bank, step, fault
        self._relay: RelayProcess | None = None
        self._bystander: Worker | None = None
        self._decided: list[str] = []
        self.victim: Worker

    def __str__(self) -> str:
        return f"{self.step}, {self.fault}"

    def play(self, chance: random.Random) -> str:
        """Plays it; what the fault did."""
        self._leave_work()
        if self.step.way is steps.Way.WORK:
            self._start_others()
        self.victim = self._armed()
        struck = FAULTS[self.fault].strike(self, chance)
        self.wait_hit()
        self._start_others()
        self._settle()
        return struck

    def meet(self, chance: random.Random) -> str:
        """The fault alone, while others work; the worker ends behind it."""
        self.victim = self._armed()
        struck = FAULTS[self.fault].strike(self, chance)
        if self.victim.process.poll() is None:
            self.victim.finish()
        return struck

    def _leave_work(self) -> None:
        """What the armed worker will find, and nobody else."""
        if self.step.way is steps.Way.WORK:
            return
        undecided = self.bank.worker(DIES_PREPARED)
        undecided.ended(-signal.SIGKILL)
        if self.step.way is steps.Way.ORPHAN:
            self._leave_orphan()
            return
        decided = f"{self.step.log}_log.decide.after_commit=kill"
        worker = self.bank.worker(LOCKS, {FAILPOINTS: decided})
        worker.ended(-signal.SIGKILL)
        self._decided.append(f"{worker.name}-{len(worker.lines()) + 1}")

    def _leave_orphan(self) -> None:
        """Once the dead one is settled, a request of it arrives that was long on its way."""
        url = self.bank.billing.url
        with psycopg.connect(url) as connection:
            ((name,),) = connection.execute(GIDS).fetchall()
        relay = self.bank.installation.relay()
        self.bank.wait_settled()
        wait_until(lambda: not self.bank.listed(), "the dead one is settled")
        relay.stop()
        with psycopg.connect(url) as connection:
            connection.execute("update balance set total = total + 1 where account = 1")
            connection.execute(f"prepare transaction '{name}'".encode())

    def _armed(self) -> Worker:
        action = FAULTS[self.fault].arms
        self._hits = self.bank.folder / f"{self.step.name}-{self.fault}-{self.step.log}.hits"
        self._hits.unlink(missing_ok=True)
        environment = {
            FAILPOINTS: f"{self.step.name}={action}@{self.step.hit}",
            FAILPOINTS_LOG: str(self._hits),
        }
        return self.bank.worker(LOCKS, environment, self._through_proxies())

    def _through_proxies(self) -> Way:
        """It alone reaches all servers through proxies, so that it alone can be cut off."""
        proxies, bank = self.town.proxies, self.bank
        named = zip([MAIN, BILLING], bank.databases, strict=True)
        urls = [f"postgresql://postgres@{proxies.addresses(n)}/{one.name}" for n, one in named]
        shards = bank.installation.outbox.shards
        tables: dict[str, Table] = {
            **bank.tables,
            "participants.main": {"url": urls[0], "outbox": True, "shards": shards},
            "participants.billing": {"url": urls[1]},
        }
        if self.step.log == steps.ZOOKEEPER:
            servers = proxies.addresses(ZOOKEEPER)
            tables["zookeeper"] = {"servers": servers, "session_timeout_ms": SESSION_MS}
        return Way(bank.installation.configure("behind-proxies.toml", tables), urls)

    def wait_hit(self) -> None:
        """The proof that the step was met."""

        def has_hit() -> bool:
            return self._hits.exists() and f"{self.step.name} hit" in self._hits.read_text()

        wait_until(has_hit, f"{self.step} is met", LIMIT_S, self.said)

    @contextmanager
    def held(self) -> Iterator[None]:
        """While the worker stands at its step."""
        self.wait_hit()
        pid = self.victim.process.pid
        wait_until(lambda: is_stopped(pid), "it stands there")
        try:
            yield
            assert is_stopped(pid), "something else has set it going"
        finally:
            go_on(pid)

    def bystander(self) -> Worker:
        """Another worker, which no fault is done to."""
        if self._bystander is None:
            self._bystander = self.bank.worker(LOCKS)
        return self._bystander

    def said(self) -> str:
        """What the workers say went wrong, and what is prepared."""
        errors = [worker.errors.read_text()[-1500:] for worker in self.bank.started[-2:]]
        with suppress(AssertionError):
            errors.append(str(self.bank.listed()))
        return "\n".join(errors)

    def _start_others(self) -> None:
        if self._relay is None:
            self._relay = self.bank.installation.relay()
        self.bystander()

    def _settle(self) -> None:
        """Whoever lives goes on, and gets the lock; then everything is judged."""
        working = [self.bystander()]
        if self.victim.process.poll() is None:
            working.append(self.victim)
        since = [len(worker.lines()) for worker in working]
        for worker, had in zip(working, since, strict=True):

            def has_locked(worker: Worker = worker, had: int = had) -> bool:
                assert worker.process.poll() is None, f"{worker.name} has ended\n{self.said()}"
                return worker.has_locked(had)

            wait_until(has_locked, "it gets the lock, and commits", RUN_LIMIT_S, self.said)
        for worker in working:
            worker.finish()
        self.bank.wait_settled()
        self.bank.check()
        here, _ = self.bank.entries()
        lost = [transfer for transfer in self._decided if transfer not in here]
        assert not lost, f"decided, and not there: {lost}"
        assert self._relay is not None and self._relay.running, "the relay has ended"
        self._relay.stop()
