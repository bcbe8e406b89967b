"""`onecommit nodes`: who is alive, what each holds, and what is left of the dead."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import onecommit
import psycopg
import pytest

from .adoption import long_leases
from .command_line import CommandLine, RelayProcess
from .conftest import OwnServers
from .installation import Installation, Servers, embedded
from .transacting_application import SETTLES, WAITS_PREPARED
from .two_databases import TwoDatabases
from .waiting import LIMIT_S, wait_until

Node = dict[str, Any]


@pytest.fixture(params=["file", "zookeeper"])
def installed(
    request: pytest.FixtureRequest, servers: Servers, tmp_path: Path
) -> Iterator[Installation]:
    """SQLite to the topic log, with nodes in a file or in ZooKeeper."""
    made = embedded(tmp_path)
    if request.param == "zookeeper":
        made.zookeeper = servers.zookeeper
    # Each event is looked for: none may be that a busy machine let a session end.
    made.configure(other=long_leases(made))
    made.init()
    yield made
    made.close()


def look(command_line: CommandLine) -> dict[str, Any]:
    """What `nodes` says, as soon as it reaches all."""
    found: dict[str, Any] = json.loads(command_line.succeed("--json", "nodes"))
    assert found["errors"] == [], found
    return found


def wait_nodes(
    command_line: CommandLine, is_as_expected: Callable[[dict[str, Any]], bool], what: str
) -> dict[str, Any]:
    last: list[dict[str, Any]] = []

    def found() -> bool:
        last.append(look(command_line))
        return is_as_expected(last[-1])

    wait_until(found, what, explain=lambda: str(last[-1]))
    return last[-1]


def by_relay(found: dict[str, Any], relay: RelayProcess) -> Node | None:
    nodes = [node for node in found["nodes"] if node["relay"] == relay.id()]
    return nodes[0] if nodes else None


@contextmanager
def watching(command_line: CommandLine) -> Iterator[Callable[[], dict[str, Any]]]:
    """Gives each event that `nodes --watch` prints, one after the other."""
    command = command_line.arguments("--json", "nodes", "--watch")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout
        assert output is not None

        def event() -> dict[str, Any]:
            told: dict[str, Any] = json.loads(output.readline())
            return told

        try:
            yield event
        finally:
            process.terminate()
            assert process.wait() == 0


def test_relays_are_seen_as_they_come_hold_and_go(installed: Installation) -> None:
    command_line = installed.command_line
    assert look(command_line)["nodes"] == []
    assert command_line.succeed("nodes") == "no relay or program is alive\n"
    with watching(command_line) as event:
        first = installed.relay()
        came = event()
        assert came["event"] == "came", came
        node = came["node"]
        assert (node["kind"], node["pid"], node["relay"]) == ("relay", first.pid, first.id())
        while node["shards"] != {"main": [0]}:
            changed = event()
            assert changed["event"] == "changed", changed
            node = changed["node"]
        found = look(command_line)
        assert found["nodes"] == [node] and found["unseen_relays"] == [], found
        told = command_line.succeed("nodes")
        assert f"relay {first.id()}, process {first.pid} on " in told, told
        assert ": main 0; settings 0" in told, told

        command_line.succeed("settings", "set", "relay.batch_messages", "7")
        assert event()["node"]["settings_revision"] == 1

        second = installed.relay()
        came = event()
        # In either order: that it lives and what it holds are known by sessions of their own.
        while (came["event"], came["node"]["relay"]) == ("changed", first.id()):
            came = event()
        assert (came["event"], came["node"]["relay"]) == ("came", second.id()), came
        first.kill()
        expected = {("left", first.id())}
        if came["node"]["shards"] != {"main": [0]}:
            expected.add(("holds", second.id()))
        while expected:
            one = event()
            has_left, relay = one["event"] == "left", one["node"]["relay"]
            assert not has_left or relay == first.id(), one
            if has_left:
                expected.discard(("left", relay))
            elif one["node"]["shards"] == {"main": [0]}:
                expected.discard(("holds", relay))
        second.stop()
        left = event()
        while left["event"] != "left":
            left = event()
        assert left["node"]["relay"] == second.id()
    assert look(command_line)["nodes"] == []


def test_programs_are_seen_with_their_coordinators_and_what_the_dead_have_left(
    databases: TwoDatabases,
) -> None:
    databases.live_long()
    command_line = databases.installation.command_line
    with databases.application(WAITS_PREPARED) as application:

        def decides(found: dict[str, Any]) -> bool:
            return [node["coordinator"] for node in found["nodes"]] == [application.coordinator]

        found = wait_nodes(command_line, decides, "its coordinator is seen")
        (node,) = found["nodes"]
        assert (node["kind"], node["pid"]) == ("program", application.process.pid), node
        assert found["left"] == [], found

    def is_left(found: dict[str, Any]) -> bool:
        return [one["coordinator"] for one in found["left"]] == [application.coordinator]

    found = wait_nodes(
        command_line, lambda found: is_left(found) and not found["nodes"], "it is dead"
    )
    (left,) = found["left"]
    assert (left["state"], left["pid"]) == ("dead", application.process.pid), left
    assert sorted(left["participants"]) == ["billing", "main"], left
    told = command_line.succeed("nodes")
    assert f"left: coordinator {application.coordinator}, process" in told, told

    with databases.application(SETTLES):
        wait_nodes(command_line, lambda found: not found["left"], "nothing is left")


def held(kind: str, name: str, number: int) -> dict[str, str | int]:
    return {"kind": kind, "name": name, "number": number}


def test_locks_are_seen_while_they_are_held(databases: TwoDatabases) -> None:
    databases.live_long()
    command_line = databases.installation.command_line
    with ExitStack() as stack:
        main = stack.enter_context(psycopg.connect(databases.installation.outbox.url))
        billing = stack.enter_context(psycopg.connect(databases.url))
        oc = stack.enter_context(onecommit.open(command_line.configuration))
        event = stack.enter_context(watching(command_line))

        def watch_for(locks: list[dict[str, str | int]]) -> None:
            node = event()["node"]
            while node["locks"] != locks:
                node = event()["node"]
            assert node["locks_held"] == len(locks), node

        with oc.lock("nightly\nreport", timeout=LIMIT_S) as lock:
            lock_held = held("lock", "nightly\nreport", lock.number)
            watch_for([lock_held])
            with oc.leader("billing", timeout=LIMIT_S) as leader:
                leader_held = held("leader", "billing", leader.number)
                watch_for([lock_held, leader_held])
                with oc.transaction(deadline=LIMIT_S, main=main, billing=billing) as tx:
                    number = tx.lock("account/1")
                    watch_for([lock_held, leader_held, held("lock", "account/1", number)])
                    told = command_line.succeed("nodes")
                    expected = f'leader "billing" ({leader.number}); lock "account/1" ({number}); '
                    assert f'lock "nightly\\nreport" ({lock.number}); {expected}' in told, told
                watch_for([lock_held, leader_held])
            watch_for([lock_held])
        watch_for([])


def test_of_many_locks_some_are_named_and_all_are_counted(databases: TwoDatabases) -> None:
    databases.live_long()
    command_line = databases.installation.command_line
    with ExitStack() as stack:
        oc = stack.enter_context(onecommit.open(command_line.configuration))
        names = [f"b{n}" for n in range(20)]
        for name in names:
            stack.enter_context(oc.lock(name, timeout=LIMIT_S))

        def is_counted(count: int) -> Callable[[dict[str, Any]], bool]:
            return lambda found: [node["locks_held"] for node in found["nodes"]] == [count]

        wait_nodes(command_line, is_counted(20), "all of them")
        stack.enter_context(oc.lock("a later one", timeout=LIMIT_S))
        found = wait_nodes(command_line, is_counted(21), "the later one too")
        assert [lock["name"] for lock in found["nodes"][0]["locks"]] == names
        assert "; 21 locks in all; " in command_line.succeed("nodes")


def test_a_zookeeper_that_is_away_is_told_and_nodes_are_seen_again(
    own_servers: OwnServers, tmp_path: Path
) -> None:
    zookeeper = own_servers.zookeeper
    made = embedded(tmp_path)
    made.zookeeper = zookeeper.address
    made.configure()
    made.init()
    relay = made.relay()
    wait_nodes(made.command_line, lambda found: bool(found["nodes"]), "it is there")
    zookeeper.kill()
    done = made.command_line.unreached("ZooKeeper does not answer", "--json", "nodes")
    assert json.loads(done.stdout)["nodes"] == []
    zookeeper.start()
    wait_nodes(
        made.command_line, lambda found: by_relay(found, relay) is not None, "it is there again"
    )
    relay.stop()
    # What it was in the session before, which ZooKeeper had restored, may be there until that ends.
    wait_nodes(made.command_line, lambda found: not found["nodes"], "it is gone")
    made.close()
