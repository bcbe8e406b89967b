"""One message on each of several psycopg connections at the same time, and its answer.

Speaks to libpq directly: a message has several statements, and psycopg would wait for one
connection after the other. Relies on nobody else using the connections meanwhile. A connection
whose answer is not waited for any more is closed: nobody would ever take it, and it would be busy
for ever.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

from .._errors import InvalidError
from . import CLOSED

Answer: TypeAlias = "list[str | None] | tuple[str | None, str]"
"""The last statement's row; or a SQLSTATE (None: the connection is lost) and a text."""

_ROWS = (ExecStatus.TUPLES_OK, ExecStatus.SINGLE_TUPLE)
_ERRORS = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE)
_LOST = "the connection is lost"
# What a server says of text that its client's character set does not have.
_NOT_IN_CHARACTER_SET = "22021"
# Ctrl-C is noticed between two pieces of waiting.
_PIECE_S = 0.5


def check_idle(conn: Any) -> None:
    """Raises InvalidError where no transaction can begin on a connection."""
    status = conn.pgconn.transaction_status
    if status == TransactionStatus.UNKNOWN:
        raise InvalidError(CLOSED, "begin transaction")
    if status != TransactionStatus.IDLE:
        why = "the connection is in use: end its transaction first, or give another connection"
        raise InvalidError(why, "begin transaction")


def exchange(messages: Sequence[tuple[Any, str]], seconds: float) -> list[Answer] | None:
    """Sends and waits for all answers; None where some did not come in time."""
    deadline = time.monotonic() + seconds
    talks = [_Talk(conn, sql) for conn, sql in messages]
    try:
        has_come = _wait(talks, deadline)
    finally:
        for talk in talks:
            talk.give_up()
    return [talk.answer for talk in talks] if has_come else None


def _wait(talks: Sequence[_Talk], deadline: float) -> bool:
    waiting = {talk.socket: talk for talk in talks if not talk.is_done}
    poll = select.poll()
    for talk in waiting.values():
        poll.register(talk.socket, talk.events)
    while waiting:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        for socket, _ in poll.poll(min(left, _PIECE_S) * 1000):
            talk = waiting[socket]
            talk.pump()
            if talk.is_done:
                poll.unregister(socket)
                del waiting[socket]
            else:
                poll.modify(socket, talk.events)
    return True


async def exchange_async(
    messages: Sequence[tuple[Any, str]], seconds: float
) -> list[Answer] | None:
    """The same for connections of asyncio."""
    talks = [_Talk(conn, sql) for conn, sql in messages]
    try:
        await asyncio.wait_for(asyncio.gather(*(_until_done(talk) for talk in talks)), seconds)
    except asyncio.TimeoutError:
        return None
    finally:
        for talk in talks:
            talk.give_up()
    return [talk.answer for talk in talks]


async def _until_done(talk: _Talk) -> None:
    loop = asyncio.get_running_loop()
    while not talk.is_done:
        ready = loop.create_future()
        socket, writes = talk.socket, talk.has_more

        def wake(ready: asyncio.Future[None] = ready) -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(socket, wake)
        if writes:
            loop.add_writer(socket, wake)
        try:
            await ready
        finally:
            loop.remove_reader(socket)
            if writes:
                loop.remove_writer(socket)
        talk.pump()


class _Talk:
    """One message on one connection."""

    def __init__(self, conn: Any, sql: str) -> None:
        self._pgconn = conn.pgconn
        self.has_more = False
        self._row: list[str | None] = []
        self._error: tuple[str | None, str] | None = None
        self.is_done = False
        self.socket = -1
        try:
            self.socket = self._pgconn.socket
            self._pgconn.send_query(sql.encode(conn.info.encoding))
            self.has_more = self._pgconn.flush() != 0
        except psycopg.OperationalError as error:
            self._lose(error)
        except UnicodeEncodeError as error:
            self.is_done = True
            self._error = (_NOT_IN_CHARACTER_SET, str(error))

    @property
    def events(self) -> int:
        """What to wait for, as `select.poll` spells it."""
        return select.POLLIN | (select.POLLOUT if self.has_more else 0)

    @property
    def answer(self) -> Answer:
        """What came, once it is done."""
        return self._row if self._error is None else self._error

    def pump(self) -> None:
        """Takes what has come."""
        try:
            if self.has_more:
                self.has_more = self._pgconn.flush() != 0
            self._pgconn.consume_input()
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    self.is_done = True
                    return
                self._take(result)
        except psycopg.OperationalError as error:
            self._lose(error)

    def give_up(self) -> None:
        """Closes the connection if its answer is still to come."""
        if not self.is_done:
            self._pgconn.finish()

    def _take(self, result: Any) -> None:
        if result.status in _ROWS and result.ntuples:
            values = (result.get_value(0, column) for column in range(result.nfields))
            self._row = [
                None if value is None else value.decode(errors="replace") for value in values
            ]
        elif result.status in _ERRORS and self._error is None:
            code = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
            text = result.error_message.decode(errors="replace").strip()
            self._error = (code.decode() if code else None, text)

    def _lose(self, error: Exception) -> None:
        self.is_done = True
        self._error = self._error or (None, str(error).strip() or _LOST)
