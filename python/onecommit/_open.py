"""What `onecommit.open` gives: this process's part in transactions over several databases."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from ._arguments import count, path
from ._errors import ConflictError, InvalidError
from ._forked import is_own
from ._group import AsyncGroup, Data, Group
from ._lock import AsyncLock, Lock
from ._message import Encoder
from ._native.node import Node
from ._transaction import AsyncTransaction, Transaction, begin
from ._waiting import begun, wait, wait_async

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from ._native.lock import Wait
    from ._transaction import AsyncConnection, Connection, Path

T = TypeVar("T")

ATTEMPTS = 5
LOCK_TIMEOUT_S = 30.0
RUN = "run transaction"
# Between two attempts; it doubles.
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
# Serialization failure, deadlock, lock timeout: as the caller's own statements raise them.
_CONFLICTS = {"40001", "40P01", "55P03"}
_ASYNC = "use onecommit.open_async, or give a function that is none"


def open(config: Path | None = None, *, encoder: Encoder | None = None) -> Onecommit:  # noqa: A001
    """Opens transactions over the databases that a configuration file names.

    Without `config` it is `./onecommit.toml`. `encoder` is as in `Outbox`. Use it in a `with`
    block, one for the whole process; threads may share it.

    >>> with onecommit.open(config) as oc:
    ...     with oc.transaction(orders=orders, billing=billing) as tx:
    ...         _ = orders.execute("update orders set paid = true where id = 42")
    ...         _ = billing.execute("insert into payments values (42, 100)")
    ...         id = tx.publish("order.paid", key="42", value={"total": 100})
    >>> tx.applied, tx.protocol
    (True, 'two-phase')
    """
    return Onecommit(config, encoder)


def open_async(config: Path | None = None, *, encoder: Encoder | None = None) -> AsyncOnecommit:
    """The same for asyncio: use it in an `async with` block."""
    return AsyncOnecommit(config, encoder)


class _Opened:
    """What both are made of."""

    def __init__(self, config: Path | None, encoder: Encoder | None) -> None:
        """Made by `open` and `open_async`."""
        self._config = path("config", config, "open")
        self._encoder = encoder
        self._node: Node | None = None

    def _is_left(self, error: BaseException | None) -> bool:
        return self._node is not None and is_own(self._node, error)

    def _open(self, future: Future[Node]) -> Wait:
        return Node.open(self._config, future)

    def _close(self) -> Future[None] | None:
        node, self._node = self._node, None
        return None if node is None else _closed(node)


class Onecommit(_Opened):
    """Begins transactions, and settles what others have left; made by `open`."""

    def __enter__(self) -> Onecommit:
        """Opens it. ZooKeeper need not be there yet; the databases have to be."""
        if self._node is None:
            self._node = wait(self._open, _closed)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it. What is still prepared is settled by any other node."""
        if self._is_left(error) and (closed := self._close()) is not None:
            closed.result()

    def transaction(
        self,
        *,
        isolation: str | None = None,
        ack: str = "applied",
        deadline: float | None = None,
        **participants: Connection,
    ) -> Transaction:
        """A transaction with a branch on each of these connections, by the participants' names.

        The connections have to be idle, in autocommit or not; inside, leave `commit()` and
        `rollback()` to this. `isolation` is `read committed` (the default; `read uncommitted` is
        the same in PostgreSQL), `repeatable read` or `serializable`, of every branch in its own
        database. `ack="decided"` returns as soon as it is decided, and the branches follow.
        `deadline` is how many seconds all of it may take; without, what the configuration says.
        """
        dialogue = begin(self._node, participants, "Connection", isolation, ack, deadline)
        return Transaction(dialogue, list(participants.values()), self._encoder)

    def run(
        self,
        work: Callable[[Transaction], T],
        *,
        attempts: int = ATTEMPTS,
        isolation: str | None = None,
        ack: str = "applied",
        deadline: float | None = None,
        **participants: Connection,
    ) -> T:
        """Runs `work` in a transaction, and again where another transaction was in its way.

        So `work` may run several times, `attempts` at most, with a pause between.
        """
        if inspect.iscoroutinefunction(work):
            raise InvalidError(f"{_named(work)} is a coroutine function: {_ASYNC}", RUN)
        for attempt in range(1, _checked(work, attempts) + 1):
            try:
                with self.transaction(
                    isolation=isolation, ack=ack, deadline=deadline, **participants
                ) as transaction:
                    return _done(work(transaction), work)
            except Exception as error:
                if attempt == attempts or not _is_conflict(error):
                    raise
            time.sleep(_pause(attempt))
        raise AssertionError("the last attempt returns or raises")

    def group(self, name: str, *, member: str = "", data: Data = b"") -> Group:
        """A group of this name, whose members know who is there; for the length of a block.

        It is the same for all programs of the installation. `member` is what this one is called,
        and `data` what it says of itself, 16 KiB at most.

        >>> with onecommit.open(config) as oc, oc.group("workers", member="worker 1") as group:
        ...     [member.name for member in group.view().members]
        ['worker 1']
        """
        return Group(self._node, name, member, data)

    def lock(self, name: str, *, timeout: float = LOCK_TIMEOUT_S) -> Lock:
        """A lock for the length of a block, held by this process; `timeout` is in seconds.

        It is the same lock as a transaction's of this name, and the same for all programs of the
        installation.

        >>> with onecommit.open(config) as oc, oc.lock("nightly report", timeout=10) as lock:
        ...     lock.is_held
        True
        >>> lock.is_held
        False
        """
        return Lock(self._node, name, False, timeout)

    def leader(self, name: str, *, timeout: float | None = None) -> Lock:
        """The leadership in an election of this name, for the length of a block.

        Entering waits to be elected, for as long as it takes where no `timeout` is given. `number`
        is the term. Work in it while `is_held`; leaving the block resigns.

        >>> with onecommit.open(config) as oc, oc.leader("billing") as leader:
        ...     leader.is_held and not leader.wait_lost(0.01)
        True
        """
        return Lock(self._node, name, True, timeout)


class AsyncOnecommit(_Opened):
    """The same for asyncio; made by `open_async`."""

    async def __aenter__(self) -> AsyncOnecommit:
        """Opens it."""
        if self._node is None:
            self._node = await wait_async(self._open, _closed)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        import asyncio

        if self._is_left(error) and (closed := self._close()) is not None:
            await asyncio.wrap_future(closed)

    def transaction(
        self,
        *,
        isolation: str | None = None,
        ack: str = "applied",
        deadline: float | None = None,
        **participants: AsyncConnection,
    ) -> AsyncTransaction:
        """As `Onecommit.transaction`, for `async with`."""
        dialogue = begin(self._node, participants, "AsyncConnection", isolation, ack, deadline)
        return AsyncTransaction(dialogue, list(participants.values()), self._encoder)

    async def run(
        self,
        work: Callable[[AsyncTransaction], Awaitable[T]],
        *,
        attempts: int = ATTEMPTS,
        isolation: str | None = None,
        ack: str = "applied",
        deadline: float | None = None,
        **participants: AsyncConnection,
    ) -> T:
        """As `Onecommit.run`."""
        import asyncio

        for attempt in range(1, _checked(work, attempts) + 1):
            try:
                async with self.transaction(
                    isolation=isolation, ack=ack, deadline=deadline, **participants
                ) as transaction:
                    return await _awaitable(work(transaction), work)
            except Exception as error:
                if attempt == attempts or not _is_conflict(error):
                    raise
            await asyncio.sleep(_pause(attempt))
        raise AssertionError("the last attempt returns or raises")

    def group(self, name: str, *, member: str = "", data: Data = b"") -> AsyncGroup:
        """As `Onecommit.group`, for `async with`."""
        return AsyncGroup(self._node, name, member, data)

    def lock(self, name: str, *, timeout: float = LOCK_TIMEOUT_S) -> AsyncLock:
        """As `Onecommit.lock`, for `async with`."""
        return AsyncLock(self._node, name, False, timeout)

    def leader(self, name: str, *, timeout: float | None = None) -> AsyncLock:
        """As `Onecommit.leader`, for `async with`."""
        return AsyncLock(self._node, name, True, timeout)


def _closed(node: Node) -> Future[None]:
    return begun(node.close)


def _checked(work: object, attempts: object) -> int:
    if not callable(work):
        why = f"work is a function that is given the transaction, not {type(work).__name__}"
        raise InvalidError(why, RUN)
    return count("attempts", attempts, RUN)


def _done(result: T, work: object) -> T:
    """What has still to be awaited has not been done, and must not be committed as if it were."""
    if not inspect.isawaitable(result):
        return result
    if inspect.iscoroutine(result):
        result.close()
    why = f"{_named(work)} returned {type(result).__name__}, to be awaited: {_ASYNC}"
    raise InvalidError(f"{why}; all of it is rolled back", RUN)


def _awaitable(result: Awaitable[T], work: object) -> Awaitable[T]:
    if inspect.isawaitable(result):
        return result
    why = (
        f"{_named(work)} returned {type(result).__name__}, which can't be awaited: give a "
        "coroutine function (`async def`), or use onecommit.open; all of it is rolled back"
    )
    raise InvalidError(why, RUN)


def _named(work: object) -> str:
    return f"work ({getattr(work, '__qualname__', type(work).__name__)})"


def _is_conflict(error: Exception) -> bool:
    return isinstance(error, ConflictError) or getattr(error, "sqlstate", None) in _CONFLICTS


def _pause(attempt: int) -> float:
    longest: float = min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S)
    return longest * random.uniform(0.5, 1)
