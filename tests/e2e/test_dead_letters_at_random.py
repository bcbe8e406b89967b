"""Dead letters among ordinary messages, while relays are killed and paused: nothing is lost,
doubled or overtaken by what comes later under its key, and every one can be retried in the end."""

from __future__ import annotations

import random

import pytest

from .dead_letters import TOO_LARGE, SmallTopic
from .installation import PostgresInstallation
from .waiting import wait_until

ROUNDS = 5
TRANSACTIONS = 25
KEYS = 12
DEAD_PERCENT = 4


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_doubled_or_overtaken(
    installation: PostgresInstallation, seed: int
) -> None:
    chance = random.Random(seed)
    small = SmallTopic(installation)
    installation.all_topics.append(small.name)
    relays = [installation.relay(), installation.relay()]
    dead: set[str] = set()
    for _ in range(ROUNDS):
        for _ in range(TRANSACTIONS):
            messages = [message(chance) for _ in range(chance.randint(1, 6))]
            ids = small.commit(*messages)
            too_large = [value is TOO_LARGE for _, value in messages]
            dead.update(one for one, large in zip(ids, too_large, strict=True) if large)
        victim = chance.randrange(len(relays))
        if chance.random() < 0.5:
            relays[victim].kill()
            relays[victim] = installation.relay()
        else:
            relays[victim].pause()
            small.commit((b"other", b"x"))
            relays[victim].resume()
    assert dead, f"seed {seed} makes none"
    # Some of them only wait behind others of their key.
    wait_until(lambda: {letter["message_id"] for letter in small.letters()} <= dead, "no others")
    wait_until(
        lambda: sum(shard["backlog_messages"] for shard in installation.command_line.status()) == 0,
        "all the rest is delivered",
        explain=lambda: "\n".join(relay.text() for relay in relays),
    )
    small.raise_limit()
    while small.letters():
        small.see_to("retry", "--all")
    installation.wait_delivered()
    installation.wait_pruned()
    installation.finish(*relays, at_least=ROUNDS * TRANSACTIONS)


def message(chance: random.Random) -> tuple[bytes | None, bytes]:
    """A key, and a value that is too large now and then."""
    key = f"key-{chance.randrange(KEYS)}".encode()
    return key, TOO_LARGE if chance.randrange(100) < DEAD_PERCENT else b"x"
