"""`onecommit init --remove` where transactions have branches in two databases."""

from __future__ import annotations

import json

from .command_line import CONFIGURATION, REFUSED
from .installation import Table
from .transacting_application import SETTLES, TRANSACTS
from .two_databases import TwoDatabases
from .waiting import wait_until

REMOVE = ("init", "--remove", "--yes")


def decision_log(both: TwoDatabases) -> list[str]:
    data = both.installation.folder / "data"
    paths = [*data.glob("decisions.db*"), *data.glob("coordinators")]
    return sorted(path.name for path in paths)


def refused(both: TwoDatabases, state: str, coordinator: str) -> None:
    """Nothing is removed while this coordinator's record is there."""

    def is_told() -> bool:
        done = both.installation.command_line.reached(*REMOVE)
        assert done.returncode == REFUSED, done
        assert "branches of theirs may be prepared" in done.stderr, done
        return f"{state}: {coordinator}" in done.stderr

    # That one is dead is told by ZooKeeper once its session is over.
    wait_until(is_told, f"the coordinator is {state}")
    assert both.tables() != []


def test_nothing_goes_before_every_coordinator_is_settled_and_then_all_of_it(
    databases: TwoDatabases,
) -> None:
    both, command_line = databases, databases.installation.command_line
    both.live_long()
    with both.application(TRANSACTS) as application:
        coordinator = application.coordinator
        refused(both, "living", coordinator)
    refused(both, "dead", coordinator)
    with both.application(SETTLES):

        def is_settled() -> bool:
            # Without a terminal nobody can be asked: that is what stands against it then.
            return command_line.reached("init", "--remove").returncode == CONFIGURATION

        wait_until(is_settled, "what the dead have left is settled")
    command_line.succeed(*REMOVE)
    assert (both.tables(), decision_log(both)) == ([], [])
    assert "nothing is there" in command_line.succeed(*REMOVE)
    both.installation.init()
    refused(both, "dead", both.transact())


def test_what_was_set_up_with_an_outbox_is_not_removed_as_one_without(
    databases: TwoDatabases,
) -> None:
    both, made = databases, databases.installation
    billing: Table = {"url": both.url, "outbox": True, "shards": 3}
    made.configure(other={"participants.billing": billing})
    made.init()
    made.configure(other={"participants.billing": {"url": both.url}})
    done = made.command_line.reached(*REMOVE)
    assert done.returncode == REFUSED and "shards: 3" in done.stderr, done
    assert "outbox = true" in done.stderr and "outbox" in both.tables()


def test_it_shows_who_has_no_outbox(databases: TwoDatabases) -> None:
    command_line = databases.installation.command_line
    done = command_line.reached("init", "--remove")
    assert done.returncode == CONFIGURATION and "tables of billing: no outbox" in done.stdout, done
    told = json.loads(command_line.succeed("--json", *REMOVE))
    names = [participant["participant"] for participant in told["participants"]]
    assert names == ["main", "billing"] and told["removed"]
    assert databases.tables() == []
