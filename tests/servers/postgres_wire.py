"""Just enough of PostgreSQL's wire protocol to run a statement and read its rows as text.

Exists because the downloaded PostgreSQL 13 and 18 bring no `psql` and the tests' start-up must
need no Python package. Relies on `trust` authentication on 127.0.0.1.
"""

from __future__ import annotations

import socket
import struct

PROTOCOL = 3 << 16
TRUSTED = b"\0\0\0\0"
LIMIT_S = 60.0


class PostgresError(ValueError):
    """An error the server answered with; `sqlstate` says which."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"{sqlstate}: {message}")
        self.sqlstate = sqlstate


def query(
    port: int, sql: str, database: str = "postgres", limit_s: float = LIMIT_S
) -> list[tuple[str | None, ...]]:
    """Runs `sql` as user postgres on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=limit_s) as connection:
        options = b"user\0postgres\0database\0" + database.encode() + b"\0\0"
        connection.sendall(struct.pack("!ii", 8 + len(options), PROTOCOL) + options)
        with connection.makefile("rb") as answers:
            rows: list[tuple[str | None, ...]] = []
            asked = False
            while True:
                head = answers.read(5)
                if len(head) < 5:
                    raise ConnectionError("PostgreSQL closed the connection")
                kind, length = struct.unpack("!ci", head)
                body = answers.read(length - 4)
                if kind == b"E":
                    raise _error(body)
                if kind == b"R" and body != TRUSTED:
                    raise ValueError("PostgreSQL asks for a password, `trust` was expected")
                if kind == b"D":
                    rows.append(_row(body))
                if kind == b"Z" and asked:
                    return rows
                if kind == b"Z":
                    text = sql.encode() + b"\0"
                    connection.sendall(b"Q" + struct.pack("!i", 4 + len(text)) + text)
                    asked = True


def _row(body: bytes) -> tuple[str | None, ...]:
    (count,) = struct.unpack_from("!h", body)
    at = 2
    values: list[str | None] = []
    for _ in range(count):
        (length,) = struct.unpack_from("!i", body, at)
        at += 4
        if length < 0:
            values.append(None)
        else:
            values.append(body[at : at + length].decode())
            at += length
    return tuple(values)


def _error(body: bytes) -> PostgresError:
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    return PostgresError(fields.get(b"C", "?"), fields.get(b"M", "?"))
