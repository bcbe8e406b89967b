"""The named steps of a transaction, as the sources have them, and how a worker gets to each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from tests.e2e.command_line import ROOT

ROOMS = ["participant", "decision_log", "lock"]
NAME = re.compile(r'failpoint!\("(\w+\.\w+\.(?:before|after)_commit)"\)')
FILE, ZOOKEEPER = "file", "zookeeper"


class Way(Enum):
    """How a worker gets to a step."""

    WORK = "it moves money, and wants a lock that others want too"
    RECOVER = "it settles what two dead workers left, one undecided and one decided"
    ORPHAN = "it ends a branch that was prepared behind the end of its coordinator"


# Of those of a log or of locks, without the store's name before them.
RECOVERS = {"take_over", "remove", "keep_outcomes", "close_history"}
ENDS_AN_ORPHAN = {"adopt_orphan"}
# What happens again and again is met at its third time: the first is often a special one.
IS_OF_MANY = {"record", "decide", "mark", "end", "enter", "leave", "note_wait", "forget_wait"}
OUT_OF_REACH = {
    "discard": "only what a later failure leaves behind a removal is discarded",
    "let_go": "only who has taken over what it may not settle lets it go",
    "forget_outcomes": "only outcomes beyond a limit are forgotten",
}


@dataclass(frozen=True)
class Step:
    """One side of a durable step, with the decision log in one of its places."""

    name: str
    log: str

    @property
    def short(self) -> str:
        return self.name.split(".")[1]

    @property
    def is_behind(self) -> bool:
        """Whether what it does is durable there."""
        return self.name.endswith(".after_commit")

    @property
    def hit(self) -> int:
        return 3 if self.short in IS_OF_MANY else 1

    @property
    def way(self) -> Way:
        if self.short in RECOVERS:
            return Way.RECOVER
        return Way.ORPHAN if self.short in ENDS_AN_ORPHAN else Way.WORK

    def __str__(self) -> str:
        return f"{self.name} with the log in {self.log}"


def names() -> list[str]:
    """All that the sources have, in a fixed order."""
    found: set[str] = set()
    for room in ROOMS:
        for path in (ROOT / "src" / room).rglob("*.rs"):
            found.update(NAME.findall(path.read_text()))
    return sorted(found)


def all_steps() -> list[Step]:
    """With both places of the decision log, those of a participant in each."""
    return [step for name in names() for log in logs_of(name) if (step := Step(name, log))]


def logs_of(name: str) -> list[str]:
    room = name.split(".")[0]
    return [log for log in (ZOOKEEPER, FILE) if room == "participant" or room.startswith(log)]


def in_reach() -> list[Step]:
    return [step for step in all_steps() if step.short not in OUT_OF_REACH]


def out_of_reach() -> dict[str, str]:
    """Those that no case meets, and why: the crash tests in Rust prepare what they need."""
    return {
        step.name: OUT_OF_REACH[step.short] for step in all_steps() if step.short in OUT_OF_REACH
    }
