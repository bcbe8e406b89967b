"""The checker itself: it finds what is planted, in lists and in the work of a wrong relay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

import psycopg
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from .checker import Committed, Kind, Record, Report, compare
from .conftest import MakeInstallation, OwnServers
from .installation import PostgresInstallation, Servers
from .kafka_topics import REQUEST_LIMIT_S
from .postgres_crash import next_xid, nothing_flushed_by_itself
from .postgres_outbox import publish
from .wrong_relay import Bugs, WrongRelay

KEYS = [b"a", b"b", b"", None]
COMMITTED = [
    Committed(f"m{number}", "t", KEYS[number % len(KEYS)], number, f"d{number}")
    for number in range(40)
]


def delivered(committed: list[Committed] = COMMITTED) -> list[Record]:
    """Each message once, a partition for each key, in order."""
    offsets = dict.fromkeys(range(len(KEYS)), 0)
    records = []
    for message in committed:
        partition = KEYS.index(message.key)
        records.append(
            Record(
                message.message_id,
                message.topic,
                partition,
                offsets[partition],
                message.key,
                message.digest,
            )
        )
        offsets[partition] += 1
    return records


def judged(visible: list[Record], written: list[Record] | None = None) -> Report:
    return compare(COMMITTED, visible, visible if written is None else written)


def test_a_clean_delivery_is_clean() -> None:
    assert not judged(delivered()).findings


def test_a_lost_message_is_named_with_its_neighbours() -> None:
    records = delivered()
    (finding,) = judged(records[:8] + records[9:]).findings
    assert (finding.kind, finding.message_id, finding.key) == ("lost", "m8", b"a")
    assert (finding.partition, finding.offsets) == (0, (1, 3))


def test_a_lost_message_that_was_aborted_is_named_with_its_offset() -> None:
    records = delivered()
    (finding,) = judged(records[:8] + records[9:], records).findings
    assert (finding.kind, finding.partition, finding.offsets) == ("lost", 0, (2,))
    assert "aborted" in finding.why


def test_everything_lost_is_found_without_any_record() -> None:
    assert judged([]).counts() == {"lost": len(COMMITTED)}


def test_a_duplicate_is_named_with_all_its_offsets() -> None:
    records = delivered()
    (finding,) = judged([*records, replace(records[5], offset=77)]).findings
    assert (finding.kind, finding.message_id) == ("duplicate", "m5")
    assert (finding.key, finding.partition, finding.offsets) == (b"b", 1, (1, 77))


def test_a_late_duplicate_is_not_called_out_of_order_too() -> None:
    records = delivered()
    assert judged([*records, replace(records[0], offset=99)]).counts() == {"duplicate": 1}


def test_two_messages_exchanged_are_out_of_order() -> None:
    records = delivered()
    first, second = records[4], records[8]
    records[4], records[8] = (
        replace(second, offset=first.offset),
        replace(first, offset=second.offset),
    )
    (finding,) = judged(records).findings
    assert (finding.kind, finding.key, finding.partition) == ("out_of_order", b"a", 0)
    assert finding.offsets == (1, 2)


def test_a_key_in_two_partitions_is_out_of_order() -> None:
    records = delivered()
    records[4] = replace(records[4], partition=2, offset=88)
    assert judged(records).counts() == {"out_of_order": 1}


def test_messages_without_a_key_have_no_order() -> None:
    records = delivered()
    records[3], records[7] = (
        replace(records[7], offset=records[3].offset),
        replace(records[3], offset=records[7].offset),
    )
    assert not judged(records).findings


@pytest.mark.parametrize(
    "change",
    [
        {"message_id": "unknown"},
        {"message_id": None},
    ],
)
def test_a_record_that_nobody_committed_is_a_phantom(change: dict[str, str | None]) -> None:
    stranger = replace(delivered()[0], offset=55, **change)  # type: ignore[arg-type]
    (finding,) = judged([*delivered(), stranger]).findings
    assert (finding.kind, finding.partition, finding.offsets) == ("phantom", 0, (55,))


@pytest.mark.parametrize("change", [{"key": b"b"}, {"digest": "x"}, {"topic": "u"}])
def test_a_message_with_other_contents_is_a_phantom_and_lost(change: dict[str, str]) -> None:
    records = delivered()
    records[4] = replace(records[4], **change)  # type: ignore[arg-type]
    assert judged(records).counts() == {"phantom": 1, "lost": 1}


@dataclass(frozen=True)
class Scene:
    """Where a mistake is provoked."""

    made: PostgresInstallation
    own: OwnServers
    bugs: Bugs
    lives: ExitStack

    def relay(self) -> WrongRelay:
        """The next life of the relay."""
        made = self.made
        relay = WrongRelay(made.database_url, made.servers.kafka, made.topic, self.bugs)
        return self.lives.enter_context(closing(relay))

    def commit(self, *keys: bytes, synchronous_commit: str = "on") -> None:
        with self.made.postgres.connect() as connection:
            connection.execute(f"set synchronous_commit = {synchronous_commit}")
            for key in keys:
                publish(connection, self.made.topic, key, b"value")


def commits_that_are_late(scene: Scene) -> None:
    """A transaction draws its ids before another one, and commits behind it."""
    relay = scene.relay()
    with scene.made.postgres.connect() as late:
        publish(late, scene.made.topic, b"late", b"value")
        scene.commit(b"early")
        relay.step()
    relay.step()


class DiedError(Exception):
    """Raised where a test lets a relay die."""


def death_before_the_commit(scene: Scene) -> None:
    """All is sent, nothing is committed; the next one takes over."""

    def die() -> None:
        raise DiedError

    scene.commit(b"a", b"b", b"a")
    with pytest.raises(DiedError):
        scene.relay().step(die)
    scene.relay().step()


def return_of_a_zombie(scene: Scene) -> None:
    """A relay sleeps before its commit, another one delivers, the first one wakes up."""
    scene.commit(b"a", b"b")
    try:
        scene.relay().step(before_commit=lambda: scene.relay().step())
    except KafkaException:
        assert not scene.bugs.no_fence


def crash_of_the_database(scene: Scene) -> None:
    """The database forgets what was not flushed, and gives its transaction numbers out again."""
    postgres = scene.own.postgres
    scene.commit(b"before")
    relay = scene.relay()
    relay.step()
    with nothing_flushed_by_itself(postgres) as crash:
        for _ in range(3):
            with scene.made.postgres.connect() as connection:
                publish(connection, scene.made.topic, b"rolled-back", b"value")
                connection.rollback()
        scene.commit(b"asynchronous", synchronous_commit="off")
        relay.step()
        before = next_xid(postgres)
        crash()
    postgres.start()
    assert (next_xid(postgres) < before) == scene.bugs.no_barrier
    with pytest.raises(psycopg.OperationalError):
        relay.step()
    scene.commit(b"a")
    scene.commit(b"b")
    scene.relay().step()


@dataclass(frozen=True)
class Planted:
    """A mistake, what provokes it, and what it does to messages."""

    bugs: Bugs
    provocations: Sequence[Callable[[Scene], None]]
    expected: set[Kind]


ALL = [
    commits_that_are_late,
    death_before_the_commit,
    return_of_a_zombie,
    crash_of_the_database,
]
PLANTED = {
    "nothing": Planted(Bugs(), ALL, set()),
    "position before commit": Planted(
        Bugs(position_before_commit=True), [death_before_the_commit], {"lost"}
    ),
    "id > last": Planted(Bugs(id_above_last=True), [commits_that_are_late], {"lost"}),
    "no fence": Planted(Bugs(no_fence=True), [return_of_a_zombie], {"duplicate"}),
    "no barrier": Planted(Bugs(no_barrier=True), [crash_of_the_database], {"lost", "phantom"}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_checker_judges_a_relay_with(
    name: str, own_servers: OwnServers, servers: Servers, make_installation: MakeInstallation
) -> None:
    planted = PLANTED[name]
    made = make_installation(replace(servers, postgres=own_servers.postgres.dsn))
    made.init()
    admin = AdminClient({"bootstrap.servers": servers.kafka})
    progress = NewTopic(f"{made.topic}.wrong-progress", 1, 1)
    for answer in admin.create_topics([progress]).values():
        answer.result(timeout=REQUEST_LIMIT_S)
    with ExitStack() as lives:
        for provoke in planted.provocations:
            provoke(Scene(made, own_servers, planted.bugs, lives))
    report = made.report()
    assert set(report.counts()) == planted.expected, str(report)
    for finding in report.findings:
        assert finding.message_id and finding.key and finding.partition is not None
        assert finding.offsets
