"""One case: a worker meets a step, and there a fault; then all has to settle, and be right."""

from __future__ import annotations

import random
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from urllib.parse import quote

import psycopg

from tests.e2e.bank import Bank, Way, Worker
from tests.e2e.bank_worker import DIES_PREPARED, LOCK, LOCKS, STOPS_PREPARED
from tests.e2e.command_line import FAILPOINTS, FAILPOINTS_LOG, RelayProcess, is_stopped
from tests.e2e.installation import Table
from tests.e2e.waiting import LIMIT_S, RUN_LIMIT_S, wait_until
from tests.servers.zookeeper_wire import create

from . import steps
from .faults import FAULTS, go_on
from .steps import Step
from .town import BILLING, MAIN, ZOOKEEPER, Town

SESSION_MS = 2000
LEAVE_TRIES = 10
OUTCOMES_MAX = "ONECOMMIT_COORDINATOR__OUTCOMES_MAX"
ENTRY = b'\x01{"host":"gone","pid":1}'
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
        match self.step.way:
            case steps.Way.RECOVER:
                self._leave_undecided_and_decided()
            case steps.Way.ORPHAN:
                self._leave_orphan(self._leave_outcome())
            case steps.Way.FORGET:
                for _ in range(2):
                    self._leave_outcome()
            case steps.Way.FIND:
                self._leave_nobodys()

    def _leave_undecided_and_decided(self) -> None:
        decided = f"{self.step.log}_log.decide.after_commit=stop"
        for _ in range(LEAVE_TRIES):
            # They die together: the second one would settle what the first one has left.
            dying = [
                self.bank.worker(STOPS_PREPARED),
                self.bank.worker(LOCKS, {FAILPOINTS: decided}),
            ]
            for worker in dying:
                stopped = partial(is_stopped, worker.process.pid)
                wait_until(stopped, "it stands there", LIMIT_S, self.said)
            # On a busy machine it did: the session of the first was over before the second stood.
            is_left = any(one["state"] != "committed" for one in self.bank.listed())
            for worker in dying:
                worker.kill()
            self._decided.append(f"{dying[1].name}-{len(dying[1].lines()) + 1}")
            if is_left:
                return
        raise AssertionError(f"nothing undecided was left, {LEAVE_TRIES} times")

    def _leave_outcome(self) -> str:
        """Of a dead worker, whose branches were rolled back; the name of one."""
        self.bank.worker(DIES_PREPARED).ended(-signal.SIGKILL)
        with psycopg.connect(self.bank.billing.url) as connection:
            ((name,),) = connection.execute(GIDS).fetchall()
        relay = self.bank.installation.relay()
        self.bank.wait_settled()
        wait_until(lambda: not self.bank.listed(), "the dead one is settled")
        relay.stop()
        return str(name)

    def _leave_orphan(self, name: str) -> None:
        """A request of a settled one arrives that was long on its way."""
        with psycopg.connect(self.bank.billing.url) as connection:
            connection.execute("update balance set total = total + 1 where account = 1")
            connection.execute(f"prepare transaction '{name}'".encode())

    def _leave_nobodys(self) -> None:
        """Decisions, and a place in the lock's queue, of a coordinator that has no record."""
        worker = self.bank.worker(LOCKS)
        has_locked = partial(worker.has_locked, 0)
        wait_until(has_locked, "the folders are there", RUN_LIMIT_S, self.said)
        worker.finish()
        coordinator, root = uuid.uuid4(), f"/onecommit/{self.bank.installation.name}"
        queue = f"{root}/locks/{quote(LOCK, safe='')}"
        port = self.town.zookeeper.members[0].port
        create(port, f"{root}/decisions/{coordinator}")
        create(port, queue)
        create(port, f"{queue}/t:{coordinator}:1", ENTRY)

    def _armed(self) -> Worker:
        action = FAULTS[self.fault].arms
        self._hits = self.bank.folder / f"{self.step.name}-{self.fault}-{self.step.log}.hits"
        self._hits.unlink(missing_ok=True)
        environment = {
            FAILPOINTS: self.step.armed(action),
            FAILPOINTS_LOG: str(self._hits),
        }
        if self.step.way is steps.Way.FORGET:
            environment[OUTCOMES_MAX] = "1"
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
