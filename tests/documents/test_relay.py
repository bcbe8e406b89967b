"""docs/relay.md: what it shows for a topic that is missing, and the names that it gives."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from confluent_kafka.admin import AdminClient

from tests.e2e.waiting import LIMIT_S

from .document import Block, blocks, text_of
from .follower import Follower

RELAY = "docs/relay.md"


def test_a_topic_that_is_missing(shop: Follower, put: Mapping[str, str]) -> None:
    shop.sql("select onecommit.publish('order.refunded', '42', '{}')")
    shop.follow(blocks(RELAY, "## When a message can't be delivered", put))
    assert shop.received("order.refunded", 1)[0].key == b"42"


def test_the_names_in_status_and_in_kafka(shop: Follower, put: Mapping[str, str]) -> None:
    (shard, _) = json.loads(shop.run(Block("sh", "onecommit --json status\n")))["participants"][0][
        "shards"
    ]
    named = re.search(
        r"`--json` gives the same as one object, with `(\w+)` and `(\w+)`", text_of(RELAY)
    )
    assert named is not None and set(named.groups()) <= shard.keys()

    incarnation = json.loads(shop.run(Block("sh", "onecommit --json init\n")))["incarnation"]
    pattern = re.search(r"the topic\s+`(<prefix>\S+)`", text_of(RELAY))
    assert pattern is not None
    values = {"prefix": "onecommit.shop.", "incarnation": incarnation, "participant": "orders"}
    topic = re.sub(r"<(\w+)>", lambda place: values[place[1]], pattern[1])
    admin = AdminClient({"bootstrap.servers": put["127.0.0.1:9092"]})
    there = admin.list_topics(timeout=LIMIT_S).topics
    assert len(there[topic].partitions) == 2
