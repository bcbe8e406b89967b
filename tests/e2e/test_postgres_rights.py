"""Each role runs with exactly the rights that docs/security.md gives it in PostgreSQL, and says
what is missing where one of them is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import onecommit
import psycopg
import pytest

from tests.documents.document import blocks

from .command_line import CONFIGURATION, CommandLine
from .installation import (
    Installation,
    PostgresInstallation,
    Servers,
    Table,
    postgres_to_topic_log,
)
from .waiting import wait_until

DOCUMENT = "docs/security.md"
HEADING = "## Give each role its least rights in PostgreSQL"
GRANT = re.compile(r"grant (?P<rights>.+) on (?P<object>.+) to (?P<role>\w+);")
LACKING = "permission denied for"
DEAD = "dead.topic"
ONCE = "on conflict do nothing"
DISCARDED = """
insert into onecommit.set_aside (id, shard, message_id, topic, reason, request)
select -n, n % 2, gen_random_uuid(), 'any', 'too large', 'discard' from generate_series(1, 2) n
"""
# The rights that a relay has only a use for where a topic is on hold.
HOLDS = ("insert", "update")
SUPPORT = [
    ["dead-letter", "list"],
    ["dead-letter", "retry", "--all", "--wait-seconds", "0"],
    ["dead-letter", "topic", DEAD],
    ["dead-letter", "topic", DEAD, "--undo"],
]


class Grant(NamedTuple):
    """One right on one object."""

    right: str
    object: str
    role: str

    @property
    def sql(self) -> str:
        return f"grant {self.right} on {self.object} to {self.role}"

    @property
    def undone(self) -> str:
        return f"revoke {self.right} on {self.object} from {self.role}"

    @property
    def name(self) -> str:
        """Of the object, as PostgreSQL's error has it."""
        return self.object.split(".")[-1].split()[-1]


def granted(role: str) -> list[Grant]:
    """The rights of a role, as the document gives them."""
    text = "".join(block.text for block in blocks(DOCUMENT, HEADING, {}) if block.language == "sql")
    statements = [GRANT.fullmatch(line) for line in text.splitlines()]
    found = []
    for statement in statements:
        assert statement is not None, text
        if statement["role"] == role:
            rights = re.split(r", (?![^(]*\))", statement["rights"])
            found += [Grant(right, statement["object"], role) for right in rights]
    assert found, f"{DOCUMENT} gives {role} nothing"
    return found


class Place:
    """An installation, and the roles of the document, which may do nothing yet."""

    roles = (
        "orders_writer",
        "orders_relay",
        "orders_status",
        "orders_support",
        "orders_init",
    )

    def __init__(self, installation: Installation, url: str, folder: Path) -> None:
        self.installation = installation
        self.url = url
        self._folder = folder
        self._command_lines: list[CommandLine] = []
        self.owner = psycopg.connect(url, autocommit=True)
        for role in self.roles:
            self.owner.execute(f"create role {role} login")

    def make_tables(self) -> None:
        """As the owner, without `onecommit init`."""
        self.owner.execute(self.installation.command_line.succeed("init", "--print-sql"))

    def give(self, role: str, *, without: Grant | None = None) -> None:
        """Gives a role its rights, and no others."""
        for schema in ("onecommit", "public"):
            self.owner.execute(f"revoke all on all tables in schema {schema} from {role}")
            self.owner.execute(f"revoke all on all sequences in schema {schema} from {role}")
            self.owner.execute(f"revoke all on schema {schema} from {role}")
        for grant in granted(role):
            self.owner.execute(grant.sql)
        if without is not None:
            self.owner.execute(without.undone)

    def command_line(self, role: str) -> CommandLine:
        """What runs as a role."""
        table: Table = {"url": self.url_of(role), "outbox": True, "shards": 2}
        configuration = self.installation.configure(
            f"{role}.toml", other={"participants.main": table}
        )
        made = CommandLine(self._folder, configuration)
        self._command_lines.append(made)
        return made

    def url_of(self, role: str) -> str:
        return self.url.replace("postgres@", f"{role}@")

    def publish(self, topic: str | None = None) -> None:
        """By SQL, as any language would."""
        with psycopg.connect(self.url_of("orders_writer")) as connection:
            call = "select onecommit.publish(%s, 'key', 'value')"
            connection.execute(call, [topic or self.installation.topic])

    def close(self) -> None:
        for command_line in self._command_lines:
            command_line.close()
        for role in self.roles:
            self.owner.execute(f"drop owned by {role}")
            self.owner.execute(f"drop role {role}")
        self.owner.close()


@pytest.fixture
def place(servers: Servers, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        installation = postgres_to_topic_log(servers, tmp_path)
        stack.callback(installation.close)
        made = Place(installation, installation.outbox.url, tmp_path)
        stack.callback(made.close)
        yield made


def test_every_role_does_its_work_with_its_rights(place: Place) -> None:
    place.make_tables()
    topic = place.installation.topic
    place.give("orders_init")
    place.command_line("orders_init").succeed("init", "--topic", topic)
    for role in ("orders_relay", "orders_writer", "orders_status"):
        place.give(role)
    place.publish()
    relay = place.command_line("orders_relay").relay()
    place.publish()
    place.installation.wait_pruned()
    status = place.command_line("orders_status")

    def told() -> bool:
        """A relay that stands still for a moment is no owner."""
        owned = status.succeed("status").count("nothing waits; relay")
        return owned == place.installation.outbox.shards

    wait_until(told, "who delivers is told", explain=relay.text)
    relay.stop()
    assert LACKING not in relay.text()
    consumed = place.command_line("orders_relay").succeed(
        "consume", topic, "--from-beginning", "--max", "2"
    )
    assert len(consumed.splitlines()) == 2


def test_a_relay_says_which_right_it_lacks(place: Place) -> None:
    place.installation.init()
    place.give("orders_writer")
    for grant in granted("orders_relay"):
        if grant.name == "held_topic" and grant.right in HOLDS:
            continue  # a topic log has no topics that could be held: below
        place.give("orders_relay", without=grant)
        # What only a relay that comes into its own has to do.
        place.owner.execute("insert into onecommit.relay values (gen_random_uuid(), 1)")
        place.owner.execute("delete from onecommit.lease where shard = 1")
        # What only one does that has something to set aside, or to discard.
        place.owner.execute(f"insert into onecommit.dead_topic values ('{DEAD}') {ONCE}")
        place.owner.execute(f"{DISCARDED} {ONCE}")
        place.publish()
        place.publish(DEAD)
        relay = place.command_line("orders_relay").relay()
        relay.wait_for(f"{LACKING} .*{grant.name}")
        if not relay.running:
            assert relay.wait() == CONFIGURATION
            assert "lacks a right" in relay.text()
        relay.kill()


@pytest.mark.parametrize(
    ("role", "command", "made"),
    [("orders_status", "status", True), ("orders_init", "init", False)],
)
def test_a_command_says_which_right_it_lacks(
    place: Place, role: str, command: str, made: bool
) -> None:
    if made:
        place.installation.init()
    else:
        place.make_tables()
    for grant in granted(role):
        place.give(role, without=grant)
        done = place.command_line(role).reached(command)
        assert done.returncode == CONFIGURATION, (grant, done)
        assert re.search(f"{LACKING} .*{grant.name}", done.stdout + done.stderr), (grant, done)


def test_a_relay_says_that_it_may_hold_no_topic(servers: Servers, tmp_path: Path) -> None:
    with ExitStack() as stack:
        installation = PostgresInstallation(servers, tmp_path)
        stack.callback(installation.close)
        place = Place(installation, installation.database_url, tmp_path)
        stack.callback(place.close)
        installation.init()
        place.give("orders_writer")
        place.publish(f"{installation.name}.missing")
        for grant in granted("orders_relay"):
            if grant.name == "held_topic" and grant.right in HOLDS:
                place.give("orders_relay", without=grant)
                relay = place.command_line("orders_relay").relay()
                relay.wait_for(f"{LACKING} .*{grant.name}")
                relay.kill()


def test_who_sees_to_dead_letters_does_it_with_these_rights_and_no_fewer(place: Place) -> None:
    place.installation.init()
    place.owner.execute(DISCARDED)
    place.give("orders_support")
    for words in SUPPORT:
        done = place.command_line("orders_support").reached(*words)
        assert done.returncode in (0, 1) and LACKING not in done.stderr, done
    for grant in granted("orders_support"):
        place.give("orders_support", without=grant)
        said = [place.command_line("orders_support").reached(*words) for words in SUPPORT]
        lacking = [done for done in said if re.search(f"{LACKING} .*{grant.name}", done.stderr)]
        assert lacking and all(done.returncode == CONFIGURATION for done in lacking), (grant, said)


def test_a_writer_is_told_which_right_it_lacks(place: Place) -> None:
    place.installation.init()
    for grant in granted("orders_writer"):
        place.give("orders_writer", without=grant)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=grant.name):
            place.publish()


def test_a_writer_in_python_is_told_by_an_exception_of_ours(place: Place) -> None:
    place.installation.init()
    outbox, topic = onecommit.Outbox(), place.installation.topic
    needed = [grant for grant in granted("orders_writer") if not grant.right.startswith("select")]
    assert len(needed) == 2
    for grant in needed:
        place.give("orders_writer", without=grant)
        with (
            psycopg.connect(place.url_of("orders_writer")) as connection,
            pytest.raises(onecommit.ConfigurationError, match="may not publish: grant it") as told,
        ):
            outbox.publish(connection, topic, key="key", value="value")
        assert isinstance(told.value.__cause__, psycopg.errors.InsufficientPrivilege)
    place.give("orders_writer")
    with psycopg.connect(place.url_of("orders_writer")) as connection:
        outbox.publish(connection, topic, key="key", value="value")


def test_init_may_make_everything_where_it_may_create_a_schema(place: Place) -> None:
    place.owner.execute(f"grant create on database {place.installation.name} to orders_init")
    place.command_line("orders_init").succeed("init")
