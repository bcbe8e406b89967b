"""Every method of a port passes through the relay's counting: one with a default body that was
forgotten there would silently mean something else to a relay than to the backend."""

from __future__ import annotations

import re

import pytest

from .test_floors import SRC, without_tests

PORTS = [
    ("outbox/port.rs", "Outbox", "outbox.rs"),
    ("outbox/port.rs", "OutboxSource", "outbox.rs"),
    ("outbox/set_aside.rs", "SetAside", "outbox.rs"),
    ("delivery/port.rs", "Delivery", "delivery.rs"),
    ("delivery/port.rs", "ShardDelivery", "delivery.rs"),
    ("lease/port.rs", "Lease", "lease.rs"),
]


def methods(source: str, opening: str) -> set[str]:
    """The methods in the block that begins with `opening`; rustfmt ends it with a bare brace."""
    begin = re.search(opening, source)
    assert begin is not None, opening
    block = source[begin.end() : source.index("\n}\n", begin.end())]
    return set(re.findall(r"^    (?:async )?fn (\w+)", block, re.MULTILINE))


@pytest.mark.parametrize(("port", "trait", "counted"), PORTS, ids=[port[1] for port in PORTS])
def test_every_method_is_passed_on(port: str, trait: str, counted: str) -> None:
    promised = methods(without_tests((SRC / port).read_text()), rf"pub trait {trait}\b.*\{{")
    passed_on = methods(
        without_tests((SRC / "relay" / "counted" / counted).read_text()), rf"impl {trait} for .*\{{"
    )
    assert promised and promised == passed_on
