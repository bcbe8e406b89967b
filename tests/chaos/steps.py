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
    FORGET = "it keeps fewer outcomes than there are"
    FIND = "it finds what is nobody's any more: decisions, or a place in a lock's queue"


# A place of the decision log, and what is done there; or what is done in every place.
WAYS = {
    "take_over": Way.RECOVER,
    "remove": Way.RECOVER,
    "keep_outcomes": Way.RECOVER,
    "close_history": Way.RECOVER,
    "let_go": Way.RECOVER,
    "file_lock.discard": Way.RECOVER,
    "adopt_orphan": Way.ORPHAN,
    "zookeeper_log.forget_outcomes": Way.FORGET,
    "zookeeper_log.discard": Way.FIND,
    "zookeeper_lock.discard": Way.FIND,
}
# A look for the dead that fails is followed by another one, behind the first locks; and who does
# not know whether it has taken over lets go.
FAILS_BEFORE = {
    "file_lock.discard": "file_log.take_over.after_commit=error",
    "zookeeper_log.let_go": "zookeeper_log.take_over.after_commit=error",
}
# What happens again and again is met at its third time: the first is often a special one.
IS_OF_MANY = {"record", "decide", "mark", "end", "enter", "leave", "note_wait", "forget_wait"}


@dataclass(frozen=True)
class Step:
    """One side of a durable step, with the decision log in one of its places."""

    name: str
    log: str

    @property
    def is_behind(self) -> bool:
        """Whether what it does is durable there."""
        return self.name.endswith(".after_commit")

    @property
    def whole(self) -> str:
        """Without its side."""
        return self.name.rpartition(".")[0]

    @property
    def is_of_many(self) -> bool:
        return self.whole.split(".")[1] in IS_OF_MANY

    @property
    def hit(self) -> int:
        return 3 if self.is_of_many else 1

    @property
    def way(self) -> Way:
        return WAYS.get(self.whole) or WAYS.get(self.whole.split(".")[1], Way.WORK)

    def armed(self, action: str) -> str:
        """As the failpoints of a worker are written."""
        before = FAILS_BEFORE.get(self.whole)
        return ";".join([*([before] if before else []), f"{self.name}={action}@{self.hit}"])

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
