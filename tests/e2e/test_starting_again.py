"""A relay that was killed and is started again on the same machine goes on at once.

Leases time out after longer than is waited for here: whoever waited for that would fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ZooKeeper

from .command_line import KILLED
from .installation import Installation, PostgresInstallation, Servers, Table, embedded
from .waiting import wait_until

TIMEOUT_MS = 60_000
BURST = 10
# Shared machines have been seen to stand still for half a minute.
LIMIT_S = 50.0


@pytest.fixture(scope="module")
def zookeeper() -> Iterator[str]:
    """Whose sessions may last that long."""
    with ZooKeeper({"maxSessionTimeout": str(TIMEOUT_MS)}) as own:
        yield own.address


@pytest.fixture(params=["database", "zookeeper", "embedded"])
def patient(
    request: pytest.FixtureRequest, servers: Servers, tmp_path: Path
) -> Iterator[Installation]:
    """An installation for each place where leases are kept."""
    tables: dict[str, Table] = {}
    if request.param == "embedded":
        made: Installation = embedded(tmp_path)
    else:
        made = PostgresInstallation(servers, tmp_path)
    if request.param == "zookeeper":
        address = request.getfixturevalue("zookeeper")
        tables["zookeeper"] = {"servers": address, "session_timeout_ms": TIMEOUT_MS}
    made.relay_settings["lease_timeout_ms"] = TIMEOUT_MS
    made.configure(other=tables)
    try:
        made.init()
        yield made
    finally:
        made.close()


def test_who_is_started_again_has_its_leases(patient: Installation) -> None:
    first = patient.relay()
    patient.wait_shared(1)
    patient.outbox.burst(patient.topic, BURST)
    patient.wait_delivered()
    first.kill()
    assert first.wait() == KILLED
    again = patient.relay()
    shards = patient.outbox.shards
    wait_until(
        lambda: again.text().count("delivers shard=") >= shards,
        "it delivers all shards",
        LIMIT_S,
        explain=again.text,
    )
    assert again.id() == first.id()
    patient.outbox.burst(patient.topic, BURST)
    patient.finish(again, at_least=2 * BURST)


def test_who_lives_keeps_its_leases_also_while_it_is_paused(patient: Installation) -> None:
    paused = patient.relay()
    (owner,) = patient.wait_shared(1)
    paused.pause()
    beside = patient.relay()
    assert owner == paused.id() != beside.id()
    paused.resume()
    patient.wait_shared(min(2, patient.outbox.shards))
    patient.outbox.burst(patient.topic, BURST)
    patient.finish(paused, beside, at_least=BURST)
    assert "the lease is another relay's now" not in paused.text() + beside.text()
