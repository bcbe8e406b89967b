"""What a row says: the case, what comes of it, and what the error names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.planted.bug import KnownTest


class Place(Protocol):
    """What an act finds: an outbox in SQLite and one in PostgreSQL, both empty, and a folder."""

    folder: Path
    lite: Any
    pg: Any

    def publish(self, topic: Any = "t", *, by: Any = None, **parts: Any) -> None:
        """Publishes one message, by SQLite's connection where no other is given."""

    def publish_many(self, messages: Any) -> None:
        """Publishes many by SQLite's connection."""

    def publish_async(self) -> None:
        """Publishes by the asynchronous outbox and PostgreSQL's synchronous connection."""

    def read(self, topic: Any = "t", *, config: Any = "", **arguments: Any) -> None:
        """Opens a reader; a configuration that is a str is the file's text."""


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong.

    `outcome` is the exception's class where there is an act, otherwise what comes of it. `says` are
    texts of the error: what is wrong, where, and what to do; `…` stands for what varies.
    """

    name: str
    outcome: str
    says: Sequence[str]
    act: Callable[[Place], None] | None = None
    cause: str | None = None
    tests: Sequence[KnownTest] = ()


def tried(
    name: str, raises: str, *says: str, act: Callable[[Place], None], cause: str | None = None
) -> Case:
    """A case that its row tries. `cause` is the class of the error behind it."""
    return Case(name, raises, says, act=act, cause=cause)


def proved(name: str, outcome: str, *tests: KnownTest, says: Sequence[str] = ()) -> Case:
    """A case that other tests try."""
    return Case(name, outcome, says, tests=tests)


def python(name: str) -> KnownTest:
    """A test of `tests/python`, by its file and name there."""
    return KnownTest("e2e", f"tests/python/{name}")


def documents(name: str) -> KnownTest:
    """A test of `tests/documents`, by its file and name there."""
    return KnownTest("e2e", f"tests/documents/{name}")
