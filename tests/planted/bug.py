"""What a planted bug is: a rule, the edit that leaves it out, and the test that notices it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["unit", "model", "rust", "e2e"]
# In the order in which they run: the servers are needed by the last two.
KINDS: tuple[Kind, ...] = ("unit", "model", "rust", "e2e")
WITHOUT_SERVERS: tuple[Kind, ...] = ("unit", "model")


@dataclass(frozen=True, order=True)
class KnownTest:
    """One test: of the crate itself, of `tests/model`, of `tests/rust`, or of `tests/e2e`."""

    kind: Kind
    name: str


def unit(name: str) -> KnownTest:
    """A test beside the code, by its path in the crate."""
    return KnownTest("unit", name)


def model(name: str) -> KnownTest:
    """A test of `tests/model`, by its path there."""
    return KnownTest("model", name)


def rust(name: str) -> KnownTest:
    """A test of `tests/rust`, by its path there."""
    return KnownTest("rust", name)


def e2e(name: str) -> KnownTest:
    """A test of `tests/e2e`, by its file and name there."""
    return KnownTest("e2e", f"tests/e2e/{name}")


@dataclass(frozen=True)
class Edit:
    """Text that stands in a file exactly once, and what takes its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Bug:
    """One rule left out. `says` stands in what the test prints when it notices: who fails for
    another reason has noticed nothing."""

    name: str
    rule: str
    caught_by: KnownTest
    says: str
    edits: Sequence[Edit] = field(repr=False)
