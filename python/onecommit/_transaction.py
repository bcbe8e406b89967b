"""Transactions over several databases, on the caller's own psycopg connections.

What is to be said on the connections, and what the answers mean, is decided in Rust, once; here it
is sent, for blocking connections and for those of asyncio, from one piece of logic.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from ._arguments import longest, positive, text, text_or_none
from ._drivers import is_psycopg, is_sqlite
from ._errors import Error, InvalidError
from ._forked import is_own
from ._lock import LOCK
from ._message import PUBLISH, Encoder, Headers, Message, MessageId, to_row
from ._waiting import wait, wait_async

if TYPE_CHECKING:
    from os import PathLike
    from types import TracebackType

    import psycopg

    from ._native.lock import Wait
    from ._native.node import Node
    from ._native.transaction import Dialogue

    Connection: TypeAlias = psycopg.Connection[Any]
    AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]
    Path: TypeAlias = str | PathLike[str]

BEGIN = "begin transaction"
END = "end transaction"
_ISOLATION = "`read committed`, `repeatable read` or `serializable`"
_ACK = '"applied" or "decided"'
_FILE = (
    "SQLite can't prepare a transaction, so a file takes part in none with others: change it in a "
    "transaction of its own, and publish through it with onecommit.Outbox"
)

_Told: TypeAlias = Any
# What came at once, or None where the future is told.
_Call: TypeAlias = "Callable[[Future[_Told]], tuple[_Told] | None]"
_Messages: TypeAlias = "list[tuple[Any, str]]"
# What is to be done, and what comes back.
_Steps: TypeAlias = "Generator[_Call | _Messages, Any, _Told]"


class _Transaction:
    """What both kinds of transaction are made of."""

    id: str
    """Its id, by which its outcome can be asked for."""
    protocol: str | None
    """How it was committed: `none`, `read-only`, `one-phase` or `two-phase`. None before that."""
    applied: bool
    """Whether it is committed in every database, for everybody to see."""

    def __init__(self, dialogue: Dialogue, connections: list[Any], encoder: Encoder | None) -> None:
        """Made by `Onecommit.transaction`."""
        self.id = dialogue.id
        self.protocol = None
        self.applied = False
        self._dialogue = dialogue
        self._connections = connections
        self._encoder = encoder
        self._is_begun = False
        self._is_ended = False

    def publish(
        self,
        topic: str,
        *,
        key: Any = None,
        value: Any = None,
        headers: Headers | None = None,
        partition: int | None = None,
        outbox: str | None = None,
    ) -> MessageId:
        """Publishes a message if the transaction commits; it may hold what `Outbox.publish` takes.

        It is kept here until the commit, and then written into the outbox of one of the
        participants. `outbox` says of which, where several have one. Raises InvalidError for what
        Kafka could never take, and where no participant of the transaction has an outbox.
        """
        message = Message(topic, key=key, value=value, headers=headers, partition=partition)
        row = to_row(message, self._encoder)
        outbox = text_or_none("outbox", outbox, PUBLISH)
        told = self._dialogue.publish(
            row.topic, row.key, row.value, row.headers, row.partition, outbox
        )
        return MessageId(told)

    def _lock(self, name: str, timeout: float | None) -> Callable[[Future[int]], Wait]:
        if not self._is_begun:
            raise InvalidError("it has not begun: use it as a block, with `with`", LOCK)
        named, limit = text("name", name, LOCK), longest("timeout", timeout, LOCK)
        return partial(self._dialogue.lock, named, limit)

    def _steps(self, first: _Call) -> _Steps:
        told = yield first
        while isinstance(told, list):
            answers = yield [(self._connections[branch], sql) for branch, sql in told]
            if answers is None:
                told = yield self._dialogue.interrupt
            else:
                told = yield partial(self._dialogue.advance, answers)
        return told

    def _begin(self) -> _Steps:
        if self._is_begun:
            raise InvalidError("it has begun already: each block needs one of its own", BEGIN)
        self._is_begun = True
        return self._steps(partial(self._dialogue.advance, None))

    def _end(self, error: BaseException | None) -> _Steps:
        if not self._is_begun:
            raise InvalidError("it has not begun: use it as a block, with `with`", END)
        if self._is_ended:
            raise InvalidError("the transaction is over: it has ended already", END)
        self._is_ended = True
        return self._commit() if error is None else self._roll_back()

    def _commit(self) -> _Steps:
        told = yield from self._steps(self._dialogue.commit)
        if told:
            self.protocol, self.applied = told

    def _roll_back(self) -> _Steps:
        return self._steps(self._dialogue.roll_back)

    def _give_up(self) -> None:
        """What was decided stays so, and the rest is rolled back: nothing is sent any more."""
        future: Future[_Told] = Future()
        future.add_done_callback(self._has_given_up)
        with suppress(Error):  # the caller has one of its own
            told = self._dialogue.interrupt(future)
            if told is not None:
                future.set_result(told[0])

    def _has_given_up(self, future: Future[_Told]) -> None:
        # There is more to be sent. Each time that this is declined another step is behind it.
        if future.exception() is None and isinstance(future.result(), list):
            self._give_up()

    def _leave(self, error: BaseException) -> None:
        """Behind an error: of Ctrl-C, of a cancelled task, or of a signal's handler nothing is
        known here; any other was told by the transaction, which is over."""
        from ._drivers.exchange import close_open

        if not is_own(self._dialogue, error):
            return
        if not isinstance(error, Error):
            self._give_up()
        # Whoever ends the connection's own block would commit it.
        close_open(self._connections)


class Transaction(_Transaction):
    """A transaction with a branch on each of the caller's connections.

    Leaving the block commits all of it, an exception rolls all of it back. Raises InDoubt where it
    is not known whether it is committed; after every other error it is rolled back, and after
    ConflictError it may be run again.
    """

    def __enter__(self) -> Transaction:
        """Begins every branch."""
        self._run(self._begin())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commits; or rolls back, after an exception."""
        self._run(self._end(error))

    def lock(self, name: str, *, timeout: float | None = None) -> int:
        """Takes a lock for the length of the transaction, and returns its fencing number.

        It waits for it, until the transaction's deadline, or for `timeout` seconds where that is
        sooner. Raises ConflictError where it was not free in time, or where a deadlock was found:
        the transaction may be run again. The same lock again has the same number.

        It is held until every branch is at its end, also where this program dies before: whoever
        gets it next reads what this transaction wrote.

        >>> with onecommit.open(config) as oc, oc.transaction(orders=orders, billing=billing) as tx:
        ...     number = tx.lock("order/42")
        ...     _ = orders.execute("update orders set paid = true where id = 42")
        ...     _ = billing.execute("insert into payments values (42, 100)")
        """
        return wait(self._lock(name, timeout))

    def _run(self, steps: _Steps) -> None:
        from ._drivers.exchange import exchange

        result: Any = None
        try:
            while True:
                step = steps.send(result)
                if isinstance(step, list):
                    result = exchange(step, self._dialogue.seconds_left())
                else:
                    future: Future[_Told] = Future()
                    told = step(future)
                    result = future.result() if told is None else told[0]
        except StopIteration:
            return
        except BaseException as error:
            self._leave(error)
            raise


class AsyncTransaction(_Transaction):
    """The same on psycopg's asynchronous connections, with `async with`."""

    async def __aenter__(self) -> AsyncTransaction:
        """Begins every branch."""
        await self._run(self._begin())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commits; or rolls back, after an exception."""
        await self._run(self._end(error))

    async def lock(self, name: str, *, timeout: float | None = None) -> int:
        """As `Transaction.lock`."""
        return await wait_async(self._lock(name, timeout))

    async def _run(self, steps: _Steps) -> None:
        import asyncio

        from ._drivers.exchange import exchange_async

        result: Any = None
        try:
            while True:
                step = steps.send(result)
                if isinstance(step, list):
                    result = await exchange_async(step, self._dialogue.seconds_left())
                else:
                    future: Future[_Told] = Future()
                    told = step(future)
                    result = await asyncio.wrap_future(future) if told is None else told[0]
        except StopIteration:
            return
        except BaseException as error:
            self._leave(error)
            raise


def begin(
    node: Node | None,
    connections: dict[str, Any],
    kind: str,
    isolation: str | None,
    ack: str,
    deadline: float | None,
) -> Dialogue:
    """Begins a transaction on connections of psycopg's class `kind`."""
    if node is None:
        raise InvalidError("it is not open: use it inside of its `with` block", BEGIN)
    for name, conn in connections.items():
        if not is_psycopg(conn, kind):
            found = f"{type(conn).__module__}.{type(conn).__qualname__}"
            why = f"a branch needs a connection of psycopg (version 3), of the class {kind}"
            if is_sqlite(conn):
                why = _FILE
            raise InvalidError(why, BEGIN, {"participant": name, "connection": found})
        from ._drivers.exchange import check_idle

        try:
            check_idle(conn)
        except Error as error:
            error.context["participant"] = name
            raise
    if len({id(conn) for conn in connections.values()}) < len(connections):
        raise InvalidError("two participants have the same connection", BEGIN)
    names = [text("participant", name, BEGIN) for name in connections]
    level = text_or_none("isolation", isolation, BEGIN, _ISOLATION)
    ack = text("ack", ack, BEGIN, _ACK)
    return node.begin(names, level, ack, positive("deadline", deadline, BEGIN))
