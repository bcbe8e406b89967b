"""How Python's values become bytes, and what is refused, on SQLite in memory."""

from __future__ import annotations

import enum
import json
from decimal import Decimal
from typing import Any

import pytest
from onecommit import Error, InvalidError, Message, MessageId, Outbox, ReceivedMessage
from onecommit._message import to_row


class Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize("field", ["key", "value"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, None),
        ("", b""),
        ("ä€", "ä€".encode()),
        (Colour.RED, b"red"),
        (b"\xff\0", b"\xff\0"),
        (bytearray(b"\xff"), b"\xff"),
        (memoryview(b"abcd")[::2], b"ac"),
        ({"a": [1, None, True, "ä"]}, '{"a":[1,null,true,"ä"]}'.encode()),
        ([], b"[]"),
        (42, b"42"),
        (-1.5, b"-1.5"),
        (2**70, str(2**70).encode()),
        (True, b"true"),
    ],
)
def test_what_is_encoded_without_an_encoder(
    field: str, content: Any, expected: bytes | None
) -> None:
    row = to_row(Message("t", **{field: content}), None)
    assert getattr(row, field) == expected
    if isinstance(content, (dict, list)):
        assert json.loads(getattr(row, field)) == content


@pytest.mark.parametrize("field", ["key", "value"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("\ud800", "can't be encoded as UTF-8: it holds a lone surrogate"),
        ({"a": "\ud800"}, "can't be encoded as UTF-8: it holds a lone surrogate"),
        (float("nan"), "can't be written as JSON"),
        ([float("inf")], "can't be written as JSON"),
        ({"a": Decimal(1)}, "can't be written as JSON"),
        ({(1, 2): 1}, "can't be written as JSON"),
        (Decimal(1), "is Decimal: pass str, bytes, .* `encoder=`"),
        ((1, 2), "is tuple"),
    ],
)
def test_what_is_refused_names_the_field(field: str, content: Any, why: str) -> None:
    with pytest.raises(InvalidError, match=f"the {field} {why}") as caught:
        to_row(Message("some.topic", **{field: content}), None)
    assert caught.value.context == {"topic": "some.topic"}


def test_a_list_in_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(InvalidError, match="can't be written as JSON"):
        to_row(Message("t", value=circle), None)


def test_the_encoder_takes_everything_else_and_only_that() -> None:
    seen: list[Any] = []

    def encoder(content: Any) -> bytes | str:
        seen.append(content)
        return b"bytes" if isinstance(content, Decimal) else "text"

    message = Message("t", key=Decimal(1), value=(1, 2))
    assert to_row(message, encoder)[2:4] == (b"bytes", b"text")
    to_row(Message("t", key="text", value={"is": "JSON"}), encoder)
    assert seen == [Decimal(1), (1, 2)]


def test_an_encoder_that_fails() -> None:
    def raising(content: Any) -> bytes:
        raise LookupError(f"no such schema as {type(content)}")

    with pytest.raises(
        InvalidError, match=r"encoder failed for the value.*no such schema"
    ) as caught:
        to_row(Message("t", value=Decimal(1)), raising)
    assert isinstance(caught.value.__cause__, LookupError)
    with pytest.raises(InvalidError, match="for the key, Decimal, the encoder returned Decimal"):
        to_row(Message("t", key=Decimal(1)), lambda content: content)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (None, []),
        ({}, []),
        ({"a": "ä", "b": None}, [("a", "ä".encode()), ("b", None)]),
        ([("a", b"\xff"), ["a", bytearray(b"x")]], [("a", b"\xff"), ("a", b"x")]),
        ((pair for pair in [("a", memoryview(b"x"))]), [("a", b"x")]),
    ],
)
def test_headers(headers: Any, expected: list[tuple[str, bytes | None]]) -> None:
    assert to_row(Message("t", headers=headers), None).headers == expected


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"topic": "not a topic"}, "a topic's name has only letters"),
        ({"topic": ""}, "the topic's name is empty"),
        ({"topic": "x" * 250}, "has 250 characters"),
        ({"topic": 42}, "the topic is a str, not int"),
        ({"topic": None}, "the topic is a str, not NoneType"),
        ({"topic": "\ud800"}, "the topic can't be encoded as UTF-8"),
        ({"partition": -1}, "a partition's number is 0 or more"),
        ({"partition": 2**31}, "the partition is an int of at most 31 bits"),
        ({"partition": "1"}, "the partition is an int of at most 31 bits, not str"),
        ({"headers": {"onecommit-id": "x"}}, "are Onecommit's own"),
        ({"headers": {"": "x"}}, "a header's name is not empty"),
        ({"headers": {"\ud800": "x"}}, "a header's name can't be encoded as UTF-8"),
        ({"headers": {1: "x"}}, "a header's name is a str, not int"),
        ({"headers": {"a": 1}}, "a header's value is str, bytes or None, not int"),
        ({"headers": {"a": "\ud800"}}, "the header 'a' can't be encoded as UTF-8"),
        ({"headers": "text"}, "headers are a mapping, or pairs"),
        ({"headers": 5}, "headers are a mapping, or pairs"),
        ({"headers": [("a", "b", "c")]}, "headers are a mapping, or pairs"),
        ({"headers": [("a", None)] * 1001}, "1001 headers"),
    ],
)
def test_what_kafka_could_never_take(parts: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidError, match=why) as caught:
        to_row(Message(**{"topic": "t", **parts}), None)
    assert caught.value.operation == "publish"
    assert "topic" in caught.value.context or "topic" in parts


@pytest.mark.parametrize("schema", ["", "a\0b", None, 5])
def test_what_is_no_schema(schema: Any) -> None:
    with pytest.raises(Error, match="a schema's name is a str that is not empty"):
        Outbox(schema)


def test_messages_are_values() -> None:
    assert Message("t", key=1) == Message("t", key=1)
    with pytest.raises(AttributeError):
        Message("t").topic = "u"  # type: ignore[misc]


def test_a_received_message_knows_its_id() -> None:
    def received(*headers: tuple[str, bytes | None]) -> ReceivedMessage:
        return ReceivedMessage("t", 0, 0, 0, None, None, headers)

    text = b"0188fc53-9d3b-4b5f-8b1c-2f6f2a1e9b3d"
    assert received(("a", None), ("onecommit-id", text)).id == MessageId(text.decode())
    assert received(("a", text)).id is None
    assert received(("onecommit-id", b"\xff")).id is None
    assert received(("onecommit-id", None)).id is None
