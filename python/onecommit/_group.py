"""Groups whose membership is watched: who is there, and who comes and goes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._errors import InvalidError

if TYPE_CHECKING:
    from types import TracebackType

    from ._native import group
    from ._native.group import _View
    from ._native.transaction import Node

# One wait of the native half: Ctrl-C and a cancelled task are heard in between.
_SLICE_S = 0.2


@dataclass(frozen=True)
class Member:
    """One member of a group, as all others see it."""

    id: str
    """Never used again: who joins anew has another one."""
    name: str
    """As it was given; several may have one name."""
    data: bytes
    """What it says of itself."""


@dataclass(frozen=True)
class GroupView:
    """What a member knows of its group."""

    me: Member | None
    """This one. None while it is no member, or may be none, as the store does not answer."""
    members: tuple[Member, ...]
    """All of them, in the order in which they joined, as they were seen last."""


class _Joins:
    """What both are made of."""

    def __init__(self, node: Node | None, name: str, member: str, data: bytes) -> None:
        """Made by `Onecommit.group` and `AsyncOnecommit.group`."""
        self._node = node
        self._name = name
        self._member = member
        self._data = data
        self._joined: group.Group | None = None

    @property
    def name(self) -> str:
        """What the group is called."""
        return self._name

    def view(self) -> GroupView:
        """What is known now; it waits for nothing."""
        return _view(self._native().view())

    def say(self, data: bytes) -> None:
        """Says something else of this member, to all: 16 KiB at most."""
        self._native().say(data)

    def _join(self) -> None:
        if self._node is None:
            raise InvalidError("it is closed: open it again", "join group", {})
        if self._joined is not None:
            why = "this member has joined already: use another `group(...)` for another one"
            raise InvalidError(why, "join group", {"group": self._name})
        self._joined = self._node.group(self._name, self._member, self._data)

    def _leave(self) -> None:
        joined, self._joined = self._joined, None
        if joined is not None:
            joined.leave()

    def _native(self) -> group.Group:
        if self._joined is None:
            why = "it is no member: use it inside of its `with` block"
            raise InvalidError(why, "watch group", {"group": self._name})
        return self._joined


class Group(_Joins):
    """One member, for as long as its `with` block; made by `Onecommit.group`."""

    def __enter__(self) -> Group:
        """Joins. The store has to answer."""
        self._join()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves: the others are told at once."""
        self._leave()

    def changed(self, timeout: float | None = None) -> GroupView | None:
        """Waits until something else is known than was told last; None after `timeout` seconds."""
        end = _end(timeout)
        while True:
            view = self._native().changed(_slice_ms(end))
            if view is not None:
                return _view(view)
            if time.monotonic() >= end:
                return None


class AsyncGroup(_Joins):
    """The same for asyncio; made by `AsyncOnecommit.group`."""

    async def __aenter__(self) -> AsyncGroup:
        """Joins, in a thread."""
        import asyncio

        await asyncio.to_thread(self._join)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves."""
        import asyncio

        await asyncio.to_thread(self._leave)

    async def changed(self, timeout: float | None = None) -> GroupView | None:
        """As `Group.changed`."""
        import asyncio

        end = _end(timeout)
        while True:
            view = await asyncio.to_thread(self._native().changed, _slice_ms(end))
            if view is not None:
                return _view(view)
            if time.monotonic() >= end:
                return None


def _end(timeout: float | None) -> float:
    return float("inf") if timeout is None else time.monotonic() + timeout


def _slice_ms(end: float) -> int:
    return int(1000 * max(0.0, min(_SLICE_S, end - time.monotonic())))


def _view(native: _View) -> GroupView:
    me, members = native
    all_members = tuple(Member(*member) for member in members)
    mine = [member for member in all_members if member.id == me]
    return GroupView(mine[0] if mine else None, all_members)
