"""What each command exits with, by what really happened: 1 failed, 2 usage or configuration, 3 a
server can't be reached, 4 refused in order to protect data. The doctor has 1 for each problem that
it finds, also for one that others refuse.

A relay has no line under 1 and 3: it waits for what may come back, and tells so.
"""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers import free_port

from .command_line import CommandLine
from .conftest import MakeInstallation
from .installation import PostgresInstallation, Table

CONSUME = ("consume", "t", "--from-beginning", "--max", "1")
COMMANDS = [("init",), ("relay",), ("status",), CONSUME]
DOCTOR = ("doctor",)
NAMES = [words[0] for words in COMMANDS]
NEWER = 1000


@pytest.fixture
def fresh(tmp_path: Path) -> CommandLine:
    """No server, and not set up."""
    configuration = tmp_path / "onecommit.toml"
    configuration.write_text(f'data_dir = "{tmp_path / "data"}"\n')
    return CommandLine(tmp_path, configuration)


@pytest.fixture
def embedded(fresh: CommandLine) -> Iterator[CommandLine]:
    """No server, and set up."""
    fresh.succeed("init")
    with closing(fresh):
        yield fresh


def data(command_line: CommandLine, name: str) -> Path:
    found = command_line.folder / "data" / name
    assert found.exists(), f"{name} has another name now"
    return found


def expect(code: int, done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == code, done
    told = done.stdout + done.stderr
    assert all(word in told for word in said), told


@pytest.mark.parametrize(
    "words", [COMMANDS[0], COMMANDS[2], DOCTOR], ids=["init", "status", "doctor"]
)
def test_1_what_was_asked_for_cannot_be_printed(
    embedded: CommandLine, words: tuple[str, ...]
) -> None:
    expect(1, on_a_full_disk(embedded, *words), "standard output")


def test_1_a_message_cannot_be_printed(embedded: CommandLine) -> None:
    with closing(sqlite3.connect(data(embedded, "main.db"))) as conn, conn:
        conn.execute("insert into onecommit_outbox (topic) values ('t')")
    relay = embedded.relay()
    embedded.succeed(*CONSUME)
    expect(1, on_a_full_disk(embedded, *CONSUME), "standard output")
    relay.stop()


def test_1_the_doctor_finds_a_problem_where_others_refuse_or_ask_for_init(
    fresh: CommandLine,
) -> None:
    expect(1, fresh.run("doctor"), "problem", "onecommit init")
    fresh.succeed("init")
    expect(0, fresh.run("doctor"), "0 problems")
    with closing(sqlite3.connect(data(fresh, "topics.db"))) as conn:
        conn.execute(f"pragma user_version = {NEWER}")
    expect(1, fresh.run("doctor"), "problem", str(NEWER))


def on_a_full_disk(command_line: CommandLine, *words: str) -> subprocess.CompletedProcess[str]:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command_line.arguments(*words),
            cwd=command_line.folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    done.stdout = ""
    return done


@pytest.mark.parametrize("words", [*COMMANDS, DOCTOR], ids=[*NAMES, "doctor"])
def test_2_usage(embedded: CommandLine, words: tuple[str, ...]) -> None:
    expect(2, embedded.run(*words, "--no-such-option"), "--no-such-option")


@pytest.mark.parametrize("words", [*COMMANDS, DOCTOR], ids=[*NAMES, "doctor"])
def test_2_configuration(tmp_path: Path, words: tuple[str, ...]) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('namespaec = "t"\n')
    absent = tmp_path / "absent.toml"
    expect(2, CommandLine(tmp_path, wrong).run(*words), "namespaec", "namespace")
    expect(2, CommandLine(tmp_path, absent).run(*words), str(absent))


@pytest.mark.parametrize("words", [("relay",), ("status",)], ids=["relay", "status"])
def test_2_before_init(make_installation: MakeInstallation, words: tuple[str, ...]) -> None:
    expect(2, make_installation().command_line.reached(*words), "onecommit init")


@pytest.mark.parametrize("words", COMMANDS[1:], ids=NAMES[1:])
def test_2_before_init_without_a_server(fresh: CommandLine, words: tuple[str, ...]) -> None:
    expect(2, fresh.run(*words), "onecommit init")
    assert not (fresh.folder / "data").exists(), "it has made nothing"


def test_2_a_topic_that_nobody_made(installation: PostgresInstallation) -> None:
    words = ["consume", f"{installation.name}.absent", "--from-beginning", "--max", "1"]
    expect(2, installation.command_line.reached(*words), "onecommit init --topic")


def away(installation: PostgresInstallation, server: str) -> CommandLine:
    """The command line where nobody listens at one server's address."""
    address = f"127.0.0.1:{free_port()}"
    tables: dict[str, dict[str, Table]] = {
        "PostgreSQL": {
            "participants.main": {
                "url": f"postgresql://postgres@{address}/postgres",
                "outbox": True,
                "shards": installation.outbox.shards,
            }
        },
        "Kafka": {"kafka": {"bootstrap.servers": address}},
        "ZooKeeper": {"zookeeper": {"servers": address, "session_timeout_ms": 1500}},
    }
    return CommandLine(installation.folder, installation.configure("away.toml", tables[server]))


@pytest.mark.parametrize(
    ("command", "server"),
    [
        ("init", "PostgreSQL"),
        ("init", "Kafka"),
        ("init", "ZooKeeper"),
        ("status", "PostgreSQL"),
        ("status", "ZooKeeper"),
        ("doctor", "PostgreSQL"),
        ("doctor", "ZooKeeper"),
        ("consume", "Kafka"),
    ],
)
def test_3_a_server_is_away(installation: PostgresInstallation, command: str, server: str) -> None:
    words = [installation.topic, "--from-beginning"] if command == "consume" else []
    away(installation, server).unreached(server, command, *words)


def test_not_3_a_relay_waits_for_a_server_that_is_away(
    installation: PostgresInstallation,
) -> None:
    with closing(away(installation, "PostgreSQL")) as command_line:
        relay = command_line.relay()
        relay.wait_for("waiting, nothing is lost")
        assert relay.running, relay.text()


@pytest.mark.parametrize("words", COMMANDS, ids=NAMES)
def test_4_a_topic_log_of_a_newer_release(embedded: CommandLine, words: tuple[str, ...]) -> None:
    with closing(sqlite3.connect(data(embedded, "topics.db"))) as conn:
        conn.execute(f"pragma user_version = {NEWER}")
    expect(4, embedded.run(*words), str(NEWER))


@pytest.mark.parametrize("words", COMMANDS[:3], ids=NAMES[:3])
def test_4_a_file_that_is_no_database(embedded: CommandLine, words: tuple[str, ...]) -> None:
    path = data(embedded, "main.db")
    for leftover in path.parent.glob("main.db-*"):
        leftover.unlink()
    path.write_text("somebody's notes, " * 100)
    expect(4, embedded.run(*words), "main.db", "not a SQLite database")
    assert path.read_text().startswith("somebody's notes"), "they are as they were"
