"""docs/first-outbox.md, the README's first use and the file in docs/configuration.md, followed from
an empty folder to the consumer."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .document import FIRST_USE, README, Block, blocks, text_of
from .follower import Follower


def test_the_first_outbox(follower: Follower, put: Mapping[str, str]) -> None:
    follower.follow(blocks("docs/first-outbox.md", "## Step by step", put))


def test_first_use(follower: Follower, put: Mapping[str, str]) -> None:
    follower.follow(blocks(README, FIRST_USE, put))
    (message,) = follower.received("account.changed", 1)
    assert (message.key, message.value) == (b"42", b'{"total":100}')
    assert follower.sql("select total from accounts where id = 42") == [(7 - 100,)]

    from_sql = re.search(r"^`(select onecommit\.[^`]+)`", text_of(README), re.MULTILINE)
    assert from_sql is not None
    follower.sql(from_sql[1])
    (_, message) = follower.received("account.changed", 2)
    assert (message.key, message.value) == (b"42", b'{"total": 100}')


def test_configuration(follower: Follower, put: Mapping[str, str]) -> None:
    (file,) = blocks("docs/configuration.md", "# Configuration", put)
    (follower.folder / "onecommit.toml").write_text(file.text)
    assert "outbox of orders" in follower.run(Block("sh", "onecommit init\n"))
