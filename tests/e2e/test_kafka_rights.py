"""Each role runs with exactly the rights that docs/security.md gives it in Kafka, and says what is
missing where one of them is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from tests.documents.document import blocks

from .command_line import CONFIGURATION, CommandLine
from .installation import Installation, sqlite_to_kafka
from .secured_kafka import Right, SecuredKafka
from .waiting import wait_until

DOCUMENT = "docs/security.md"
HEADING = "## Give each role its least rights in Kafka"
RESOURCES = {"--topic": "TOPIC", "--group": "GROUP", "--transactional-id": "TRANSACTIONAL_ID"}
ROLES = ("init", "relay", "status", "consume")
LACKING = "Kafka does not let this user"


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with SecuredKafka(tmp_path_factory.mktemp("certificates")) as kafka:
        for role in ROLES:
            kafka.make_user(role)
        yield kafka


@pytest.fixture
def place(kafka: SecuredKafka, tmp_path: Path) -> Iterator[Place]:
    with closing(Place(kafka, tmp_path)) as place:
        yield place


class Place:
    """An installation, and the roles of the document, which may do nothing yet."""

    def __init__(self, kafka: SecuredKafka, folder: Path) -> None:
        self.installation: Installation = sqlite_to_kafka(kafka.address, folder)
        self.group = f"{self.installation.name}-readers"
        self.kafka = kafka
        self._folder = folder
        self._command_lines: list[CommandLine] = []
        for role in ROLES:
            kafka.allow(role, [])

    def granted(self, role: str) -> list[Right]:
        """The rights of a role, as the document gives them, with the names of this installation."""
        names = {"onecommit.shop.": f"onecommit.{self.installation.name}."}
        found = []
        for block in blocks(DOCUMENT, HEADING, names):
            for line in block.text.splitlines():
                words = shlex.split(line)
                given = dict(pairwise(words))
                if given["--allow-principal"] == f"User:{role}":
                    found.append(self._right(given))
        assert found, f"{DOCUMENT} gives {role} nothing"
        return found

    def _right(self, given: dict[str, str]) -> Right:
        ((option, name),) = [(word, given[word]) for word in RESOURCES if word in given]
        # The test's topic and group begin with its own name.
        name = re.sub(r"^order\b", self.installation.name, name)
        ending = "*" if given.get("--resource-pattern-type") == "prefixed" else ""
        return Right(given["--operation"].upper(), RESOURCES[option], name + ending)

    def give(self, role: str, *, without: Right | None = None) -> None:
        """Gives a role its rights, and no others."""
        missing = repr(without)
        self.kafka.allow(role, [one for one in self.granted(role) if repr(one) != missing])

    def command_line(self, role: str) -> CommandLine:
        """What runs as a role."""
        properties = self.kafka.properties(user=role)
        configuration = self.installation.configure(f"{role}.toml", other={"kafka": properties})
        made = CommandLine(self._folder, configuration)
        self._command_lines.append(made)
        return made

    def init(self) -> None:
        for role in ROLES:
            self.give(role)
        topic = self.installation.topic
        self.command_line("init").succeed("init", "--topic", topic, "--partitions", "2")

    def close(self) -> None:
        for command_line in self._command_lines:
            command_line.close()
        self.installation.close()


def test_every_role_does_its_work_with_its_rights(place: Place) -> None:
    place.init()
    place.init()  # again, with all there
    place.installation.outbox.burst(place.installation.topic, 30)
    relay = place.command_line("relay").relay()
    place.installation.wait_delivered()
    place.installation.wait_pruned()
    status = place.command_line("status")
    # A relay that stands still for a moment is no owner.
    wait_until(lambda: "nothing waits; relay" in status.succeed("status"), "it is told")
    relay.stop()
    assert LACKING not in relay.text()
    topic = place.installation.topic
    without_group = [one for one in place.granted("consume") if one.resource != "GROUP"]
    for rights, grouped in [
        (without_group, ()),
        (place.granted("consume"), ("--group", place.group)),
    ]:
        place.kafka.allow("consume", rights)
        read = ("consume", topic, "--from-beginning", "--max", "30", *grouped)
        consumed = place.command_line("consume").succeed(*read)
        assert len(consumed.splitlines()) == 30
    place.installation.check_clean(30)


def test_init_says_which_right_it_lacks(place: Place) -> None:
    for right in place.granted("init"):
        place.give("init", without=right)
        done = place.command_line("init").reached("init", "--topic", place.installation.topic)
        assert done.returncode == CONFIGURATION, (right, done)
        assert LACKING in done.stderr or "may not make the topic" in done.stderr, (right, done)


def test_a_relay_says_which_right_it_lacks(place: Place) -> None:
    place.init()
    for right in place.granted("relay"):
        place.give("relay", without=right)
        place.installation.outbox.burst(place.installation.topic, 1)
        relay = place.command_line("relay").relay()
        relay.wait_for(LACKING)
        relay.kill()
    place.give("relay")
    relay = place.command_line("relay").relay()
    place.installation.finish(relay)


@pytest.mark.parametrize("role", ["status", "consume"])
def test_a_reader_says_which_right_it_lacks(place: Place, role: str) -> None:
    place.init()
    words = {
        "status": ("status",),
        "consume": ("consume", place.installation.topic, "--group", place.group),
    }[role]
    for right in place.granted(role):
        place.give(role, without=right)
        done = place.command_line(role).reached(*words)
        assert done.returncode == CONFIGURATION, (right, done)
        assert LACKING in done.stdout + done.stderr, (right, done)
