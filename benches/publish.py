"""What publishing from Python costs beside an INSERT written by hand into a plain table.

Run by the bench as `publish.py DATABASE_URL publish|insert CLIENTS SECONDS`, over tables that it
has made. Prints transactions per second, and the microseconds of one call in a long transaction.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import onecommit
import psycopg

ACCOUNTS = 10_000
CALLS = 5000
VALUE = "x" * 1000
UPDATE = "update account set balance = balance + 1 where id = %s"
INSERT = "insert into plain (topic, key, value) values (%s, %s, %s)"
OUTBOX = onecommit.Outbox()

Write = Callable[["psycopg.Connection[Any]", str], object]


def publish(conn: psycopg.Connection[Any], key: str) -> object:
    return OUTBOX.publish(conn, "bench", key=key, value=VALUE)


def insert(conn: psycopg.Connection[Any], key: str) -> object:
    return conn.execute(INSERT, ("bench", key, VALUE))


def transactions_per_s(url: str, write: Write, clients: int, seconds: float) -> float:
    done = [0] * clients
    together = threading.Barrier(clients)

    def run(client: int) -> None:
        with psycopg.connect(url) as conn:
            together.wait()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                account = (done[client] * clients + client) % ACCOUNTS
                with conn.transaction():
                    conn.execute(UPDATE, (account,))
                    write(conn, f"key-{account}")
                done[client] += 1

    threads = [threading.Thread(target=run, args=[client]) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / seconds


def call_us(url: str, write: Write) -> float:
    with psycopg.connect(url) as conn, conn.transaction(force_rollback=True):
        began = time.monotonic()
        for n in range(CALLS):
            write(conn, f"key-{n}")
        return (time.monotonic() - began) / CALLS * 1e6


def main(url: str, how: str, clients: str, seconds: str) -> None:
    write = {"publish": publish, "insert": insert}[how]
    print(transactions_per_s(url, write, int(clients), float(seconds)), call_us(url, write))


if __name__ == "__main__":
    main(*sys.argv[1:])
