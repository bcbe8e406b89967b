"""Just enough of Kafka's wire protocol to ask a broker who it is and which brokers it knows.

An open port says little: a broker listens before the controller has let it in. So this sends an
ApiVersions and a Metadata request, as a client would. Relies on both requests' version 0 and 1
formats, which have no tagged fields.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

METADATA = 3
API_VERSIONS = 18
METADATA_VERSION = 1
CLIENT = b"onecommit-tests"


@dataclass(frozen=True)
class Cluster:
    """What one broker's Metadata answer says: the brokers clients may use, and the controller."""

    brokers: dict[int, tuple[str, int]]
    controller: int


def ask_cluster(port: int, limit: float = 5.0) -> Cluster:
    """Raises OSError or ValueError when the broker's answer is missing or an error."""
    with socket.create_connection(("127.0.0.1", port), timeout=limit) as connection:
        versions = _exchange(connection, API_VERSIONS, 0, b"")
        (error,) = struct.unpack_from("!h", versions)
        if error != 0:
            raise ValueError(f"ApiVersions was answered with error code {error}")
        supported = {
            key: (low, high) for key, low, high in struct.iter_unpack("!hhh", versions[6:])
        }
        low, high = supported.get(METADATA, (-1, -1))
        if not low <= METADATA_VERSION <= high:
            raise ValueError(f"the broker speaks Metadata {low} to {high}, not {METADATA_VERSION}")
        no_topics = struct.pack("!i", 0)
        return _cluster(_exchange(connection, METADATA, METADATA_VERSION, no_topics))


def _exchange(connection: socket.socket, key: int, version: int, body: bytes) -> bytes:
    header = struct.pack("!hhih", key, version, key, len(CLIENT)) + CLIENT
    connection.sendall(struct.pack("!i", len(header) + len(body)) + header + body)
    with connection.makefile("rb") as answers:
        head = answers.read(8)
        if len(head) < 8:
            raise ConnectionError("the broker closed the connection")
        length, correlation = struct.unpack("!ii", head)
        answer = answers.read(length - 4)
    if correlation != key or len(answer) < length - 4:
        raise ValueError("the broker's answer does not belong to the request, or is cut off")
    return answer


def _cluster(answer: bytes) -> Cluster:
    fields = _Fields(answer)
    brokers = {}
    for _ in range(fields.int32()):
        node, host, port, _rack = fields.int32(), fields.text(), fields.int32(), fields.text()
        brokers[node] = (host, port)
    return Cluster(brokers, fields.int32())


class _Fields:
    """Reads the fields of an answer one after the other."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._at = 0

    def int32(self) -> int:
        (value,) = struct.unpack_from("!i", self._answer, self._at)
        self._at += 4
        return int(value)

    def text(self) -> str:
        (length,) = struct.unpack_from("!h", self._answer, self._at)
        start = self._at + 2
        self._at = start + max(length, 0)  # a null string has length -1
        return self._answer[start : self._at].decode()
