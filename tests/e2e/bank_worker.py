"""A bank's worker: moves money between two databases and announces each transfer, as one.

Run as a program with the configuration's path, the databases' urls, a topic and a name. Prints what
it was told of each transfer: `committed`, `rolled back` or `in doubt` with the transaction's id;
and its name. Ends when its standard input does; or dies by SIGKILL (or stands still) with both
branches prepared, where that is asked for, and leaves a child that was forked, and lives as long as
standard input, where that is. A connection that is lost is opened again. Where it is to lock, every
other transfer, from the first one on, takes a lock that all workers want.
"""

from __future__ import annotations

import hashlib
import os
import random
import select
import signal
import sys
from contextlib import ExitStack, suppress

import onecommit
import psycopg
from onecommit._drivers import exchange as sending

ACCOUNTS = 5
DIES_PREPARED = "dies prepared"
DIES_BESIDE_CHILD = "dies prepared beside its child"
# Standard error has warnings, too.
CHILD = "the child is "
STOPS_PREPARED = "stops prepared"
LOCKS = "locks"
LOCK = "account/1"
LOCK_EVERY = 2
RECONNECT_S = 0.1
# Workers that lock leave time for others, and for whoever reads all their messages in the end.
PAUSE_S = 0.02
SCHEMA = f"""
create table balance (account int primary key, total int not null);
insert into balance select n, 1000 from generate_series(1, {ACCOUNTS}) n;
create table entry (transfer text primary key, amount int not null);
"""
MOVE = "update balance set total = total + %s where account = %s"
ENTER = "insert into entry (transfer, amount) values (%s, %s)"
MESSAGE = """
insert into ledger (message_id, topic, key, digest, place) values (%s, %s, %s, %s, 0)"""


def main(config: str, main_url: str, billing_url: str, topic: str, name: str, end: str) -> None:
    if end in (DIES_PREPARED, DIES_BESIDE_CHILD):
        die_prepared(forks=end == DIES_BESIDE_CHILD)
    if end == STOPS_PREPARED:
        die_prepared(forks=False, by=signal.SIGSTOP)
    connections: dict[str, psycopg.Connection] = {}
    with ExitStack() as stack:
        oc = opened(stack, config)
        number = 0
        while not is_told_to_end(PAUSE_S if end == LOCKS else 0):
            try:
                here, there = (connected(connections, url) for url in (main_url, billing_url))
            except psycopg.OperationalError as error:
                print(error, file=sys.stderr)
                is_told_to_end(RECONNECT_S)
                continue
            number += 1
            transfer = f"{name}-{number}"
            lock = LOCK if end == LOCKS and number % LOCK_EVERY == 1 else None
            print(f"{told_of(oc, here, there, topic, transfer, lock)} {transfer}", flush=True)


def opened(stack: ExitStack, config: str) -> onecommit.Onecommit:
    """Again while a server is away."""
    while True:
        try:
            return stack.enter_context(onecommit.open(config))
        except onecommit.UnreachableError as error:
            print(error, file=sys.stderr)
            if is_told_to_end(RECONNECT_S):
                sys.exit()


def is_told_to_end(within_s: float = 0) -> bool:
    return bool(select.select([sys.stdin], [], [], within_s)[0])


def connected(connections: dict[str, psycopg.Connection], url: str) -> psycopg.Connection:
    if url not in connections or connections[url].closed:
        # Names of statements are lost in a pooler.
        connections[url] = psycopg.connect(url, prepare_threshold=None)
    return connections[url]


def told_of(
    oc: onecommit.Onecommit,
    here: psycopg.Connection,
    there: psycopg.Connection,
    topic: str,
    transfer: str,
    lock: str | None = None,
) -> str:
    amount, value = random.randint(1, 9), transfer.encode()
    try:
        with oc.transaction(main=here, billing=there) as tx:
            if lock is not None:
                tx.lock(lock)
            here.execute(MOVE, [-amount, random.randint(1, ACCOUNTS)])
            there.execute(MOVE, [amount, random.randint(1, ACCOUNTS)])
            for conn, moved in [(here, -amount), (there, amount)]:
                conn.execute(ENTER, [transfer, moved])
            message_id = tx.publish(topic, key=transfer, value=value)
            digest = hashlib.md5(value, usedforsecurity=False).hexdigest()
            here.execute(MESSAGE, [message_id, topic, transfer.encode(), digest])
    except onecommit.InDoubt as error:
        print(error, file=sys.stderr)
        return f"in doubt {error.transaction_id}"
    except (onecommit.Error, psycopg.Error) as error:
        print(error, file=sys.stderr)
        return "rolled back"
    finally:
        for conn in (here, there):
            # Of one that is lost there is nothing to roll back.
            with suppress(psycopg.Error):
                conn.rollback()
    return "committed"


def die_prepared(*, forks: bool, by: signal.Signals = signal.SIGKILL) -> None:
    """From now on this process ends where both branches are prepared and nothing is decided, or
    stands still there."""
    original = sending.exchange

    def exchange(messages, seconds):  # type: ignore[no-untyped-def]
        answers = original(messages, seconds)
        if "prepare transaction" in messages[0][1]:
            if forks and os.fork() == 0:
                os.write(2, f"{CHILD}{os.getpid()}\n".encode())
                os.read(0, 1)
                os._exit(0)
            os.kill(os.getpid(), by)
        return answers

    sending.exchange = exchange


if __name__ == "__main__":
    main(*sys.argv[1:])
