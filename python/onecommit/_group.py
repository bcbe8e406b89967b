"""Groups whose membership is watched: who is there, and who comes and goes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from ._arguments import bytes_of, longest, text
from ._errors import Error, InvalidError
from ._waiting import begun, wait, wait_async

if TYPE_CHECKING:
    from types import TracebackType

    from ._native import group
    from ._native.group import _View
    from ._native.lock import Wait
    from ._native.node import Node

Data: TypeAlias = "bytes | bytearray | memoryview"
"""What a member says of itself."""

JOIN = "join group"
WATCH = "watch group"


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

    def __init__(self, node: Node | None, name: str, member: str, data: Data) -> None:
        """Made by `Onecommit.group` and `AsyncOnecommit.group`."""
        self._node = node
        self._name = text("name", name, JOIN)
        self._member = text("member", member, JOIN)
        self._data = bytes_of("data", data, JOIN)
        self._joined: group.Group | None = None
        # The number of the view that was told last.
        self._seen = 0

    @property
    def name(self) -> str:
        """What the group is called."""
        return self._name

    def view(self) -> GroupView:
        """What is known now; it waits for nothing."""
        return self._told(self._native().view())

    def say(self, data: Data) -> None:
        """Says something else of this member, to all: 16 KiB at most."""
        self._native().say(bytes_of("data", data, JOIN))

    def _join(self, future: Future[group.Group]) -> None:
        if self._node is None:
            raise InvalidError("it is not open: use it inside of its `with` block", JOIN)
        if self._joined is not None:
            why = "this member has joined already: use another `group(...)` for another one"
            raise InvalidError(why, JOIN, {"group": self._name})
        self._node.group(self._name, self._member, self._data, future)

    def _is_in(self, joined: group.Group) -> None:
        self._joined, self._seen = joined, 0

    def _leave(self) -> Future[None]:
        joined, self._joined = self._joined, None
        if joined is not None:
            return _left(joined)
        nothing: Future[None] = Future()
        nothing.set_result(None)
        return nothing

    def _changed(self, timeout: float | None) -> Callable[[Future[_View | None]], Wait]:
        return partial(self._native().changed, self._seen, longest("timeout", timeout, WATCH))

    def _told(self, native: _View) -> GroupView:
        self._seen, me, members = native
        all_members = tuple(Member(*member) for member in members)
        mine = [member for member in all_members if member.id == me]
        return GroupView(mine[0] if mine else None, all_members)

    def _native(self) -> group.Group:
        if self._joined is None:
            why = "it is no member: use it inside of its `with` block"
            raise InvalidError(why, WATCH, {"group": self._name})
        return self._joined


class Group(_Joins):
    """One member, for as long as its `with` block; made by `Onecommit.group`."""

    def __enter__(self) -> Group:
        """Joins. The store has to answer."""
        self._is_in(wait(self._join, _left))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves: the others are told at once."""
        with _unless(error):
            self._leave().result()

    def changed(self, timeout: float | None = None) -> GroupView | None:
        """Waits until something else is known than was told last; None after `timeout` seconds."""
        view = wait(self._changed(timeout))
        return None if view is None else self._told(view)


class AsyncGroup(_Joins):
    """The same for asyncio; made by `AsyncOnecommit.group`."""

    async def __aenter__(self) -> AsyncGroup:
        """Joins."""
        self._is_in(await wait_async(self._join, _left))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves."""
        import asyncio

        with _unless(error):
            await asyncio.wrap_future(self._leave())

    async def changed(self, timeout: float | None = None) -> GroupView | None:
        """As `Group.changed`."""
        view = await wait_async(self._changed(timeout))
        return None if view is None else self._told(view)


def _left(joined: group.Group) -> Future[None]:
    return begun(joined.leave)


def _unless(error: BaseException | None) -> AbstractContextManager[None]:
    """What leaving raises hides nothing that the block has raised."""
    return nullcontext() if error is None else suppress(Error)
