"""Messages as they are published and as they are read, and how Python's values become bytes."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple, TypeAlias

from ._errors import Error, InvalidError
from ._native.message import check

PUBLISH = "publish"
ID_HEADER = "onecommit-id"

Encoder: TypeAlias = Callable[[Any], "bytes | str"]
"""Turns a key or value that is no str, bytes or JSON into bytes."""
HeaderValue: TypeAlias = "str | bytes | bytearray | memoryview | None"
Headers: TypeAlias = "Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]]"
"""Names and values; pairs where a name repeats or the order of equal names matters."""

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class MessageId(uuid.UUID):
    """A message's id: random, and sent with it as the Kafka header `onecommit-id`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish, for `publish_many`; its fields are the arguments of `publish`.

    >>> Message("account.changed", key="42", value={"total": 100}).topic
    'account.changed'
    """

    topic: str
    _: KW_ONLY
    key: Any = None
    value: Any = None
    headers: Headers | None = None
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A committed message, as `read` returns it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """When it was published, in milliseconds since 1970 (UTC)."""
    key: bytes | None
    """None: it has no key."""
    value: bytes | None
    """None: a tombstone."""
    headers: Sequence[tuple[str, bytes | None]]
    """In order, `onecommit-id` among them; names may repeat."""

    @property
    def id(self) -> MessageId | None:
        """The message's id, None where something else than Onecommit has written it."""
        for name, value in self.headers:
            if name == ID_HEADER and value is not None:
                try:
                    return MessageId(value.decode())
                except ValueError:
                    return None
        return None


class Row(NamedTuple):
    """A message that was found valid, as a driver writes it."""

    id: MessageId
    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None
    headers: list[tuple[str, bytes | None]]


def to_row(message: Message, encoder: Encoder | None) -> Row:
    """Encodes and checks a message, and gives it its id; InvalidError names what is wrong."""
    try:
        key = encode("key", message.key, encoder)
        value = encode("value", message.value, encoder)
        headers = [] if message.headers is None else encode_headers(message.headers)
    except Error as error:
        error.context.setdefault("topic", str(message.topic))
        raise
    check(message.topic, key, value, headers, message.partition)
    # Not uuid4(): it ends in the same call, and would make a plain UUID first.
    message_id = MessageId(bytes=os.urandom(16), version=4)
    return Row(message_id, message.topic, key, value, message.partition, headers)


def encode(field: str, content: Any, encoder: Encoder | None) -> bytes | None:
    """A key's or value's bytes: text as UTF-8, bytes as they are, numbers and so on as JSON."""
    if content is None:
        return None
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return _utf8(field, content)
    if isinstance(content, (dict, list, int, float)):
        return _utf8(field, _to_json(field, content))
    if isinstance(content, (bytearray, memoryview)):
        return bytes(content)
    return _encode_other(field, content, encoder)


def _encode_other(field: str, content: Any, encoder: Encoder | None) -> bytes:
    kind = type(content).__name__
    if encoder is None:
        known = "str, bytes, dict, list, a number, a bool or None"
        why = f"the {field} is {kind}: pass {known}, or give the outbox an `encoder=`"
        raise InvalidError(why, PUBLISH)
    try:
        encoded = encoder(content)
    except Exception as error:
        raise InvalidError(f"the encoder failed for the {field}, {kind}", PUBLISH) from error
    if isinstance(encoded, str):
        return _utf8(field, encoded)
    if isinstance(encoded, (bytes, bytearray, memoryview)):
        return bytes(encoded)
    why = f"for the {field}, {kind}, the encoder returned {type(encoded).__name__}, not bytes"
    raise InvalidError(why, PUBLISH)


def _to_json(field: str, content: Any) -> str:
    try:
        return _JSON.encode(content)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidError(f"the {field} can't be written as JSON", PUBLISH) from error


def _utf8(field: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        why = f"the {field} can't be encoded as UTF-8: it holds a lone surrogate"
        raise InvalidError(why, PUBLISH) from error


def encode_headers(headers: Headers) -> list[tuple[str, bytes | None]]:
    """Headers as pairs, their values as bytes or None."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    try:
        return [(name, _header_value(name, value)) for name, value in pairs]
    except (TypeError, ValueError) as error:  # what is not made of pairs
        why = "headers are a mapping, or pairs of a name and a value"
        raise InvalidError(why, PUBLISH) from error


def _header_value(name: str, value: HeaderValue) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return _utf8(f"header {name!r}", value)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    why = f"a header's value is str, bytes or None, not {type(value).__name__}"
    raise InvalidError(why, PUBLISH, {"header": repr(name)})
