"""Just enough of ZooKeeper's wire protocol to make a node.

Exists because no package of Python for it is among the tests', and the server's own command line
needs Java packages that the server does not. Relies on nodes that anybody may make.
"""

from __future__ import annotations

import socket
import struct

SESSION_MS = 10_000
CREATE = 1
ALL_RIGHTS = 31
NODE_EXISTS = -110


def create(port: int, path: str, content: bytes = b"", limit: float = 60.0) -> None:
    """Makes a node that stays, unless it is there already. The folder above it has to be there."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=limit) as connection,
        connection.makefile("rb") as answers,
    ):

        def ask(request: bytes) -> bytes:
            connection.sendall(_sized(request))
            (length,) = struct.unpack("!i", _exactly(answers.read(4), 4))
            return _exactly(answers.read(length), length)

        ask(struct.pack("!iqiq", 0, 0, SESSION_MS, 0) + _sized(bytes(16)) + b"\0")
        anybody = struct.pack("!ii", 1, ALL_RIGHTS) + _sized(b"world") + _sized(b"anyone")
        head = struct.pack("!ii", 1, CREATE)
        node = _sized(path.encode()) + _sized(content)
        answer = ask(head + node + anybody + struct.pack("!i", 0))
    (error,) = struct.unpack("!i", answer[12:16])
    if error not in (0, NODE_EXISTS):
        raise ValueError(f"{path} could not be made: ZooKeeper's error {error}")


def _sized(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


def _exactly(data: bytes, length: int) -> bytes:
    if len(data) < length:
        raise ConnectionError("ZooKeeper closed the connection")
    return data
