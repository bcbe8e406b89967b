"""Locks and elections outside of transactions: held for a block, and told when lost."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import TYPE_CHECKING

from ._arguments import Milliseconds, longest, milliseconds, text
from ._errors import InvalidError
from ._forked import is_own
from ._waiting import begun, wait, wait_async

if TYPE_CHECKING:
    from types import TracebackType

    from ._native.lock import Held, Wait
    from ._native.node import Node

LOCK = "lock"
ELECT = "stand for election"
# Beyond its own limit a wait is looked after for so long: whoever closes `onecommit.open` ends it.
_MORE_S = 1.0


class _Lock:
    """What both kinds of lock are made of."""

    name: str
    """What it is called."""

    def __init__(self, node: Node | None, name: str, leads: bool, timeout: float | None) -> None:
        """Made by `Onecommit.lock` and `Onecommit.leader`."""
        self._operation = ELECT if leads else LOCK
        self.name = text("name", name, self._operation)
        self._node = node
        self._leads = leads
        self._limit = longest("timeout", timeout, self._operation)
        self._held: Held | None = None
        self._is_released = False

    @property
    def number(self) -> int:
        """The fencing number, or the leader's term; those of one name only grow.

        Store it beside what you write, and refuse what comes with a lower one.
        """
        return self._get().number

    @property
    def is_held(self) -> bool:
        """Whether it is held for certain, at this moment. Once it is lost it stays so.

        In a forked child it is False: the parent holds it.
        """
        return self._held is not None and self._held.is_held()

    def _get(self) -> Held:
        if self._held is None:
            why = "it was never held: use it as a block, with `with`"
            raise InvalidError(why, self._operation, {"name": self.name})
        return self._held

    def _begin(self, future: Future[Held]) -> Wait:
        if self._node is None:
            raise InvalidError("it is not open: use it inside of its `with` block", self._operation)
        if self._held is not None:
            why = "it was held already: each block needs one of its own"
            raise InvalidError(why, self._operation, {"name": self.name})
        return self._node.lock(self.name, self._leads, self._limit, future)

    def _release(self) -> Future[None]:
        held = self._get()
        if self._is_released:
            why = "it was released already: a block is left once"
            raise InvalidError(why, "release", {"name": self.name})
        self._is_released = True
        return _released(held)


class Lock(_Lock):
    """A lock, or the leadership in an election, held for the length of a block.

    Entering waits for it, and raises ConflictError where it was not free in time. Leaving gives it
    up, and raises FencedError where it was lost meanwhile, unless the block raised something else.
    """

    def __enter__(self) -> Lock:
        """Waits for it."""
        self._held = wait(self._begin, _released)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives it up."""
        if is_own(self._get(), error):
            released = self._release()
            if error is None:
                released.result()

    def wait_lost(self, timeout: float) -> bool:
        """Waits until it is lost, for so many seconds at most; whether it is."""
        held, limit = self._get(), _patience(timeout)
        if not held.is_held():
            return True
        future: Future[bool] = Future()
        waiting = held.lost(limit, future)
        try:
            return future.result(limit / 1000 + _MORE_S)
        except FutureTimeoutError:
            return not held.is_held()
        finally:
            waiting.cancel()


class AsyncLock(_Lock):
    """The same for asyncio, with `async with`."""

    async def __aenter__(self) -> AsyncLock:
        """Waits for it."""
        self._held = await wait_async(self._begin, _released)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives it up."""
        import asyncio

        if is_own(self._get(), error):
            released = self._release()
            if error is None:
                await asyncio.wrap_future(released)

    async def wait_lost(self, timeout: float) -> bool:
        """As `Lock.wait_lost`."""
        held, limit = self._get(), _patience(timeout)
        return not held.is_held() or await wait_async(partial(held.lost, limit))


def _released(held: Held) -> Future[None]:
    return begun(held.release)


def _patience(timeout: object) -> Milliseconds:
    return milliseconds("timeout", timeout, "wait for loss")
