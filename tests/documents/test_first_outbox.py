"""docs/first-outbox.md and the README's first use, from an empty folder to the consumer."""

from __future__ import annotations

from .document import FIRST_USE, README, blocks
from .follower import Follower


def test_the_first_outbox(follower: Follower, put: dict[str, str]) -> None:
    follower.follow(blocks("docs/first-outbox.md", "## Step by step", put))


def test_first_use(follower: Follower, put: dict[str, str]) -> None:
    follower.follow(blocks(README, FIRST_USE, put))
    (message,) = follower.received("account.changed", 1)
    assert (message.key, message.value) == (b"42", b'{"total":100}')
    assert follower.sql("select total from accounts where id = 42") == [(7 - 100,)]
