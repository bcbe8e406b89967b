"""A data_dir that is full, read-only, locked, no folder or on a network, a broker that allows too
little: what, where and what to do is said; nothing is lost, and it goes on when that is gone."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.servers import Kafka

from .command_line import CONFIGURATION, UNREACHABLE, CommandLine
from .conftest import MakeInstallation
from .installation import Installation, PostgresInstallation, Servers, embedded

FULL_BYTES = 400 * 1024
MESSAGES = 400
VALUE_BYTES = 4_000
NFS = 0x6969
COMMANDS = [("init",), ("relay",), ("status",), ("consume", "t", "--from-beginning", "--max", "1")]
# Mounts the folder over itself, proves that nothing can be written there, and runs the command.
ON_A_READ_ONLY_DISK = """
mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" &&
! touch "$0/probe" 2>"$0.hit" && exec "$@"
"""


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Installation]:
    """No server; `init` has run."""
    with closing(embedded(tmp_path)) as made:
        made.init()
        yield made


def with_little_room(installation: Installation, *words: str) -> subprocess.Popen[str]:
    """A command that may write no file larger than a little, as on a disk that is full."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error then, as of a disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_BYTES, FULL_BYTES))

    return subprocess.Popen(
        installation.command_line.arguments(*words),
        cwd=installation.folder,
        preexec_fn=limit,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_full_data_dir_stops_nothing_for_good(local: Installation) -> None:
    local.outbox.burst(local.topic, MESSAGES, VALUE_BYTES)
    relay = with_little_room(local, "relay")
    assert relay.stdout is not None
    try:
        said = next(line for line in relay.stdout if "WARN" in line and "the disk" in line)
        assert "topics.db" in said or "data" in said or "append to topic log" in said, said
        assert relay.poll() is None, "it waits"
    finally:
        relay.kill()
        relay.communicate()
    again = local.relay()
    local.finish(again, at_least=MESSAGES)


def test_a_data_dir_that_is_no_folder_or_not_to_be_written_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    for place in (taken, Path("/proc/onecommit")):
        configuration = tmp_path / "onecommit.toml"
        configuration.write_text(f'data_dir = "{place}"\n')
        for words in (["init"], ["relay"], ["status"]):
            done = CommandLine(tmp_path, configuration).run(*words)
            assert done.returncode == CONFIGURATION, done
            said = done.stderr + done.stdout
            assert str(place) in said or (words != ["init"] and "`onecommit init`" in said), done


def run(installation: Installation, before: list[str], words: tuple[str, ...]) -> str:
    """What a command says that has to end as for a wrong configuration."""
    command = [*before, *installation.command_line.arguments(*words)]
    done = subprocess.run(
        command, cwd=installation.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == CONFIGURATION, done
    return done.stdout + done.stderr


@pytest.mark.parametrize("words", COMMANDS, ids=[words[0] for words in COMMANDS])
def test_a_folder_on_a_read_only_disk_is_named(local: Installation, words: tuple[str, ...]) -> None:
    local.outbox.burst(local.topic, 10)
    # Its own mounts, so that nobody else sees this one.
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    place = local.folder / "data"
    said = run(local, [*unshare, "sh", "-c", ON_A_READ_ONLY_DISK, str(place)], words)
    assert "Read-only file system" in place.with_name("data.hit").read_text()
    assert str(place) in said and "that its file system is not read-only" in said, said
    local.finish(local.relay(), at_least=10)


@pytest.mark.parametrize("words", COMMANDS, ids=[words[0] for words in COMMANDS])
def test_files_on_a_network_file_system_are_not_opened(
    local: Installation, words: tuple[str, ...]
) -> None:
    local.outbox.burst(local.topic, 10)
    # The kernel's answer is changed: it calls every file system NFS.
    trace, nfs = local.folder / "trace", NFS.to_bytes(8, sys.byteorder).hex()
    strace = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=statfs"]
    said = run(local, [*strace, "-e", f"inject=statfs:poke_exit=@arg2={nfs}"], words)
    assert "INJECTED" in trace.read_text()
    assert "network file system" in said and "NFS" in said, said
    assert str(local.folder) in said and "local disk" in said, said
    local.finish(local.relay(), at_least=10)


def test_a_file_that_another_process_holds_is_waited_for_and_named(local: Installation) -> None:
    local.relay_settings["request_timeout_ms"] = 300
    local.configure()
    local.outbox.burst(local.topic, 10)
    outbox = next(path for path in local.folder.rglob("*.db") if is_outbox(path))
    with closing(sqlite3.connect(outbox, isolation_level=None)) as holder:
        holder.execute("begin immediate")
        relay = local.relay()
        relay.wait_for("the file is locked: another process holds its write lock")
        done = local.command_line.run("init")
        assert done.returncode == UNREACHABLE and "write lock" in done.stderr, done
        holder.execute("rollback")
    local.finish(relay, at_least=10)


def is_outbox(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "select 1 from sqlite_master where name = 'onecommit_outbox'"
        ).fetchone()
    return found is not None


@pytest.fixture
def strict_kafka() -> Iterator[Kafka]:
    """A broker of the test's own, which allows no transaction to be open for long."""
    with Kafka(properties={"transaction.max.timeout.ms": "9000"}) as own:
        yield own


def test_a_broker_that_allows_no_transaction_of_ours_is_named(
    strict_kafka: Kafka, make_installation: MakeInstallation, servers: Servers
) -> None:
    made = make_installation(replace(servers, kafka=strict_kafka.address))
    made.init()
    made.outbox.burst(made.topic, 5)
    relay = made.relay()
    relay.wait_for("transaction.max.timeout.ms is below the 10000 ms")
    relay.stop()


def test_two_installations_with_one_namespace_on_one_kafka_do_not_know_each_other(
    make_installation: MakeInstallation, servers: Servers, tmp_path: Path
) -> None:
    """Their incarnations tell them apart."""
    first = make_installation()
    folder = tmp_path / "second"
    folder.mkdir()
    second = PostgresInstallation(servers, folder)
    second.name = first.name
    second.configure()
    first.init()
    second.init()
    relays = [first.relay(), second.relay()]
    for made in (first, second):
        made.outbox.burst(made.topic, 20)
    for made, relay in zip((first, second), relays, strict=True):
        made.finish(relay, at_least=20)
    second.close()
