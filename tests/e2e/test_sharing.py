"""Several relays share the shards of one outbox; they join, leave and die."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .command_line import KILLED
from .installation import Installation, PostgresInstallation, Servers, embedded
from .waiting import wait_until


@pytest.fixture(params=["database", "zookeeper", "embedded"])
def sharing(
    request: pytest.FixtureRequest, servers: Servers, tmp_path: Path
) -> Iterator[Installation]:
    """An installation for each place where leases are kept."""
    if request.param == "embedded":
        made = embedded(tmp_path)
    else:
        made = PostgresInstallation(servers, tmp_path, zookeeper=request.param == "zookeeper")
    try:
        made.init()
        yield made
    finally:
        made.close()


def test_relays_join_die_and_leave(sharing: Installation) -> None:
    both = min(2, sharing.outbox.shards)
    with sharing.outbox.writing(sharing.topic):
        first = sharing.relay()
        before = sharing.wait_shared(1)
        second = sharing.relay()
        sharing.wait_shared(both)

        first.kill()
        assert first.wait() == KILLED
        after = wait_until(lambda: sharing.wait_shared(1) - before, "the second relay takes over")

        third = sharing.relay()
        sharing.wait_shared(both)
        second.stop()
        wait_until(lambda: sharing.wait_shared(1) - after, "the third relay takes over")
    sharing.finish(third)
    # It has given up its leases; where their store did not answer in time, it has said so.
    assert sharing.owners() == {None} or "leases could not be given up" in third.text()
