"""How commands end, and what they say while they run and of what they find."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from .command_line import BINARY, CONFIGURATION, UNREACHABLE, CommandLine, handles_signals
from .conftest import MakeInstallation
from .installation import Installation, PostgresInstallation, Table, embedded
from .terminal import on_a_terminal
from .waiting import LIMIT_S, wait_until

CTRL_C = 130
MESSAGES = 20


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Installation]:
    """No server; `init` has run, and messages are delivered."""
    with closing(embedded(tmp_path)) as made:
        made.init()
        made.outbox.burst(made.topic, MESSAGES)
        relay = made.relay()
        made.wait_delivered()
        relay.stop()
        yield made


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[CommandLine]:
    """A configuration whose PostgreSQL takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://app@127.0.0.1:{server.getsockname()[1]}/app"
        configuration = tmp_path / "frozen.toml"
        configuration.write_text(f'[participants.main]\nurl = "{url}"\noutbox = true\n')
        yield CommandLine(tmp_path, configuration)


def start(command_line: CommandLine, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command_line.arguments(*words),
        cwd=command_line.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended_by(command_line: CommandLine, number: signal.Signals, *words: str) -> tuple[int, str]:
    """The exit code and the last words of a command that gets a signal."""
    child = start(command_line, *words)
    wait_until(lambda: handles_signals(child.pid), "it handles signals")
    child.send_signal(number)
    _, said = child.communicate(timeout=LIMIT_S)
    return child.returncode, said


@pytest.mark.parametrize("command", ["init", "relay", "status", "doctor", "consume", "demo"])
def test_every_command_tells_its_version(command: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [BINARY, command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and re.search(r" \d+\.\d+\.\d+$", done.stdout), done


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, CTRL_C)], ids=["SIGTERM", "Ctrl-C"]
)
def test_consume_runs_until_it_is_told(
    local: Installation, number: signal.Signals, code: int
) -> None:
    assert ended_by(local.command_line, number, "consume", local.topic) == (code, "")


@pytest.mark.parametrize("command", ["init", "status", "doctor"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 1), (signal.SIGINT, CTRL_C)], ids=["SIGTERM", "Ctrl-C"]
)
def test_a_command_that_is_cut_off_is_not_done(
    frozen: CommandLine, command: str, number: signal.Signals, code: int
) -> None:
    assert ended_by(frozen, number, command) == (code, "")


def test_consume_ends_quietly_when_nobody_reads_on(local: Installation) -> None:
    child = start(local.command_line, "consume", local.topic, "--from-beginning")
    assert child.stdout is not None and child.stderr is not None
    assert child.stdout.readline()
    child.stdout.close()
    # What it printed before fits into the pipe: only another message meets the closed end.
    local.outbox.burst(local.topic, 1)
    relay = local.relay()
    assert child.wait(LIMIT_S) == 0
    assert child.stderr.read() == ""
    child.stderr.close()
    relay.wait_for("delivers")
    relay.stop()


def test_another_command_is_quiet_about_a_closed_pipe_and_not_done(local: Installation) -> None:
    read, write = os.pipe()
    os.close(read)  # before it starts: it might print all into the pipe first
    done = subprocess.run(
        local.command_line.arguments("status"),
        cwd=local.folder,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_relay_logs_in_json_where_that_is_asked_for(local: Installation) -> None:
    child = start(local.command_line, "--json", "relay")
    assert child.stderr is not None
    lines = [json.loads(child.stderr.readline()) for _ in range(2)]
    assert [line["message"] for line in lines] == ["starts", "delivers"]
    assert lines[1]["shard"] == "0" and lines[1]["level"] == "INFO"
    child.terminate()
    _, rest = child.communicate(timeout=LIMIT_S)
    assert child.returncode == 0
    assert all(isinstance(json.loads(line), dict) for line in rest.splitlines()), rest


def test_a_person_who_waits_sees_the_step_and_a_pipe_nothing(frozen: CommandLine) -> None:
    limited = frozen.configuration.read_text() + "[relay]\nrequest_timeout_ms = 6000\n"
    frozen.configuration.write_text(limited)
    code, _, shown = on_a_terminal(frozen.arguments("init"), frozen.folder)
    assert code == 3
    assert re.search(r"\rlooking at the database of main: \d+ s\x1b\[K", shown), shown
    done = frozen.run("init")
    assert "\r" not in done.stderr and "looking" not in done.stderr, done
    assert done.stderr.startswith("onecommit: "), done


def test_status_tells_position_and_age_and_makes_nothing(local: Installation) -> None:
    data = local.folder / "data"
    (data / "leases.db").unlink()
    there = set(data.iterdir())
    told = local.command_line.succeed("status")
    assert (
        re.search(r"delivered: up to id \d\d$", told, re.MULTILINE) and "nothing waits" in told
    ), told
    local.outbox.burst(local.topic, 1)
    told = local.command_line.succeed("status")
    assert re.search(r"1 messages wait, the oldest for \d+\.\d s;", told), told
    for leftover in data.glob("topics.db*"):
        leftover.unlink()
    done = local.command_line.run("status")
    assert done.returncode == UNREACHABLE and "the topic log is not there" in done.stdout, done
    assert {path.name.split("-")[0] for path in data.iterdir()} == {
        path.name.split("-")[0] for path in there
    } - {"topics.db"}


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_a_killed_owner_is_no_owner_any_more(
    kind: str, make_installation: MakeInstallation, tmp_path: Path
) -> None:
    with closing(embedded(tmp_path) if kind == "SQLite" else make_installation()) as made:
        made.init()
        relay = made.relay()
        relay.wait_for("delivers", times=made.outbox.shards)
        # One that stands still for a moment is none either.
        wait_until(lambda: made.owners() == {relay.id()}, "it is told", explain=relay.text)
        relay.kill()
        # PostgreSQL may commit a renewal of the dead one behind the first look for a sign of life.
        wait_until(lambda: made.owners() == {None}, "nobody owns them")


def test_the_demo_takes_the_relay_settings_of_a_file(tmp_path: Path) -> None:
    configuration = tmp_path / "given.toml"
    configuration.write_text("[relay]\nlease_timeout_ms = 600\nbatch_messages = 100\n")
    command_line = CommandLine(tmp_path, configuration)
    told = command_line.succeed("--json", "demo", "--messages", "1000", "--kills", "1")
    assert json.loads(told)["relay_kills"] == 1
    assert list(tmp_path.iterdir()) == [configuration]
    configuration.write_text("[relay]\nlease_timeout = 600\n")
    done = command_line.run("demo")
    assert done.returncode == CONFIGURATION and "lease_timeout_ms" in done.stderr, done


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("compresion.type", "lz4", "did you mean compression.type?"),
        ("linger.ms", "soon", "linger.ms"),
        ("acks", "leader", "can't be set"),
    ],
)
@pytest.mark.parametrize("command", ["relay", "init", "status"])
def test_a_kafka_property_that_is_not_taken_ends_a_command(
    installation: PostgresInstallation, command: str, name: str, value: str, said: str
) -> None:
    kafka: Table = {"bootstrap.servers": installation.servers.kafka, name: value}
    wrong = installation.configure("wrong.toml", {"kafka": kafka})
    done = CommandLine(installation.folder, wrong).reached(command)
    told = done.stdout + done.stderr
    assert done.returncode == CONFIGURATION and said in told and value not in told, done


def test_init_without_the_right_to_make_tables_says_who_can_and_how(
    make_installation: MakeInstallation,
) -> None:
    made = make_installation()
    role = f"{made.name}_relay"
    schema = sql.Identifier("onecommit")
    user = sql.Identifier(role)
    with psycopg.connect(made.database_url, autocommit=True) as owner:
        owner.execute(sql.SQL("create role {} login").format(user))
        try:
            at = urlsplit(made.database_url)
            url = at._replace(netloc=f"{role}@{at.hostname}:{at.port}").geturl()
            table: Table = {"url": url, "outbox": True, "shards": made.outbox.shards}
            limited = made.configure("limited.toml", {"participants.main": table})
            command_line = CommandLine(made.folder, limited)
            done = command_line.reached("init")
            assert done.returncode == CONFIGURATION, done
            assert "onecommit init --print-sql" in done.stderr, done
            owner.execute(command_line.succeed("init", "--print-sql").encode())
            done = command_line.reached("init")
            assert done.returncode == CONFIGURATION and "lacks a right" in done.stderr, done
            grants = (
                "grant usage on schema {0} to {1}; grant all on all tables in schema {0} to {1}"
            )
            owner.execute(sql.SQL(grants).format(schema, user))
            command_line.succeed("init")
            assert command_line.succeed("init", "--print-sql", "--from", "3") == "\n"
        finally:
            owner.execute(sql.SQL("drop owned by {}").format(user))
            owner.execute(sql.SQL("drop role {}").format(user))
