"""A relay is succeeded at the worst moments: nothing comes twice, and nobody fences its successor.

There is one shard, so that a failpoint is hit by nobody else's doing.
"""

from __future__ import annotations

import re

import pytest

from .conftest import MakeInstallation
from .dead_letters import TOO_LARGE, SmallTopic
from .installation import PostgresInstallation
from .test_relay import commit
from .waiting import wait_until

FENCE = "delivery.fence.before_init"
SMALL = b"small"
# A shard, or with its connections all that it holds.
GIVES_UP = "(waits|waiting), nothing is lost"
# Said by the relay, or by Kafka to it.
FENCED = "another relay has|Fenced|InvalidProducerEpoch"


@pytest.fixture
def one_shard(make_installation: MakeInstallation) -> PostgresInstallation:
    made = make_installation()
    made.outbox.shards = 1
    made.configure()
    made.init()
    return made


@pytest.fixture
def small(one_shard: PostgresInstallation) -> SmallTopic:
    """Whose messages are all looked at in the end, beside those of the installation's topic."""
    made = SmallTopic(one_shard)
    one_shard.all_topics.append(made.name)
    return made


def test_what_is_committed_until_the_fence_is_not_delivered_again(
    one_shard: PostgresInstallation,
) -> None:
    """The predecessor commits when its successor has looked at all, and has not fenced it yet."""
    # Its birth is the first commit.
    old = one_shard.relay("delivery.commit.before=stop@2")
    old.wait_for("delivers shard=0")
    commit(one_shard, one_shard.topic, b"a", b"b")
    old.wait_hit("delivery.commit.before")
    new = one_shard.relay(f"{FENCE}=stop")
    new.wait_hit(FENCE)
    old.resume()
    one_shard.wait_delivered()
    new.resume()
    commit(one_shard, one_shard.topic, b"a", b"b")
    one_shard.finish(old, new, at_least=4)


def test_who_begins_anew_too_late_does_not_fence_its_successor(
    one_shard: PostgresInstallation, small: SmallTopic
) -> None:
    """Behind a message that was refused there has to be another producer: of the owner."""
    place = "relay.renew.before"
    # Where the machine stands still for as long, the old one takes the shard back.
    one_shard.relay_settings["lease_timeout_ms"] = 10_000
    one_shard.configure()
    dead, *others = small.commit((b"k", TOO_LARGE), (b"other", SMALL))
    old = one_shard.relay(f"{place}=stop")
    old.wait_hit(place)
    new = one_shard.relay()
    small.wait_delivered(*others)
    small.wait_dead(dead)
    with one_shard.outbox.writing(one_shard.topic):
        old.resume()
        old.wait_for(GIVES_UP)
    small.raise_limit()
    small.see_to("retry", "--all")
    one_shard.finish(old, new, at_least=3)
    assert not re.search(FENCED, new.text()), f"it was fenced:\n{new.text()}"


def test_who_begins_anew_behind_its_successor_delivers_nothing(
    one_shard: PostgresInstallation, small: SmallTopic
) -> None:
    """It fences the successor, and finds that what it was about to send has been delivered."""
    ids = small.commit((b"k", TOO_LARGE), (b"other", SMALL))
    # The first time is when it takes the shard.
    old = one_shard.relay(f"{FENCE}=stop@2")
    old.wait_hit(FENCE)
    small.raise_limit()
    new = one_shard.relay()
    small.wait_delivered(*ids)
    old.resume()

    def gave_up_or_delivered() -> bool:
        return bool(re.search(GIVES_UP, old.text()) or one_shard.report().findings)

    wait_until(gave_up_or_delivered, "it gives up", explain=old.text)
    one_shard.check_clean(at_least=2)
    small.commit((b"k", SMALL), (b"other", SMALL))
    one_shard.finish(old, new, at_least=4)
