"""A relay's wall clock that jumps an hour either way: leases and limits go by clocks that only
count on, so nothing is lost, doubled or reordered, and it goes on.

librdkafka's waits ended by the wall clock: set back while one was under way, a shard stood still
for an hour. So a relay at work is met, where waits are under way at any time, an idle one, and one
whose Kafka is away.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.servers import Kafka

from .bank import Bank
from .bank_worker import DIES_PREPARED
from .conftest import MakeInstallation, OwnServers
from .installation import Installation, Servers, embedded
from .jumping_clock import JumpingClock, compiled
from .waiting import wait_until

HOUR_S = 3600
MESSAGES = 60
TRANSFERS = 10
# From an hour ahead: each is one step of an hour.
JUMPS = [0, -HOUR_S, 0]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("clock"))


@pytest.fixture
def clock(library: Path, tmp_path: Path) -> JumpingClock:
    return JumpingClock(library, tmp_path / "clock")


@pytest.mark.parametrize("stores", ["postgres", "zookeeper", "embedded"])
def test_a_relay_at_work_goes_on(
    stores: str, clock: JumpingClock, make_installation: MakeInstallation, tmp_path: Path
) -> None:
    made: Installation = (
        embedded(tmp_path)
        if stores == "embedded"
        else make_installation(zookeeper=stores == "zookeeper")
    )
    with closing(made):
        made.init()
        clock.set(HOUR_S)
        relay = made.command_line.relay(environment=clock.environment)
        relay.wait_for("delivers", times=made.outbox.shards)
        assert clock.reads, "its log has times; otherwise an embedded relay reads no wall clock"
        owners = made.wait_shared(1)
        with made.outbox.writing(made.topic):
            for offset_s in JUMPS:
                clock.set(offset_s)
                before = len(made.outbox.ledger())
                wait_until(partial(has_grown, made, before + MESSAGES), "writers go on")
                made.wait_delivered()
        assert made.wait_shared(1) == owners, "it has kept its shards"
        made.finish(relay, at_least=len(JUMPS) * MESSAGES)


def has_grown(made: Installation, messages: int) -> bool:
    return len(made.outbox.ledger()) >= messages


def test_an_idle_relay_goes_on(clock: JumpingClock, make_installation: MakeInstallation) -> None:
    """librdkafka sleeps as long as it ever does, and is met there."""
    made = make_installation()
    made.init()
    relay = made.command_line.relay(environment=clock.environment)
    for _ in range(2):
        made.outbox.burst(made.topic, MESSAGES)
        made.wait_delivered()
        forward_and_back(clock)
    made.outbox.burst(made.topic, MESSAGES)
    made.finish(relay, at_least=3 * MESSAGES)


@pytest.mark.parametrize(
    ("goes", "comes"),
    [(Kafka.kill, Kafka.start), (Kafka.pause, Kafka.resume)],
    ids=["killed", "paused"],
)
def test_a_relay_that_waits_for_kafka_goes_on(
    goes: Callable[[Kafka], None],
    comes: Callable[[Kafka], None],
    clock: JumpingClock,
    make_installation: MakeInstallation,
    own_servers: OwnServers,
    servers: Servers,
) -> None:
    kafka = own_servers.kafka
    made = make_installation(replace(servers, kafka=kafka.address))
    made.init()
    made.outbox.burst(made.topic, MESSAGES)
    relay = made.command_line.relay(environment=clock.environment)
    made.wait_delivered()
    try:
        goes(kafka)
        made.outbox.burst(made.topic, MESSAGES)
        forward_and_back(clock)
        relay.wait_for("waiting, nothing is lost")
        forward_and_back(clock)
    finally:
        comes(kafka)
    made.finish(relay, at_least=2 * MESSAGES)


def forward_and_back(clock: JumpingClock) -> None:
    """By an hour, and by an hour; librdkafka has read it in between."""
    seen = clock.reads
    clock.set(HOUR_S)
    wait_until(lambda: clock.reads > seen, "the relay reads the clock that has jumped")
    clock.set(0)


def prepared(bank: Bank) -> set[str]:
    """The transactions of which a branch is prepared."""
    return {seen["transaction"] for seen in bank.listed()}


def are_gone(bank: Bank, transactions: set[str]) -> bool:
    return not transactions & prepared(bank)


@pytest.mark.parametrize("zookeeper", [False, True], ids=["file", "zookeeper"])
def test_transactions_over_two_databases_go_on(
    zookeeper: bool, clock: JumpingClock, servers: Servers, tmp_path: Path
) -> None:
    with closing(Bank(servers, tmp_path, zookeeper=zookeeper)) as bank:
        clock.set(HOUR_S)
        worker = bank.worker(environment=clock.environment)
        for offset_s in JUMPS:
            clock.set(offset_s)
            worker.wait_working(len(worker.lines()) + TRANSFERS)
            # What another one leaves that dies is settled by this clock.
            bank.worker(DIES_PREPARED, clock.environment).ended(-signal.SIGKILL)
            wait_until(partial(are_gone, bank, prepared(bank)), "what it left is settled")
        worker.wait_working(len(worker.lines()) + TRANSFERS)
        assert clock.reads
        worker.finish()
        assert bank.check() >= TRANSFERS * (len(JUMPS) + 1)
