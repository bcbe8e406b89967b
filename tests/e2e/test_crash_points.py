"""Killed at every durable step, or paused, started again, compared: nothing lost or doubled.

Most of a run is waiting for a dead relay's lease: run all of them a few at a time, as in
`pytest -n 4 tests/e2e/test_crash_points.py`.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from .command_line import (
    FAILPOINTS,
    FAILPOINTS_LOG,
    KILLED,
    REFUSED,
    UNCLEAR,
    RelayProcess,
    was_late,
)
from .crash_points import (
    BEFORE_RECORDS,
    CrashPoint,
    Stores,
    Way,
    crash_points,
    names_in_sources,
)
from .dead_letters import TOO_LARGE, SmallTopic
from .installation import (
    Installation,
    PostgresInstallation,
    Servers,
    embedded,
    postgres_to_topic_log,
)
from .waiting import wait_until

# More than a small window takes, so that the backlog's read path is used too.
BACKLOG = 1200
# That so many random ids come in rising order has the chance 1 : 3,628,800.
JOINERS = 9
# What a relay says where a store was late. A lease that it could not give up is told at this level.
LATE = re.compile(
    f"{UNCLEAR.pattern}|PostgreSQL did not answer within|ZooKeeper does not answer"
    "|the lease is another relay's now"
)
TELLS_RELEASES = {"ONECOMMIT_LOG": "info,onecommit::relay::session=debug"}
# Installations in which a place is tried to be met.
TRIES = 4

POINTS = {str(point): point for point in crash_points()}


def test_every_failpoint_is_killed_at_and_none_is_unknown() -> None:
    covered = {point.name for point in POINTS.values()}
    assert covered == names_in_sources()


class NotMetError(AssertionError):
    """A store may have done what was asked for, and answered too late: then the place behind it
    was passed by, and what comes once in an installation does not come again."""


@pytest.mark.parametrize("name", POINTS)
def test_killed_or_paused_at(name: str, servers: Servers, tmp_path: Path) -> None:
    for number in range(1, TRIES + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            run(POINTS[name], servers, folder)
        except NotMetError:
            if number == TRIES:
                raise
        else:
            return


def run(point: CrashPoint, servers: Servers, folder: Path) -> None:
    installation = install(point.stores, servers, folder)
    try:
        if point.way == "init":
            kill_a_command(installation, point, "init", "--topic", installation.topic)
        installation.init()
        installation.outbox.burst(installation.topic, BACKLOG)
        relays = RUNS[point.way](installation, point)
        installation.wait_delivered()
        installation.wait_pruned()
        installation.finish(*relays, at_least=BACKLOG)
    finally:
        installation.close()


def install(stores: Stores, servers: Servers, folder: Path) -> Installation:
    if stores == "embedded":
        return embedded(folder)
    if stores == "postgres_to_topic_log":
        return postgres_to_topic_log(servers, folder)
    return PostgresInstallation(servers, folder, zookeeper=stores == "zookeeper")


def kill_a_command(installation: Installation, point: CrashPoint, *words: str) -> str:
    """Runs a short command that is killed; returns what it had printed."""
    log = installation.folder / "command.failpoints"
    environment = {FAILPOINTS: point.failpoints, FAILPOINTS_LOG: str(log)}
    done = installation.command_line.run(*words, environment=environment)
    if was_late(done):
        raise NotMetError(str(done))
    assert done.returncode == -signal.SIGKILL, done
    assert log.read_text().splitlines() == [f"failpoint {point.name} hit"]
    return done.stdout


def expect_killed(relay: RelayProcess, point: CrashPoint) -> None:
    """It hit, and SIGKILL was its end."""
    try:
        ended = relay.wait()
    except AssertionError as error:
        if point.name not in relay.hit() and LATE.search(relay.text()):
            raise NotMetError(f"{point} was not met: {error}") from error
        raise
    assert ended == KILLED, relay.text()
    assert relay.hit()[-1:] == [point.name], relay.text()


def kill_at_work(installation: Installation, point: CrashPoint) -> list[RelayProcess]:
    with installation.outbox.writing(installation.topic):
        expect_killed(installation.relay(point.failpoints), point)
        # Its successor starts among writers, too.
        successor = installation.relay()
        successor.wait_for("delivers")
    return [successor]


def kill_at_the_end(installation: Installation, point: CrashPoint) -> list[RelayProcess]:
    """A store that does not confirm in time what is given up is not waited for: then it ends before
    it gets there, and the next one has to."""

    def is_killed() -> bool:
        relay = installation.relay(point.failpoints)
        relay.wait_for("delivers", times=installation.outbox.shards)
        installation.wait_delivered()
        relay.terminate()
        if relay.wait() == 0 and not relay.hit():
            return False
        expect_killed(relay, point)
        return True

    wait_until(is_killed, "it is killed at its end")
    return [installation.relay()]


def kill_while_emptying(installation: Installation, point: CrashPoint) -> list[RelayProcess]:
    """The table is emptied once everything is delivered."""
    # With the default one that is missed, as another process stands still, is not tried for again.
    installation.relay_settings |= {"truncate_bytes": 1, "truncate_lock_ms": 1000}
    installation.configure()
    expect_killed(installation.relay(point.failpoints), point)
    return [installation.relay()]


def kill_while_sharing(installation: Installation, point: CrashPoint) -> list[RelayProcess]:
    """A relay that joins makes another give up a shard. A single shard goes to the lowest id: one
    that joins with a higher id becomes the owner itself, and another joins."""

    def started() -> RelayProcess:
        return installation.command_line.relay(point.failpoints, environment=TELLS_RELEASES)

    owner = started()
    for _ in range(JOINERS):
        installation.wait_shared(1)
        joined = started()
        if installation.outbox.shards > 1 or joined.id() < owner.id():
            expect_killed(owner, point)
            return [joined]
        owner.stop()
        owner = joined
    raise AssertionError(f"{JOINERS} random ids, each higher than the one before")


def kill_an_heir(installation: Installation, point: CrashPoint) -> list[RelayProcess]:
    """A relay that removes what a long dead one left."""
    # Long dead is who was silent for twenty of them; a request is given half of one.
    installation.relay_settings["lease_timeout_ms"] = 2000
    installation.configure()
    # The heir has the id of one of them, and so its row.
    both = [installation.relay(), installation.relay()]
    installation.wait_shared(2)
    for dead in both:
        dead.kill()
    expect_killed(installation.relay(point.failpoints), point)
    return [installation.relay()]


def kill_a_consumer(installation: Installation, point: CrashPoint) -> list[RelayProcess]:
    """A group goes on where its position was stored, so it may see messages again."""
    relay = installation.relay()
    installation.wait_delivered()
    words = ["--json", "consume", installation.topic, "--group", "g", "--from-beginning"]
    first = kill_a_command(installation, point, *words, "--max", "50")
    assert offsets(first) == list(range(50))
    again = offsets(installation.command_line.succeed(*words, "--max", "10"))
    start = 50 if point.name.endswith("after_commit") else 0
    assert again == list(range(start, start + 10))
    return [relay]


class Poisoned:
    """A key whose first message can't be delivered, and two that wait behind it."""

    def __init__(self, installation: Installation) -> None:
        assert isinstance(installation, PostgresInstallation)
        self.installation = installation
        self.small = SmallTopic(installation)
        installation.all_topics.append(self.small.name)
        self.dead, *self.behind = self.small.commit((b"k", TOO_LARGE), (b"k", b"1"), (b"k", b"2"))

    def ask(self) -> None:
        """What was too large is not any more, and is retried by whoever owns the shard."""
        self.small.raise_limit()
        words = ("dead-letter", "retry", "--all", "--wait-seconds", "0")
        self.installation.command_line.reached(*words)


def kill_while_something_is_aside(
    installation: Installation, point: CrashPoint
) -> list[RelayProcess]:
    poisoned = Poisoned(installation)
    relay = installation.relay(point.failpoints)
    if point.name.startswith(BEFORE_RECORDS):
        expect_killed(relay, point)
        relay = installation.relay()
        poisoned.small.wait_dead(poisoned.dead, waiting=2)
        poisoned.ask()
        return [relay]
    poisoned.small.wait_dead(poisoned.dead, waiting=2)
    poisoned.ask()
    expect_killed(relay, point)
    return [installation.relay()]


def kill_who_asks(installation: Installation, point: CrashPoint) -> list[RelayProcess]:
    """Asked once more, it is asked once."""
    poisoned = Poisoned(installation)
    relay = installation.relay()
    poisoned.small.wait_dead(poisoned.dead, waiting=2)
    if point.name.startswith("outbox.declare_topic"):
        kill_a_command(installation, point, "dead-letter", "topic", "nobody.publishes.to.it")
    else:
        kill_a_command(installation, point, "dead-letter", "retry", "--all")
    poisoned.ask()
    return [relay]


def pause_while_something_is_aside(
    installation: Installation, point: CrashPoint
) -> list[RelayProcess]:
    """What a paused relay has still to record, or to remove, is its successor's by then."""
    poisoned = Poisoned(installation)
    paused = installation.relay(point.failpoints)
    if point.name.startswith(BEFORE_RECORDS):
        paused.wait_hit(point.name)
        successor = installation.relay()
        poisoned.small.wait_dead(poisoned.dead, waiting=2)
    else:
        poisoned.small.wait_dead(poisoned.dead, waiting=2)
        poisoned.ask()
        paused.wait_hit(point.name)
        successor = installation.relay()
        installation.wait_delivered()
    (owner,) = installation.wait_shared(1)
    paused.resume()
    assert owner in installation.wait_shared(2)
    poisoned.ask()
    return [paused, successor]


def kill_an_adoption(installation: Installation, point: CrashPoint) -> list[RelayProcess]:
    """As after a restore, or with another installation in ZooKeeper. What was delivered is pruned:
    nothing may come twice, also not by a relay that is started in between."""
    relay = installation.relay()
    installation.wait_delivered()
    installation.wait_pruned()
    relay.stop()
    # It waits for no confirmation of what it gives up, and nobody adopts while a relay lives.
    wait_until(lambda: installation.owners() == {None}, "no relay lives")
    if point.stores == "zookeeper":
        other = "update onecommit.installation set incarnation = gen_random_uuid()"
        installation.outbox.execute(other)
    else:
        installation.outbox.execute(f"delete from {installation.outbox.barriers}")
    installation.outbox.burst(installation.topic, BACKLOG)
    kill_a_command(installation, point, "adopt", "main", "--yes")
    between = installation.relay()

    def is_settled() -> bool:
        delivering = len(re.findall("delivers", between.text()))
        waits = "topic is not there" in between.text()
        return not between.running or waits or delivering >= installation.outbox.shards

    wait_until(is_settled, "it refuses, waits, or delivers all shards", explain=between.text)
    between.terminate()
    assert between.wait() in (0, 4), between.text()
    installation.command_line.succeed("adopt", "main", "--yes")
    return [installation.relay()]


def kill_a_removal(installation: Installation, point: CrashPoint) -> list[RelayProcess]:
    """It goes on where it was; what is made anew afterwards knows nothing of before."""
    relay = installation.relay()
    installation.wait_delivered()
    installation.wait_pruned()
    relay.stop()
    kill_a_command(installation, point, "init", "--remove", "--yes")
    installation.command_line.succeed("init", "--remove", "--yes")
    assert "nothing is there" in installation.command_line.succeed("init", "--remove", "--yes")
    installation.init()
    # The checker knows a message's place by its id.
    installation.outbox.execute(installation.outbox.ids_from_a_million)
    installation.outbox.burst(installation.topic, BACKLOG)
    return [installation.relay()]


def kill_who_sets(installation: Installation, point: CrashPoint) -> list[RelayProcess]:
    """It is set, or it is not; a relay works with what is stored, and set once more it holds."""
    relay = installation.relay()
    kill_a_command(installation, point, "settings", "set", "relay.batch_messages", "7")
    value, _ = installation.setting("relay.batch_messages")
    assert value == ("7" if point.name.endswith("after_commit") else "40")
    installation.command_line.succeed("settings", "set", "relay.batch_messages", "8")
    relay.wait_for('key="relay.batch_messages"')
    assert installation.setting("relay.batch_messages") == ("8", "run_time")
    return [relay]


def kill_while_guarding(installation: Installation, point: CrashPoint) -> list[RelayProcess]:
    """Some nodes are a user's, others still anybody's: they are refused until all are guarded."""
    zookeeper: dict[str, str | int | bool] = {
        "servers": installation.zookeeper or "",
        "user": "secured",
        "password": "of a test",
        "require_acl": True,
    }
    installation.configure(other={"zookeeper": zookeeper})
    kill_a_command(installation, point, "init")
    refused = installation.command_line.reached("relay")
    assert refused.returncode == REFUSED and "anybody may change" in refused.stderr, refused
    assert "that anybody could change" in installation.command_line.succeed("init")
    return [installation.relay()]


def start_again(installation: Installation, _: CrashPoint) -> list[RelayProcess]:
    return [installation.relay()]


def pause_past_the_lease(installation: Installation, point: CrashPoint) -> list[RelayProcess]:
    """A successor delivers everything meanwhile; the paused one joins again by itself."""
    with installation.outbox.writing(installation.topic):
        paused = installation.relay(point.failpoints)
        paused.wait_hit(point.name)
        successor = installation.relay()
        installation.wait_delivered()
        (owner,) = installation.wait_shared(1)
        paused.resume()
        assert owner in installation.wait_shared(2)
    return [paused, successor]


RUNS: dict[Way, Callable[[Installation, CrashPoint], list[RelayProcess]]] = {
    "init": start_again,
    "relay": kill_at_work,
    "error": kill_at_work,
    "stop": kill_at_the_end,
    "share": kill_while_sharing,
    "outlive": kill_an_heir,
    "consume": kill_a_consumer,
    "aside": kill_while_something_is_aside,
    "empty": kill_while_emptying,
    "ask": kill_who_asks,
    "pause_aside": pause_while_something_is_aside,
    "pause": pause_past_the_lease,
    "adopt": kill_an_adoption,
    "remove": kill_a_removal,
    "set": kill_who_sets,
    "guard": kill_while_guarding,
}


def offsets(printed: str) -> list[int]:
    return [json.loads(line)["offset"] for line in printed.splitlines()]


@pytest.mark.parametrize("stores", ["embedded", "postgres", "zookeeper"])
def test_errors_at_every_step_stop_no_relay(
    stores: Stores, servers: Servers, tmp_path: Path
) -> None:
    """The third hit of each step fails; the relay drops what it held and goes on by itself."""
    installation = install(stores, servers, tmp_path)
    try:
        installation.init()
        installation.outbox.burst(installation.topic, BACKLOG)
        relay = installation.relay(";".join(f"{name}=error@3" for name in names_in_sources()))
        with installation.outbox.writing(installation.topic):
            for name in ("relay.batch.sent", "outbox.barrier.after_commit"):
                relay.wait_hit(name)
            installation.wait_delivered()
        installation.finish(relay, at_least=BACKLOG)
    finally:
        installation.close()
