"""docs/sql.md: its statements are run, and their messages arrive."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .document import Block, blocks
from .follower import Follower

ORDERS = "create table orders (id int primary key, total int not null)"
TOPICS = "onecommit init --topic order.paid --topic order.changed --partitions 6\n"


def test_publishing_with_sql(shop: Follower, put: Mapping[str, str]) -> None:
    shop.sql(ORDERS)
    shop.run(Block("sh", TOPICS))
    shop.follow(blocks("docs/sql.md", "# Publishing with SQL: triggers and other languages", put))

    first, with_headers, of_bytes = sorted(
        shop.received("order.paid", 3), key=lambda message: (message.key != b"42", message.headers)
    )
    assert (first.key, first.value) == (b"42", b'{"total": 100}')
    assert (with_headers.key, with_headers.value) == (b"42", b'{"total": 100}')
    assert ("source", b"web") in with_headers.headers and with_headers.partition == 3
    assert (of_bytes.key, of_bytes.value) == (b"\x2a", b"\x00\x01")

    (changed,) = shop.received("account.changed", 1)
    assert (changed.key, changed.value) == (b"42", b'{"total": 100}')
    assert shop.sql("select total from accounts where id = 42") == [(7 - 100,)]

    shop.sql("insert into orders values (7, 30); update orders set total = 31")
    announced = shop.received("order.changed", 2)
    assert [message.key for message in announced] == [b"7", b"7"]
    contents = [json.loads(message.value or b"") for message in announced]
    assert contents == [{"id": 7, "total": 30}, {"id": 7, "total": 31}]
