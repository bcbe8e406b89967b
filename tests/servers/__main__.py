"""Starts the real servers for tests: `up`, `run -- COMMAND`, or `fetch` to download only.

Prints or passes on each server's address as an environment variable. A variable that is set
already means a server of the person's own: that one is used and none is started. Promises that
whatever ends this process, the servers and the command end with it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType

from .ensemble import Ensemble
from .fetch import APT_POSTGRES, kafka_jars, postgres_programs, zookeeper_jars
from .kafka import Kafka
from .postgres import Postgres
from .process import Process, ServerError
from .zookeeper import ZooKeeper

POSTGRES = "ONECOMMIT_TEST_POSTGRES"
KAFKA = "ONECOMMIT_TEST_KAFKA"
ZOOKEEPER = "ONECOMMIT_TEST_ZOOKEEPER"
ENSEMBLE = "ONECOMMIT_TEST_ZOOKEEPER_ENSEMBLE"
KINDS = ("postgres", "kafka", "zookeeper")
OTHER_POSTGRES = ("13", "18")  # the oldest and the newest that are supported

Startable = Postgres | Kafka | ZooKeeper | Ensemble


@dataclass(frozen=True)
class Wanted:
    """A server to start, and the variable that tells its address."""

    variable: str
    server: Startable

    @property
    def address(self) -> str:
        return self.server.dsn if isinstance(self.server, Postgres) else self.server.address


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the command after the first `--`."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    command = list(arguments[at + 1 :])
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up", help="start, print the variables, stay until SIGTERM or SIGINT")
    run = actions.add_parser("run", help="start, run `-- COMMAND...`, stop; exits as COMMAND does")
    actions.add_parser("fetch", help="only download")
    for action in (up, run):
        action.add_argument("--only", type=_list_of(KINDS), default=list(KINDS), metavar="KINDS")
        action.add_argument(
            "--postgres-versions",
            type=_list_of(None),
            default=[],
            metavar="VERSIONS",
            help="further PostgreSQL servers, as in 13,18",
        )
        action.add_argument(
            "--zookeeper-members",
            type=int,
            metavar="MEMBERS",
            help="also an ensemble of so many",
        )
        action.add_argument("--kafka-heap", default="512m", help="default: %(default)s")
        action.add_argument(
            "--kafka-property",
            type=_property,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="of the broker; several times",
        )
    given = parser.parse_args(arguments[:at])
    if (given.action == "run") != bool(command):
        parser.error("a command after `--` belongs to `run`, and `run` needs one")
    return given, command


def _list_of(allowed: Sequence[str] | None) -> Callable[[str], list[str]]:
    def split(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        for name in names:
            if allowed is not None and name not in allowed:
                known = ", ".join(allowed)
                raise argparse.ArgumentTypeError(f"{name!r} is none of {known}")
        return names

    return split


def _property(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def makers(given: argparse.Namespace) -> dict[str, Callable[[], Startable]]:
    """The variables that are asked for, each with a way to make its server."""
    found: dict[str, Callable[[], Startable]] = {}
    if "kafka" in given.only:  # first, as it takes longest
        properties = dict(given.kafka_property)
        found[KAFKA] = lambda: Kafka(heap=given.kafka_heap, options=(), properties=properties)
    if "zookeeper" in given.only:
        found[ZOOKEEPER] = ZooKeeper
    if "postgres" in given.only:
        found[POSTGRES] = Postgres
    if given.zookeeper_members:
        found[ENSEMBLE] = lambda: Ensemble(given.zookeeper_members)
    for version in given.postgres_versions:
        found[f"{POSTGRES}_{version}"] = partial(Postgres, version)
    return found


def start_all(wanted: Sequence[Wanted]) -> None:
    """Starts all at once; raises the first error when all have started or failed."""
    failures: list[Exception] = []

    def start(one: Wanted) -> None:
        begin = time.monotonic()
        try:
            one.server.start()
        except Exception as error:
            failures.append(error)
        else:
            seconds = time.monotonic() - begin
            print(f"{one.variable}={one.address} after {seconds:.1f} s", file=sys.stderr)

    # daemons: an interrupt does not wait for them, and the guards end what they still start
    threads = [threading.Thread(target=start, args=[one], daemon=True) for one in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def up(variables: dict[str, str]) -> int:
    """Shows the variables and stays until SIGTERM or SIGINT."""
    for name, value in variables.items():
        print(f"{name}={value}", flush=True)
    while True:
        signal.pause()


def run(variables: dict[str, str], command: Sequence[str]) -> int:
    """Runs the command with the variables, and passes signals on to it."""
    process = Process(command, environment={**os.environ, **variables})

    def pass_on(number: int, _frame: FrameType | None) -> None:
        process.signal(signal.Signals(number))

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not _at_terminal():  # a terminal's Ctrl-C has reached the command already
            pass_on(number, frame)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, interrupt)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, leave)
        signal.signal(signal.SIGINT, leave)


def _at_terminal() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return False


def fetch() -> int:
    for folder in (kafka_jars(), zookeeper_jars()):
        print(folder)
    for version in (APT_POSTGRES, *OTHER_POSTGRES):
        print(postgres_programs(version))
    return 0


def leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str]) -> int:
    given, command = parse(arguments)
    if given.action == "fetch":
        return fetch()
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    asked_for = makers(given)
    variables = {name: os.environ[name] for name in asked_for if os.environ.get(name)}
    wanted = [Wanted(name, make()) for name, make in asked_for.items() if name not in variables]
    try:
        start_all(wanted)
        variables.update({one.variable: one.address for one in wanted})
        return run(variables, command) if command else up(variables)
    finally:
        for one in wanted:
            one.server.close()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ServerError as error:
        sys.exit(f"tests.servers: {error}")
