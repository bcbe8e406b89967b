"""A proxy to a server that meddles with the connections of those who use it, and of nobody else.

Relies on a cluster's servers to advertise the proxy's port, where they tell clients where to go.
Promises to count what each fault did, so that a test can prove that it hit.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from enum import Enum, auto
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for the type checker alone: at run time there is no Python package
    from typing_extensions import Self

PIECE_BYTES = 65536
DELAY_S = 0.15
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class NetworkFault(Enum):
    """What happens to every connection for as long as the fault lasts."""

    CUT = auto()  # ended, and whoever connects again is turned away
    DELAY = auto()  # every piece of either direction comes later
    STALL = auto()  # nothing is read any more, in either direction; nobody hears of an end
    # The server gets every request and answers it; no answer arrives. In the end, or when somebody
    # is tired of waiting, the connection is closed: what was not heard never will be.
    SWALLOW = auto()


class TcpProxy:
    """Passes every byte on, but for a fault. `hits` counts connections ended or turned away (CUT),
    pieces (DELAY), and bytes (the others)."""

    def __init__(self, port: int, server_port: int) -> None:
        self.hits: Counter[NetworkFault] = Counter()
        self.port = port
        # May be changed: connections made from then on lead to the other one.
        self.server_port = server_port
        self._fault: NetworkFault | None = None
        self._changed = threading.Condition()
        self._open: set[_Link] = set()
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def begin(self, fault: NetworkFault) -> None:
        """From here on everybody meets this fault."""
        with self._changed:
            self._fault = fault
            if fault is NetworkFault.CUT:
                self.hits[fault] += self._end_all()
            self._changed.notify_all()

    def cut(self) -> None:
        """Ends every connection, and turns everybody away."""
        self.begin(NetworkFault.CUT)

    def mend(self) -> None:
        """The fault is over; who has lost something by it has to connect again."""
        with self._changed:
            self._fault = None
            for link in self._open:
                if link.has_lost:
                    link.end()
            self._changed.notify_all()

    def _end_all(self) -> int:
        ended = len(self._open)
        for link in self._open:
            link.end()
        self._open.clear()
        return ended

    def _turns_away(self) -> bool:
        with self._changed:
            away = self._fault is NetworkFault.CUT
            self.hits[NetworkFault.CUT] += away
            return away

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            if self._turns_away():
                raise ConnectionRefusedError
            server = socket.create_connection(("127.0.0.1", self.server_port))
        except OSError:
            _reset(client)
            return
        link = _Link(client, server)
        with self._changed:
            if self._fault is NetworkFault.CUT:  # since a moment ago
                link.end()
                return
            self._open.add(link)
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=self._pass, args=(link, source, target), daemon=True).start()

    def _pass(self, link: _Link, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(PIECE_BYTES):
                if self._lets_pass(link, len(data), answer=source is link.server):
                    target.sendall(data)
        with self._changed:
            # An end is no news either while nothing is read.
            while self._fault is NetworkFault.STALL and link in self._open:
                self._changed.wait()
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        with self._changed:
            link.ends_seen += 1
            if link.ends_seen == 2:
                link.end()
                self._open.discard(link)

    def _lets_pass(self, link: _Link, length: int, *, answer: bool) -> bool:
        with self._changed:
            if self._fault is NetworkFault.DELAY:
                self.hits[NetworkFault.DELAY] += 1
                self._changed.wait(DELAY_S)
            elif self._fault is NetworkFault.STALL:
                self.hits[NetworkFault.STALL] += length
                while self._fault is NetworkFault.STALL and link in self._open:
                    self._changed.wait()
            if self._fault is NetworkFault.SWALLOW and answer:
                self.hits[NetworkFault.SWALLOW] += length
                link.has_lost = True
            return not (answer and link.has_lost)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._fault = NetworkFault.CUT
            self._end_all()
            self._changed.notify_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class _Link:
    """One client's connection to here and ours to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.has_lost = False
        self.ends_seen = 0

    def end(self) -> None:
        for connection in (self.client, self.server):
            _reset(connection)


def _reset(connection: socket.socket) -> None:
    """Ends a connection for both sides at once; whoever still reads from it here is woken."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
