"""Reading committed messages, from Kafka or from the embedded topic log."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from types import TracebackType
from typing import NoReturn

from ._arguments import path, text, text_or_none
from ._errors import InvalidError
from ._forked import is_own
from ._message import ReceivedMessage
from ._native.read import Reader

READ = "read"

# A group's position is stored after this many messages, whenever there is no next message at
# hand, and at the end: storing it after each would cost a round trip a message.
_COMMIT_EVERY = 1000


class Messages(Iterator[ReceivedMessage]):
    """The messages of a topic, one after another; made by `read`. Also a context manager."""

    def __init__(self, reader: Reader, limit: int | None, timeout_ms: int | None) -> None:
        """Ends after `limit` messages, or when none comes for `timeout_ms`."""
        self._reader = reader
        self._limit = limit
        self._timeout_ms = timeout_ms
        self._count = 0
        self._committed = 0

    def __next__(self) -> ReceivedMessage:
        """Waits for the next message. Asking for it says that the one before is done with."""
        if self._count == self._limit:
            self._end()
        if self._count - self._committed >= _COMMIT_EVERY:
            self._commit()
        parts = self._reader.next(0)
        if parts is None:
            self._commit()
            parts = self._reader.next(self._timeout_ms)
        if parts is None:
            self._limit = self._count
            self._end()
        self._count += 1
        return ReceivedMessage(*parts)

    def close(self) -> None:
        """Closes it. What was returned since the group's position was stored is read again."""
        self._limit = self._committed = self._count
        self._reader.close()

    def __enter__(self) -> Messages:
        """Itself; it is closed when the block ends."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        if is_own(self._reader, error):
            self.close()

    def _commit(self) -> None:
        if self._count > self._committed:
            self._reader.commit()
            self._committed = self._count

    def _end(self) -> NoReturn:
        self._commit()
        self._reader.close()
        raise StopIteration


def read(
    topic: str,
    *,
    config: str | PathLike[str] | None = None,
    group: str | None = None,
    from_beginning: bool = False,
    limit: int | None = None,
    timeout_ms: int | None = None,
) -> Messages:
    """The committed messages of a topic, from Kafka or from the embedded topic log.

    With a `group` it goes on where the group was; without one it begins now, or with
    `from_beginning` at the first message. It ends after `limit` messages, or when none comes for
    `timeout_ms`; without both it waits for ever, and Ctrl-C ends it.

    `config` is the path of an `onecommit.toml`; without it ./onecommit.toml is read, or all is at
    its default where that is not there.

    A message counts as done with when the next one is asked for. The group's position is stored
    now and then and at the end, so after a crash, or a loop left early, some come again.

    >>> for message in read("account.changed", from_beginning=True, timeout_ms=0):
    ...     print(message.key, message.value)
    b'42' b'{"total":100}'
    """
    topic, group = text("topic", topic, READ), text_or_none("group", group, READ)
    config = path("config", config, READ)
    for name, number in (("limit", limit), ("timeout_ms", timeout_ms)):
        if number is not None and not (isinstance(number, int) and 0 <= number < 2**63):
            raise InvalidError(f"{name} is an int that is 0 or more", READ, {name: repr(number)})
    return Messages(Reader(topic, config, group, from_beginning), limit, timeout_ms)
