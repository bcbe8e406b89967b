"""The faults: each is done to a worker that is armed with a step, and returns when it has hit.

What a fault did to the worker is over when it returns: it goes on, or is dead.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.e2e.waiting import RUN_LIMIT_S, wait_until

from . import steps
from .town import ZOOKEEPER

if TYPE_CHECKING:
    from .case import Case

KILL, STOP, ERROR = "kill", "stop", "error"
# How much others do while one is paused that has no session which could end.
TRANSFERS_MEANWHILE = 3


@dataclass(frozen=True)
class Fault:
    """What the step is armed with, and what is done then."""

    arms: str
    strike: Callable[[Case, random.Random], str]
    # Only behind a step there is an answer that can be lost.
    only_behind: bool = False


def kill(case: Case, _chance: random.Random) -> str:
    case.victim.ended(-signal.SIGKILL)
    return "it is dead"


def pause(case: Case, _chance: random.Random) -> str:
    """With ZooKeeper for longer than its session lasts."""
    with case.held():
        if case.step.log == steps.ZOOKEEPER:
            ended = case.town.expired()
            wait_until(lambda: case.town.expired() > ended, "its session is over")
            return "its session is over"
        had = len(case.bystander().lines())
        case.bystander().wait_working(had + TRANSFERS_MEANWHILE)
        return f"others were told of {TRANSFERS_MEANWHILE} transfers"


def restart_database(case: Case, chance: random.Random) -> str:
    name = chance.choice(case.town.restartable())
    with case.held():
        case.town.restart(name)
    return f"{name} has recovered"


def kill_leader(case: Case, _chance: random.Random) -> str:
    with case.held():
        start_again = case.town.kill_leader()
    start_again()
    return "another one leads"


def cut_network(case: Case, chance: random.Random) -> str:
    """Until the worker has noticed."""
    # What it does not talk to it does not miss.
    servers = [*case.town.databases, *([ZOOKEEPER] if case.step.log == steps.ZOOKEEPER else [])]
    name = chance.choice(servers)
    try:
        with case.held():
            hits = case.town.cut(name)
            ended = hits()
        wait_until(lambda: hits() > ended, f"it tries {name} again", RUN_LIMIT_S, case.said)
    finally:
        case.town.mend(name)
    return f"{hits()} connections to {name} were ended or turned away"


def lose_answer(case: Case, _chance: random.Random) -> str:
    case.wait_hit()
    return "what went through was told as failed"


FAULTS: Mapping[str, Fault] = {
    "killed": Fault(KILL, kill),
    "paused": Fault(STOP, pause),
    "database-restarted": Fault(STOP, restart_database),
    "zookeeper-leader-killed": Fault(STOP, kill_leader),
    "network-cut": Fault(STOP, cut_network),
    "answer-lost": Fault(ERROR, lose_answer, only_behind=True),
}


def go_on(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def fits(fault: Fault, step: steps.Step) -> bool:
    """Whether a step can meet it: a log in a file knows no leader."""
    has_leader = fault.strike is not kill_leader or step.log == steps.ZOOKEEPER
    return has_leader and (step.is_behind or not fault.only_behind)
