"""One message on each of several psycopg connections at the same time, and its answer.

Speaks to libpq directly: a message has several statements, and psycopg would wait for one
connection after the other. While another thread or task works on a connection its end is waited
for, by psycopg's own lock. A connection whose answer is not waited for any more, or on which
nothing can be sent, is closed: nobody would ever take the answer, and whoever ends the
connection's own block would commit a branch that is told to be rolled back.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import psycopg
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus, TransactionStatus

from .._errors import InvalidError
from . import CLOSED

Answer: TypeAlias = "list[str | None] | tuple[str | None, str]"
"""The last statement's row; or a SQLSTATE (None: the connection is lost) and a text."""

_ROWS = (ExecStatus.TUPLES_OK, ExecStatus.SINGLE_TUPLE)
_ERRORS = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE)
_OPEN = (TransactionStatus.ACTIVE, TransactionStatus.INTRANS, TransactionStatus.INERROR)
_LOST = "the connection is lost"
# What a server says of text that its client's character set does not have, and of what is in use.
_NOT_IN_CHARACTER_SET = "22021"
_IN_USE = "55006"
# SO_LINGER, for no time: what is closed is reset.
_RESET = struct.pack("ii", 1, 0)
_IN_USE_WHY = (
    "the connection is in use: leave a pipeline within the transaction in which it was entered. It "
    "was closed, and its server rolls the branch back"
)
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
    if conn.pgconn.pipeline_status != PipelineStatus.OFF:
        why = "the connection is in a pipeline: leave that first, or use one inside only"
        raise InvalidError(why, "begin transaction")


def close_open(connections: Sequence[Any]) -> None:
    """Closes those on which a transaction is open still."""
    for conn in connections:
        if conn.pgconn.transaction_status in _OPEN:
            _close(conn)


def exchange(messages: Sequence[tuple[Any, str]], seconds: float) -> list[Answer] | None:
    """Sends and waits for all answers; None where some did not come in time."""
    deadline = time.monotonic() + seconds
    talks = [_Talk(conn, sql) for conn, sql in messages]
    try:
        for talk in talks:
            talk.holds = talk.lock.acquire(blocking=False)
        busy = [talk for talk in talks if not talk.holds]
        has_come = _talk([talk for talk in talks if talk.holds], deadline)
        for talk in busy:
            left = max(0.0, deadline - time.monotonic())
            talk.holds = talk.lock.acquire(timeout=left)
            has_come = talk.holds and _talk([talk], deadline) and has_come
    finally:
        for talk in talks:
            talk.end()
    return [talk.answer for talk in talks] if has_come else None


def _talk(talks: Sequence[_Talk], deadline: float) -> bool:
    for talk in talks:
        talk.send()
    waiting = {talk.socket: talk for talk in talks if not talk.is_done}
    poll = select.poll()
    for talk in waiting.values():
        poll.register(talk.socket, talk.events)
    while waiting:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        for descriptor, _ in poll.poll(min(left, _PIECE_S) * 1000):
            talk = waiting[descriptor]
            talk.pump()
            if talk.is_done:
                poll.unregister(descriptor)
                del waiting[descriptor]
            else:
                poll.modify(descriptor, talk.events)
    return True


async def exchange_async(
    messages: Sequence[tuple[Any, str]], seconds: float
) -> list[Answer] | None:
    """The same for connections of asyncio."""
    talks = [_Talk(conn, sql) for conn, sql in messages]
    try:
        await asyncio.wait_for(_exchange(talks), seconds)
    except asyncio.TimeoutError:
        return None
    finally:
        for talk in talks:
            talk.end()
    return [talk.answer for talk in talks]


async def _exchange(talks: Sequence[_Talk]) -> None:
    busy = [talk for talk in talks if talk.lock.locked()]
    free = [talk for talk in talks if talk not in busy]
    for talk in free:
        talk.holds = await talk.lock.acquire()
    await _talk_async(free)
    for talk in busy:
        talk.holds = await talk.lock.acquire()
        await _talk_async([talk])


async def _talk_async(talks: Sequence[_Talk]) -> None:
    loop = asyncio.get_running_loop()
    for talk in talks:
        talk.send()
    while waiting := [talk for talk in talks if not talk.is_done]:
        ready = loop.create_future()

        def wake(ready: asyncio.Future[None] = ready) -> None:
            if not ready.done():
                ready.set_result(None)

        writing = [talk.socket for talk in waiting if talk.has_more]
        for talk in waiting:
            loop.add_reader(talk.socket, wake)
        for descriptor in writing:
            loop.add_writer(descriptor, wake)
        try:
            await ready
        finally:
            for talk in waiting:
                loop.remove_reader(talk.socket)
            for descriptor in writing:
                loop.remove_writer(descriptor)
        for talk in waiting:
            talk.pump()


class _Talk:
    """One message on one connection."""

    def __init__(self, conn: Any, sql: str) -> None:
        self.lock = conn.lock
        self.holds = False
        self.is_done = False
        self.has_more = False
        self.socket = -1
        self._conn = conn
        self._sql = sql
        self._pgconn = conn.pgconn
        self._process = os.getpid()
        self._row: list[str | None] = []
        self._error: tuple[str | None, str] | None = None

    @property
    def events(self) -> int:
        """What to wait for, as `select.poll` spells it."""
        return select.POLLIN | (select.POLLOUT if self.has_more else 0)

    @property
    def answer(self) -> Answer:
        """What came, once it is done."""
        return self._row if self._error is None else self._error

    def send(self) -> None:
        """Begins, once nobody else works on the connection."""
        try:
            self.socket = self._pgconn.socket
            self._pgconn.send_query(self._sql.encode(self._conn.info.encoding))
            self.has_more = self._pgconn.flush() != 0
        except psycopg.OperationalError as error:
            if self._pgconn.status == ConnStatus.OK:
                self._pgconn.finish()
                self.is_done, self._error = True, (_IN_USE, f"{_IN_USE_WHY} ({error})")
            else:
                self._lose(error)
        except UnicodeEncodeError as error:
            self.is_done = True
            self._error = (_NOT_IN_CHARACTER_SET, str(error))

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

    def end(self) -> None:
        """Lets others work on the connection; closes it if its answer is still to come."""
        if self._process != os.getpid():
            # A signal's handler has forked: to close it here would end the parent's session.
            return
        if not self.holds:
            _close(self._conn)
            return
        if not self.is_done:
            self._pgconn.finish()
        self.lock.release()

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


def _close(conn: Any) -> None:
    """Ends a connection, also under whoever works on it: that one finds its socket shut, and what
    is in its hands is not freed."""
    is_async = isinstance(conn, psycopg.AsyncConnection)
    is_free = not conn.lock.locked() if is_async else conn.lock.acquire(blocking=False)
    if not is_free:
        with suppress(OSError, psycopg.OperationalError), _shared_socket(conn) as shared:
            # A server that is writing to nobody hears of a mere end after minutes, and keeps its
            # locks until then: closed by whoever works on it, the socket is to say so at once.
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            shared.shutdown(socket.SHUT_RDWR)
        return
    conn.pgconn.finish()
    if not is_async:
        conn.lock.release()


def _shared_socket(conn: Any) -> socket.socket:
    return socket.socket(fileno=os.dup(conn.pgconn.socket))
