"""Faults at named steps of a transaction, as `make chaos` has them at every step: those that the
crash tests in Rust, which meet every step with a kill and with a lost answer, do not have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.chaos import steps
from tests.chaos.faults import FAULTS, fits
from tests.chaos.play import play_step
from tests.chaos.steps import Step
from tests.chaos.town import BILLING, MAIN, Database, Town
from tests.servers import Ensemble

from .conftest import OwnServers
from .installation import Servers
from .random_run.journal import Journal

SEED = 1
OTHERS = ["paused", "database-restarted", "zookeeper-leader-killed", "network-cut"]
MET = [
    Step("participant.mark.after_commit", steps.ZOOKEEPER),
    Step("zookeeper_log.decide.before_commit", steps.ZOOKEEPER),
    Step("zookeeper_lock.enter.after_commit", steps.ZOOKEEPER),
    Step("zookeeper_log.take_over.after_commit", steps.ZOOKEEPER),
]


@pytest.fixture(scope="module")
def town(servers: Servers, own_servers: OwnServers) -> Iterator[Town]:
    """Of its own are ZooKeeper, and the server of one database."""
    shared, own = urlsplit(servers.postgres), own_servers.postgres
    assert shared.port is not None
    with ExitStack() as stack:
        databases = {
            MAIN: Database(servers.postgres, shared.port),
            BILLING: Database(own.dsn, own.port, lambda: own.restart("immediate")),
        }
        yield Town(stack, databases, stack.enter_context(Ensemble()), servers.kafka)


@pytest.mark.parametrize("step", MET, ids=lambda step: step.name)
def test_all_is_right_whatever_happens_at(step: Step, town: Town, tmp_path: Path) -> None:
    journal = Journal()
    play_step(town, step, OTHERS, SEED, tmp_path, journal)
    assert all(journal.happened[fault] == 1 for fault in OTHERS)


def test_every_fault_is_known_and_met_in_a_test() -> None:
    """Those that are not here are met at every step by the crash tests in Rust."""
    assert {"killed", "answer-lost", *OTHERS} == set(FAULTS)
    assert all(fits(FAULTS[fault], step) for step in MET for fault in OTHERS)


def test_the_steps_are_found_in_the_sources() -> None:
    found = steps.all_steps()
    assert set(MET) <= set(found) and len(found) >= 80
    known = [word for step in found for word in (step.whole, step.whole.split(".")[1])]
    assert set(steps.WAYS) <= set(known), "a step that there is no more"
    assert set(steps.FAILS_BEFORE) | steps.IS_OF_MANY <= set(known)
