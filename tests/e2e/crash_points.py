"""Every named place of the program at which a test kills or pauses it, and how it gets there.

A place stands here once for each way in which it is reached: on which stores, by which command,
and at which of its hits. `test_crash_points` runs them all, and fails for a place that is missing.
The places of transactions over several databases, and of locks, are those of
`tests/rust/coordinator/crash.rs`, which has a test of its own that none is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .command_line import ROOT

Stores = Literal["postgres", "zookeeper", "postgres_to_topic_log", "embedded"]
Way = Literal[
    "init",
    "relay",
    "stop",
    "share",
    "error",
    "outlive",
    "consume",
    "aside",
    "empty",
    "ask",
    "pause",
    "pause_aside",
    "adopt",
    "remove",
    "set",
    "guard",
]
# The rooms whose places `tests/rust/coordinator/crash.rs` has.
OF_TRANSACTIONS = ("coordinator", "decision_log", "lock", "participant")
NAME = re.compile(r'failpoint!\("([^"]+)"\)')


@dataclass(frozen=True)
class CrashPoint:
    """One place, reached in one way."""

    stores: Stores
    way: Way
    name: str
    hit: int = 1

    def __str__(self) -> str:
        return f"{self.stores}-{self.way}-{self.name}@{self.hit}"

    @property
    def failpoints(self) -> str:
        """For the environment of the process that is to die."""
        action = "stop" if self.way in ("pause", "pause_aside") else "kill"
        point = f"{self.name}={action}@{self.hit}"
        return f"relay.batch.sent=error@2;{point}" if self.way == "error" else point


def names_in_sources() -> set[str]:
    """The places that the program has, without those of transactions and of locks."""
    found: set[str] = set()
    for file in (ROOT / "src").rglob("*.rs"):
        if file.relative_to(ROOT / "src").parts[0] in OF_TRANSACTIONS:
            continue
        code = [
            line for line in file.read_text().splitlines() if not line.lstrip().startswith("//")
        ]
        found.update(NAME.findall("\n".join(code)))
    return found


def both(*steps: str) -> list[str]:
    """The places before and behind the commits of some steps."""
    return [f"{step}.{side}_commit" for step in steps for side in ("before", "after")]


RELAY = ["relay.take.after_lease", "relay.batch.sent", "relay.batch.committed"]
OUTBOX = both("outbox.claim", "outbox.birth", "outbox.resume", "outbox.barrier", "outbox.prune")
KAFKA = ["delivery.fence.before_init", "delivery.fence.after_init"]
KAFKA += ["delivery.commit.before", "delivery.commit.after"]
TOPIC_LOG = both("topic_log.take", "topic_log.append")
# Steps that come again and again, killed in the middle too: the first hit is often a special one.
REPEATED = [
    "relay.batch.sent",
    "relay.batch.committed",
    *both("outbox.barrier", "outbox.prune", "topic_log.append"),
    "delivery.commit.before",
    "delivery.commit.after",
]
GROUPS: list[tuple[Stores, Way, list[str]]] = [
    ("embedded", "init", both("sqlite.birth", "init.outbox", "topic_log.create_topic")),
    ("embedded", "relay", [*RELAY, *OUTBOX, *TOPIC_LOG]),
    ("embedded", "relay", both("sqlite.birth", "lease.open", "lease.renew", "lease.take")),
    ("embedded", "relay", both("file_group.join")),
    ("embedded", "share", both("lease.release")),
    ("embedded", "stop", [*both("lease.leave", "file_group.leave"), "relay.leave.before"]),
    ("embedded", "error", both("outbox.note_error")),
    ("embedded", "consume", both("topic_log.commit_offset")),
    ("embedded", "set", both("file_settings.write")),
    ("postgres", "init", [*both("init.outbox"), "kafka.create_topic.before"]),
    ("postgres", "init", ["kafka.create_topic.after"]),
    ("postgres", "relay", [*RELAY, *OUTBOX, *KAFKA]),
    ("postgres", "relay", both("postgres_lease.renew", "postgres_lease.take")),
    ("postgres", "share", both("postgres_lease.release")),
    ("postgres", "stop", [*both("postgres_lease.leave"), "relay.leave.before"]),
    ("postgres", "error", both("outbox.note_error")),
    ("postgres", "aside", [*both("outbox.set_aside", "outbox.clear"), "relay.aside.committed"]),
    ("postgres", "aside", ["relay.renew.before"]),
    ("postgres", "empty", both("outbox.truncate")),
    ("postgres", "ask", both("outbox.ask", "outbox.declare_topic")),
    ("postgres", "outlive", both("postgres_lease.remove")),
    ("postgres_to_topic_log", "relay", both("outbox.barrier", "topic_log.append")),
    ("zookeeper", "init", both("zookeeper.init")),
    ("zookeeper", "relay", both("zookeeper_lease.join", "zookeeper_lease.take")),
    ("zookeeper", "share", both("zookeeper_lease.release")),
    ("zookeeper", "relay", both("zookeeper_group.join")),
    ("zookeeper", "stop", both("zookeeper_lease.leave", "zookeeper_group.leave")),
    ("zookeeper", "set", both("zookeeper_settings.write")),
    ("zookeeper", "guard", both("zookeeper.guard")),
]
# An adoption of two shards of PostgreSQL prepares by two transactions, and notes by a third.
ADOPTIONS = [
    *(CrashPoint("embedded", "adopt", name) for name in both("outbox.adopt", "topic_log.take")),
    *(CrashPoint("embedded", "adopt", name) for name in both("topic_log.append")),
    *(CrashPoint("embedded", "adopt", name, hit=2) for name in both("outbox.adopt")),
    *(CrashPoint("postgres", "adopt", name) for name in both("outbox.adopt", "outbox.claim")),
    *(CrashPoint("postgres", "adopt", name, hit=2) for name in both("outbox.adopt")),
    *(CrashPoint("postgres", "adopt", name, hit=3) for name in both("outbox.adopt")),
    CrashPoint("postgres", "adopt", "postgres_lease.take.after_commit", hit=2),
    CrashPoint("postgres", "adopt", "delivery.fence.after_init"),
    CrashPoint("postgres", "adopt", "delivery.commit.before"),
    CrashPoint("postgres", "adopt", "delivery.commit.after"),
    CrashPoint("postgres", "adopt", "delivery.commit.after", hit=2),
    *(CrashPoint("zookeeper", "adopt", name) for name in both("zookeeper.adopt")),
    CrashPoint("zookeeper", "adopt", "kafka.create_topic.after"),
]
REMOVALS = [
    *(CrashPoint("embedded", "remove", name) for name in both("topic_log.remove", "outbox.remove")),
    *(CrashPoint("embedded", "remove", name) for name in both("decision_log.remove")),
    *(CrashPoint("zookeeper", "remove", name) for name in both("outbox.remove")),
    *(CrashPoint("zookeeper", "remove", name, hit=3) for name in both("zookeeper.remove")),
    CrashPoint("zookeeper", "remove", "kafka.delete_topic.before"),
    CrashPoint("zookeeper", "remove", "kafka.delete_topic.after"),
]
# Those at which nothing is recorded yet.
BEFORE_RECORDS = ("relay.renew", "outbox.set_aside")
# Where a relay may hold what its successor must not have to wait for.
PAUSES = [
    CrashPoint("postgres", "pause", "relay.take.after_lease"),
    CrashPoint("postgres", "pause", "outbox.claim.before_commit"),
    CrashPoint("postgres", "pause", "delivery.fence.after_init"),
    CrashPoint("postgres", "pause", "outbox.barrier.before_commit", hit=2),
    CrashPoint("postgres", "pause", "outbox.barrier.after_commit", hit=2),
    CrashPoint("postgres", "pause", "relay.batch.sent", hit=2),
    CrashPoint("postgres", "pause", "delivery.commit.before", hit=4),
    CrashPoint("postgres", "pause", "outbox.prune.before_commit", hit=2),
    CrashPoint("postgres", "pause_aside", "relay.renew.before"),
    CrashPoint("postgres", "pause_aside", "outbox.set_aside.before_commit"),
    CrashPoint("postgres", "pause_aside", "outbox.clear.before_commit"),
    CrashPoint("postgres", "pause_aside", "relay.aside.committed"),
    CrashPoint("zookeeper", "pause", "zookeeper_lease.take.before_commit"),
    CrashPoint("zookeeper", "pause", "relay.batch.sent", hit=2),
]


def crash_points() -> Iterator[CrashPoint]:
    """All of them."""
    for stores, way, names in GROUPS:
        for name in names:
            yield CrashPoint(stores, way, name)
            if way == "relay" and name in REPEATED and stores != "postgres_to_topic_log":
                yield CrashPoint(stores, way, name, hit=4)
    yield from PAUSES
    yield from ADOPTIONS
    yield from REMOVALS
