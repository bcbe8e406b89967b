"""Settings that change at run time: checked before they are stored, followed without a restart."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from .admin_client import Admin, watched_relay
from .command_line import CONFIGURATION
from .conftest import OwnServers
from .dead_letters import TOO_LARGE, SmallTopic
from .installation import Installation, PostgresInstallation, Servers, embedded

REVISION = "onecommit_settings_revision"
REFUSED = "onecommit_settings_refused"
COMMITS = "onecommit_commits_total"
# Read in pieces of 256, which are never torn apart: a batch has one of them, or many.
BURST, PIECES, FEW = 3000, 12, 6


@pytest.fixture(params=["file", "zookeeper"])
def installed(
    request: pytest.FixtureRequest, servers: Servers, tmp_path: Path
) -> Iterator[Installation]:
    """SQLite to the topic log, with settings in a file or in ZooKeeper."""
    made = embedded(tmp_path)
    if request.param == "zookeeper":
        made.zookeeper = servers.zookeeper
    made.relay_settings["batch_messages"] = 5000
    made.configure()
    made.init()
    yield made
    made.close()


def settings(installation: Installation, *words: str) -> dict[str, Any]:
    """What a command says that has to succeed."""
    told: dict[str, Any] = json.loads(
        installation.command_line.succeed("--json", "settings", *words)
    )
    return told


def commits_for(installation: Installation, admin: Admin) -> float:
    """In how many transactions the messages of one burst are delivered."""
    (before,) = admin.sums(COMMITS)
    installation.outbox.burst(installation.topic, BURST)
    installation.wait_delivered()
    (after,) = admin.sums(COMMITS)
    return after - before


def test_a_running_relay_follows(installed: Installation) -> None:
    relay, admin = watched_relay(installed)
    admin.wait_ready()
    assert installed.setting("relay.batch_messages") == ("5000", "file")
    assert commits_for(installed, admin) < FEW

    changed = settings(installed, "set", "relay.batch_messages", "2")
    assert (changed["was"]["value"], changed["is"]["value"]) == ("5000", "2"), changed
    assert installed.setting("relay.batch_messages") == ("2", "run_time")
    admin.wait_sum(REVISION, changed["revision"])
    relay.wait_for('a setting has changed key="relay.batch_messages" was="as configured" is="2"')
    assert commits_for(installed, admin) >= PIECES - 1

    # Under `warn` nothing is told of the next change, and of the one behind it there is again.
    for words in [
        ("set", "log_level", "warn"),
        ("set", "relay.prune_messages", "77"),
        ("unset", "log_level"),
        ("set", "relay.prune_messages", "88"),
    ]:
        admin.wait_sum(REVISION, settings(installed, *words)["revision"])
    relay.wait_for('key="relay.prune_messages" was="77" is="88"')
    assert 'is="77"' not in relay.text()

    admin.wait_sum(REVISION, settings(installed, "unset", "relay.batch_messages")["revision"])
    assert installed.setting("relay.batch_messages") == ("5000", "file")
    assert commits_for(installed, admin) < FEW

    # One that is started later works with them from its begin.
    revision = settings(installed, "set", "relay.batch_messages", "2")["revision"]
    relay.stop()
    relay, admin = watched_relay(installed)
    admin.wait_ready()
    admin.wait_sum(REVISION, revision)
    assert commits_for(installed, admin) >= PIECES - 1
    installed.finish(relay)


def test_what_could_not_be_in_the_file_is_not_stored(installed: Installation) -> None:
    cases = [
        (("relay.batch_messages", "0"), "expected a whole number from 1 to 100000, found 0"),
        (("relay.batch_messages", "many"), 'found "many"'),
        (("relay.poll_busy_ms", "100"), "100 is more than poll_idle_ms, which is 40"),
        (("relay.batch_message", "5"), "did you mean relay.batch_messages?"),
        (("relay.buffer_bytes", "2000000"), "relay.buffer_bytes takes a restart: it is what"),
        (("participants.main.url", "x"), "takes a restart: connections are opened by it"),
        (("topics.a.b.on_poison", "parc"), "did you mean park?"),
        (("log_level", "loud"), "is no level"),
    ]
    for words, said in cases:
        done = installed.command_line.reached("settings", "set", *words)
        assert done.returncode == CONFIGURATION, (words, done)
        assert said in done.stderr, (words, done.stderr)
    done = installed.command_line.reached("settings", "get", "relay.colour")
    assert done.returncode == CONFIGURATION and "is no setting" in done.stderr, done
    assert settings(installed, "get")["revision"] == 0, "nothing was stored"


def test_nobody_overwrites_what_another_one_sets(installed: Installation) -> None:
    keys = {
        "relay.batch_messages": "11",
        "relay.batch_bytes": "2222",
        "relay.prune_messages": "33",
        "relay.set_aside_max": "44",
        "coordinator.keep_days": "55",
        "topics.a.b.on_poison": "pass",
    }

    def set_one(pair: tuple[str, str]) -> subprocess.CompletedProcess[str]:
        return installed.command_line.reached("settings", "set", *pair)

    with ThreadPoolExecutor(len(keys)) as pool:
        for done in pool.map(set_one, keys.items()):
            assert done.returncode == 0, done
    for key, expected in keys.items():
        assert installed.setting(key) == (expected, "run_time"), key
    assert settings(installed, "get")["revision"] == len(keys)


def test_a_watch_tells_each_change(installed: Installation) -> None:
    command = installed.command_line.arguments("--json", "settings", "watch")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline()) == {"revision": 0, "changes": []}
        settings(installed, "set", "log_level", "warn")
        first = json.loads(watching.stdout.readline())
        settings(installed, "unset", "log_level")
        second = json.loads(watching.stdout.readline())
        watching.terminate()
        assert watching.wait() == 0
    key = "log_level"
    assert first == {"revision": 1, "changes": [{"key": key, "was": None, "is": "warn"}]}
    assert second == {"revision": 2, "changes": [{"key": key, "was": "warn", "is": None}]}


def test_what_a_later_release_has_set_is_refused_and_kept(tmp_path: Path) -> None:
    made = embedded(tmp_path)
    made.init()
    settings(made, "set", "relay.batch_messages", "2")
    relay, admin = watched_relay(made)
    admin.wait_ready()
    with closing(sqlite3.connect(tmp_path / "data" / "settings.db")) as connection:
        values = {"relay.batch_messages": "3", "relay.colour": "red"}
        later = json.dumps({"version": 1, "values": values}).encode()
        connection.execute("update settings set revision = 2, bytes = ?", [later])
        connection.commit()
    relay.wait_for('settings are refused.*"relay.colour" is no setting')
    admin.wait_sum(REFUSED, 1)
    assert admin.samples(REVISION) == [1], "those of before hold"
    assert commits_for(made, admin) >= PIECES - 1
    done = made.command_line.run("settings", "set", "log_level", "warn")
    assert done.returncode == CONFIGURATION and "relay.colour" in done.stderr, done

    with closing(sqlite3.connect(tmp_path / "data" / "settings.db")) as connection:
        earlier = json.dumps({"version": 1, "values": {}}).encode()
        connection.execute("update settings set revision = 3, bytes = ?", [earlier])
        connection.commit()
    admin.wait_sum(REVISION, 3)
    admin.wait_sum(REFUSED, 0)
    made.finish(relay)
    made.close()


def test_while_zookeeper_is_away_what_was_set_holds(
    own_servers: OwnServers, tmp_path: Path
) -> None:
    zookeeper = own_servers.zookeeper
    made = embedded(tmp_path)
    made.zookeeper = zookeeper.address
    made.configure()
    made.init()
    settings(made, "set", "relay.batch_messages", "2")
    relay, admin = watched_relay(made)
    admin.wait_ready()
    admin.wait_sum(REVISION, 1)
    zookeeper.kill()
    relay.wait_for("settings can't be followed now: those of before hold")
    made.command_line.unreached("ZooKeeper does not answer", "settings", "set", "log_level", "warn")
    made.command_line.unreached("ZooKeeper does not answer", "settings", "get")
    assert admin.samples(REVISION) == [1]
    zookeeper.start()
    revision = settings(made, "set", "relay.batch_messages", "3")["revision"]
    admin.wait_sum(REVISION, revision)
    relay.wait_for('a setting has changed key="relay.batch_messages" was="2" is="3"')
    made.outbox.burst(made.topic, 10)
    made.finish(relay)
    made.close()


def test_a_policy_changes_for_the_next_message_that_cannot_be_delivered(
    installation: PostgresInstallation,
) -> None:
    small = SmallTopic(installation)
    relay, admin = watched_relay(installation)
    dead, waits = small.commit((b"parked", TOO_LARGE), (b"parked", b"small"))
    small.wait_dead(dead, waiting=1)
    key = f"topics.{small.name}.on_poison"
    assert installation.setting(key) == ("park", "default")
    admin.wait_sum(REVISION, settings(installation, "set", key, "pass")["revision"])
    passed, goes_on = small.commit((b"passed", TOO_LARGE), (b"passed", b"small"))
    small.wait_delivered(goes_on)
    letters = {letter["message_id"] for letter in small.letters()}
    assert letters == {dead, passed}, letters
    assert waits not in letters
    relay.stop()
