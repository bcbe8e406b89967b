"""What the commands about relays say where a participant has no outbox: it is none of theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .adoption import Adoption
from .command_line import CONFIGURATION
from .installation import PostgresInstallation, Servers
from .two_databases import TwoDatabases

BACKLOG = 50


@pytest.fixture(params=[True, False], ids=["zookeeper", "file"])
def databases(
    request: pytest.FixtureRequest, servers: Servers, tmp_path: Path
) -> Iterator[TwoDatabases]:
    """Both set up, with a dead coordinator's record."""
    made = PostgresInstallation(servers, tmp_path, zookeeper=request.param)
    both = TwoDatabases(made, servers.postgres)
    try:
        made.init()
        both.transact()
        yield both
    finally:
        both.drop()
        made.close()


def test_status_and_doctor_look_at_the_outboxes(databases: TwoDatabases) -> None:
    made = databases.installation
    made.deliver(BACKLOG)
    told = json.loads(made.command_line.succeed("--json", "status"))
    assert [one["participant"] for one in told["participants"]] == ["main"]
    assert "billing shard" not in made.command_line.succeed("status")
    doctor = made.command_line.reached("doctor")
    assert doctor.returncode == 0 and "billing: a relay can open" not in doctor.stdout, doctor
    assert "billing: the role postgres has the rights that coordinators need" in doctor.stdout


def test_what_gets_an_outbox_waits_for_init(databases: TwoDatabases) -> None:
    made, said = databases.installation, "set up without an outbox: run `onecommit init`"
    made.configure(other={"participants.billing": {"url": databases.url, "outbox": True}})
    for words in (["status"], ["doctor"], ["adopt", "billing", "--show"]):
        done = made.command_line.reached(*words)
        assert done.returncode in (1, 2), done
        assert said in done.stdout + done.stderr and "problem  Kafka" not in done.stdout
    relay = made.relay()
    relay.wait_for(said)
    relay.kill()
    made.init()
    relay = made.relay()
    relay.wait_for("participant=billing.*delivers")
    made.outbox.burst(made.topic, BACKLOG)
    made.finish(relay, at_least=BACKLOG)


def test_adopt_knows_the_outboxes(databases: TwoDatabases) -> None:
    made = databases.installation
    done = made.command_line.reached("adopt", "billing", "--show")
    said = "no participant of this name with an outbox: main"
    assert done.returncode == CONFIGURATION and said in done.stderr, done
    made.deliver(BACKLOG)
    made.outbox.execute("update onecommit.installation set delivery_id = 'another'")
    adoption = Adoption(made)
    adoption.adopt()
    made.outbox.burst(made.topic, BACKLOG)
    made.finish(made.relay(), at_least=BACKLOG)
