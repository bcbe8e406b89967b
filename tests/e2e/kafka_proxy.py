"""A proxy between clients and one real broker that meddles with commits of Kafka transactions.

Relies on the broker to advertise the proxy's port, and on its clients to ask in versions below
EndTxn 2 and AddPartitionsToTxn 3, as librdkafka does: their first fields are the same. Promises
that each producer's requests about its transactions are noted in the order in which they came.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # for the type checker alone: at run time there is no Python package
    from typing_extensions import Self

ADD_PARTITIONS_TO_TXN, END_TXN = 24, 26
LATEST = {ADD_PARTITIONS_TO_TXN: 2, END_TXN: 1}
# Where an answer to EndTxn has its error code: behind length, request's number and throttle time.
CODE_AT = 12
UNKNOWN_SERVER_ERROR = -1
# What the broker answers to a producer whose epoch is over.
FENCED = {47, 90}
ADDS, COMMITS, ABORTS = "adds partitions", "commits", "aborts"


class Fault(Enum):
    """What happens to one producer's commits. Connections stay where nothing else is said."""

    LOSE_REQUESTS = auto()  # none reaches the broker any more
    LOSE_ANSWERS = auto()  # the broker commits, and the client does not hear of it
    SPOIL_ANSWERS = auto()  # the broker commits, and the client is told of an error
    # The first one's connection is cut; the broker gets it while the next transaction is open.
    HOLD_FIRST = auto()


class Producer(NamedTuple):
    """Whose requests the broker takes for the same producer's: with a new epoch it is another."""

    transactional_id: str
    id: int
    epoch: int


class Request(NamedTuple):
    """A request about a transaction."""

    number: int
    producer: Producer
    does: str


class Link:
    """One client's connection to here and ours to the broker."""

    def __init__(self, client: socket.socket, broker: socket.socket) -> None:
        self.client, self.broker = client, broker
        self.cut = False
        # By the request's number, what its answer sets off and becomes.
        self.answers: dict[int, Callable[[bytes], bytes]] = {}


class Held:
    """A commit that the broker is yet to get."""

    def __init__(self, link: Link, frame: bytes, transactional_id: str) -> None:
        self.link, self.frame, self.transactional_id = link, frame, transactional_id
        self.was_sent_again = False


class KafkaProxy:
    """Passes everything on, but for the commits that meet a fault."""

    def __init__(self, port: int, broker_port: int) -> None:
        self.held_answers: list[int] = []
        self._plan: list[Fault] = []
        self._faults: dict[Producer, Fault] = {}
        self._since_fault: dict[Producer, list[str]] = defaultdict(list)
        self._held: Held | None = None
        self._broker_port = broker_port
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def plan(self, *faults: Fault) -> None:
        """The next commits meet these, and no producer two of them."""
        with self._lock:
            self._plan.extend(faults)

    def since_faults(self) -> list[tuple[Fault, list[str]]]:
        """Each fault that was met, and what its producer has asked for since then."""
        with self._lock:
            return [(fault, list(self._since_fault[who])) for who, fault in self._faults.items()]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                link = Link(client, socket.create_connection(("127.0.0.1", self._broker_port)))
                for run in (self._pass_requests, self._pass_answers):
                    threading.Thread(target=run, args=(link,), daemon=True).start()

    def _pass_requests(self, link: Link) -> None:
        with suppress(OSError):
            for frame in _frames(link.client):
                if self._passes(link, frame):
                    link.broker.sendall(frame)
        if not link.cut:
            _hang_up(link.broker)

    def _pass_answers(self, link: Link) -> None:
        for frame in _frames(link.broker):
            (number,) = struct.unpack_from("!i", frame, 4)
            set_off = link.answers.pop(number, None)
            with suppress(OSError):
                link.client.sendall(set_off(frame) if set_off else frame)
        for connection in (link.client, link.broker):
            _hang_up(connection)
            connection.close()

    def _passes(self, link: Link, frame: bytes) -> bool:
        request = _parse(frame)
        if request is None:
            return True
        with self._lock:
            met = self._meet(request)
            if request.producer in self._faults:
                self._since_fault[request.producer].append(request.does)
            if met is Fault.LOSE_ANSWERS:
                link.answers[request.number] = lambda _: b""
            elif met is Fault.SPOIL_ANSWERS:
                link.answers[request.number] = _spoil
            elif met is Fault.HOLD_FIRST:
                self._hold(link, frame, request)
            elif self._held and self._held.transactional_id == request.producer.transactional_id:
                self._next_of_held(self._held, link, request)
        return met in (None, Fault.LOSE_ANSWERS, Fault.SPOIL_ANSWERS)

    def _meet(self, request: Request) -> Fault | None:
        if request.does != COMMITS:
            return None
        known = self._faults.get(request.producer)
        if known is None and self._plan:
            self._faults[request.producer] = self._plan.pop(0)
            return self._faults[request.producer]
        return None if known is Fault.HOLD_FIRST else known

    def _hold(self, link: Link, frame: bytes, request: Request) -> None:
        self._held = Held(link, frame, request.producer.transactional_id)
        link.answers[request.number] = self._note_held_answer
        link.cut = True
        _hang_up(link.client)

    def _next_of_held(self, held: Held, link: Link, request: Request) -> None:
        if request.does != ADDS:
            held.was_sent_again = True
        elif held.was_sent_again:
            link.answers[request.number] = partial(_release, held)
            self._held = None

    def _note_held_answer(self, answer: bytes) -> bytes:
        (code,) = struct.unpack_from("!h", answer, CODE_AT)
        self.held_answers.append(code)
        return b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _hang_up(self._listener)
        self._listener.close()


def _release(held: Held, answer: bytes) -> bytes:
    held.link.broker.sendall(held.frame)
    return answer


def _spoil(answer: bytes) -> bytes:
    return answer[:CODE_AT] + struct.pack("!h", UNKNOWN_SERVER_ERROR)


def _parse(frame: bytes) -> Request | None:
    key, version, number, client_len = struct.unpack_from("!hhih", frame, 4)
    if key not in LATEST:
        return None
    assert version <= LATEST[key], f"request {key} came in version {version}, unknown here"
    at = 14 + max(client_len, 0)
    (id_len,) = struct.unpack_from("!h", frame, at)
    transactional_id = frame[at + 2 : at + 2 + id_len].decode()
    producer_id, epoch, committed = struct.unpack_from("!qh?", frame, at + 2 + id_len)
    does = ADDS if key == ADD_PARTITIONS_TO_TXN else COMMITS if committed else ABORTS
    return Request(number, Producer(transactional_id, producer_id, epoch), does)


def _frames(connection: socket.socket) -> Iterator[bytes]:
    with suppress(OSError), connection.makefile("rb") as stream:
        while len(head := stream.read(4)) == 4:
            yield head + stream.read(struct.unpack("!i", head)[0])


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
