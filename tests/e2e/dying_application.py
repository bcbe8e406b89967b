"""An application that publishes through the Python package and then dies by SIGKILL.

Run as a program with a database's url, a topic, and whether it commits before it dies. Prints the
id of each message once that is published. It enters messages into the ledger, as every writer does.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import sys
from typing import Any

import onecommit
import psycopg

COMMITS = "commits"
MESSAGES = 20
# As long as tests wait for anything.
BUSY_S = 120.0
COLUMNS = "insert into ledger (message_id, topic, key, digest, place)"
ENTER_POSTGRES = f"{COLUMNS} values (%s, %s, %s, %s, currval('onecommit.outbox_id_seq'))"
ENTER_SQLITE = f"{COLUMNS} values (?, ?, ?, ?, last_insert_rowid())"


def main(url: str, topic: str, end: str) -> None:
    connection, enter = connect(url)
    outbox = onecommit.Outbox()
    for number in range(MESSAGES):
        key, value = f"key-{number % 3}".encode(), os.urandom(20)
        message_id = outbox.publish(connection, topic, key=key, value=value)
        digest = hashlib.md5(value, usedforsecurity=False).hexdigest()
        connection.execute(enter, [str(message_id), topic, key, digest])
        print(message_id, flush=True)
    if end == COMMITS:
        connection.commit()
    os.kill(os.getpid(), signal.SIGKILL)


def connect(url: str) -> tuple[Any, Any]:
    """A connection that begins a transaction by itself, and the SQL that enters a message."""
    if url.startswith("sqlite:///"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), timeout=BUSY_S), ENTER_SQLITE
    return psycopg.connect(url), ENTER_POSTGRES


if __name__ == "__main__":
    main(*sys.argv[1:])
