"""A topic that is not there keeps its own messages and no others; a person may declare it dead."""

from __future__ import annotations

import json

from confluent_kafka.cimpl import NewTopic

from .dead_letters import SmallTopic
from .installation import PostgresInstallation
from .kafka_topics import REQUEST_LIMIT_S
from .test_dead_letters import wait_passed_over
from .test_relay import commit, key_in
from .waiting import wait_until


class Missing(SmallTopic):
    """A topic that is not there yet."""

    def __init__(self, installation: PostgresInstallation) -> None:
        super().__init__(installation)
        self.name = f"{installation.name}.missing"

    def make(self) -> None:
        self.admin.create_topics([NewTopic(self.name, 1)])[self.name].result(REQUEST_LIMIT_S)

    def remove(self) -> None:
        self.admin.delete_topics([self.name])[self.name].result(REQUEST_LIMIT_S)
        wait_until(self._is_unknown, "the broker has heard of it")

    def _is_unknown(self) -> bool:
        """To the broker, which takes messages until it hears of it from the controller."""
        return self.name not in self.admin.list_topics(timeout=REQUEST_LIMIT_S).topics

    def is_held(self) -> bool:
        shards = self.installation.command_line.status()
        held = [held for shard in shards for held in shard["held_topics"]]
        return any(one["topic"] == self.name for one in held)


def test_a_missing_topic_holds_only_its_own_messages_and_they_come_in_order(
    installation: PostgresInstallation,
) -> None:
    missing = Missing(installation)
    relay = installation.relay()
    key = key_in(0)
    ids = missing.commit((key, b"1"), (key, b"2"), (None, b"3"))
    commit(installation, installation.topic, key, key)
    installation.topics.wait_delivered(
        [installation.topic],
        [m.message_id for m in installation.outbox.ledger() if m.topic == installation.topic],
    )
    missing.wait_waiting(3)
    assert missing.is_held()
    text = installation.command_line.succeed("status")
    assert f"topic {missing.name} is on hold" in text and "onecommit init --topic" in text, text
    wait_passed_over(installation, relay)

    # The hold stands whatever dies.
    relay.kill()
    relay = installation.relay()
    ids += missing.commit((key, b"4"))
    missing.wait_waiting(4)
    missing.make()
    missing.wait_delivered(*ids)
    wait_until(lambda: not missing.is_held(), "the hold is over")
    missing.wait_delivered(*missing.commit((key, b"5")))
    installation.wait_pruned()
    relay.stop()
    missing.check()


def test_a_topic_that_is_deleted_under_way_is_held_and_comes_back(
    installation: PostgresInstallation,
) -> None:
    missing = Missing(installation)
    missing.make()
    relay = installation.relay()
    first = missing.commit((b"k", b"1"))
    missing.wait_delivered(*first)
    missing.remove()
    ids = missing.commit((b"k", b"2"), (b"k", b"3"))
    wait_until(missing.is_held, "it is on hold", explain=relay.text)
    commit(installation, installation.topic, b"k", b"k2")
    flowing = [m.message_id for m in installation.outbox.ledger() if m.topic == installation.topic]
    installation.topics.wait_delivered([installation.topic], flowing)
    missing.make()
    missing.wait_delivered(*ids)
    installation.wait_pruned()
    relay.stop()
    missing.check(*first)


def test_a_topic_declared_dead_makes_dead_letters_until_that_is_taken_back(
    installation: PostgresInstallation,
) -> None:
    missing = Missing(installation)
    relay = installation.relay()
    ids = missing.commit((b"k", b"1"), (b"k", b"2"))
    missing.wait_waiting(2)
    declare = ["--json", "dead-letter", "topic", missing.name]
    assert json.loads(installation.command_line.succeed(*declare))["changed"] == ["main"]
    assert json.loads(installation.command_line.succeed(*declare))["changed"] == []
    missing.wait_dead(*ids, waiting=0)
    ids += missing.commit((b"k", b"3"))
    missing.wait_dead(*ids, waiting=0)
    assert not missing.is_held()
    commit(installation, installation.topic, b"k")
    discarded = ids[0]
    missing.see_to("discard", discarded, "--yes")

    missing.make()
    taken = relay.text().count("delivers shard")
    installation.command_line.succeed("dead-letter", "topic", missing.name, "--undo")
    relay.wait_for("delivers shard", times=taken + 1)  # the shard has begun anew
    last = missing.commit((b"other", b"4"))
    missing.wait_delivered(*last)
    missing.see_to("retry", "--topic", missing.name)
    missing.wait_delivered(*ids[1:])
    installation.wait_pruned()
    relay.stop()
    missing.check(discarded)
