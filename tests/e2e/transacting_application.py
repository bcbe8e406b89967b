"""An application with two databases, run as a program with a configuration and what it is to do.

It opens Onecommit, and prints `open`; where it transacts it makes one transaction over both, and
prints its id in the place of that. Then it lives until it is killed, or nobody holds its standard
input; or it dies, or waits, in its transaction, where both branches are prepared and nothing is
decided. With a lock, one branch alone is prepared, too.
"""

from __future__ import annotations

import os
import signal
import sys

import onecommit
import psycopg
from onecommit._drivers import exchange as sending

TRANSACTS, SETTLES = "transacts", "settles"
DIES_PREPARED, WAITS_PREPARED = "dies prepared", "waits prepared"
DIES_WITH_A_LOCK = "dies prepared in one database, with a lock"


def main(config: str, what: str, main_url: str, billing_url: str) -> None:
    if what in (DIES_PREPARED, WAITS_PREPARED, DIES_WITH_A_LOCK):
        stop_prepared(what)
    with onecommit.open(config) as oc:
        if what == DIES_WITH_A_LOCK:
            with psycopg.connect(main_url) as one, oc.transaction(main=one) as tx:
                tx.lock("account")
                one.execute("update account set changes = changes + 1")
                print(tx.id, flush=True)
        said = "open"
        if what != SETTLES:
            with (
                psycopg.connect(main_url) as one,
                psycopg.connect(billing_url) as other,
                oc.transaction(main=one, billing=other) as tx,
            ):
                one.execute("update account set changes = changes + 1")
                other.execute("insert into payment values (100)")
                if what != TRANSACTS:
                    print(tx.id, flush=True)
            assert tx.protocol == "two-phase", tx.protocol
            said = tx.id
        print(said, flush=True)
        sys.stdin.read()


def stop_prepared(what: str) -> None:
    """From now on this process goes no further than where both branches are prepared."""
    original = sending.exchange

    def exchange(messages, seconds):  # type: ignore[no-untyped-def]
        answers = original(messages, seconds)
        if "prepare transaction" in messages[0][1]:
            if what != WAITS_PREPARED:
                os.kill(os.getpid(), signal.SIGKILL)
            sys.stdin.read()
        return answers

    sending.exchange = exchange


if __name__ == "__main__":
    main(*sys.argv[1:])
