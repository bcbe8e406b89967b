"""A connection to PostgreSQL that can be listened to: what the client sends, message by message."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

PIECE_BYTES = 65536
# Behind these the client waits for an answer: a simple query, and the end of extended ones.
ASKING = {"Q", "S"}


@dataclass
class Wire:
    """Stands between one client and the server."""

    url: str = ""
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    def heard(self) -> list[tuple[str, bytes]]:
        """Type and contents of each message since the last look."""
        heard, self.sent = self.sent, []
        return heard


def kinds(messages: list[tuple[str, bytes]]) -> str:
    """The types of messages, in one word."""
    return "".join(kind for kind, _ in messages)


def round_trips(messages: list[tuple[str, bytes]]) -> int:
    """How often the client waited for an answer."""
    return sum(kind in ASKING for kind, _ in messages)


@contextmanager
def listened(url: str) -> Iterator[Wire]:
    """A wire to the server of `url`; `Wire.url` leads through it, for one connection."""
    server = psycopg.conninfo.conninfo_to_dict(url)
    with socket.create_server(("127.0.0.1", 0)) as door:
        wire = Wire()
        port = door.getsockname()[1]
        # Without a question of whether to encrypt, which is no message of the usual form.
        wire.url = psycopg.conninfo.make_conninfo(
            url, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable"
        )
        address = (str(server["host"]), int(server["port"] or 5432))
        carrier = threading.Thread(target=carry, args=(wire, door, address), daemon=True)
        carrier.start()
        yield wire


def carry(wire: Wire, door: socket.socket, address: tuple[str, int]) -> None:
    """Carries everything both ways until one side closes."""
    client, _ = door.accept()
    with client, socket.create_connection(address) as server:
        answers = threading.Thread(target=pump, args=(server, client), daemon=True)
        answers.start()
        with client.makefile("rb") as asked:
            # Start-up: a length and contents, with no type.
            head = asked.read(4)
            server.sendall(head + asked.read(int.from_bytes(head, "big") - 4))
            while head := asked.read(5):
                body = asked.read(int.from_bytes(head[1:], "big") - 4)
                # Noted before it is sent: whoever has the answer finds the question here.
                wire.sent.append((chr(head[0]), body))
                server.sendall(head + body)


def pump(server: socket.socket, client: socket.socket) -> None:
    """Carries answers as they come."""
    try:
        while piece := server.recv(PIECE_BYTES):
            client.sendall(piece)
    except OSError:
        pass  # one side has closed
