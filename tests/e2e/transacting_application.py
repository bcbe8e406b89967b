"""An application with two databases, run as a program with a configuration and what it is to do.

It opens Onecommit, and prints `open`; where it transacts it makes one transaction over both, and
prints its id in the place of that. Then it lives until it is killed, or nobody holds its standard
input.
"""

from __future__ import annotations

import sys

import onecommit
import psycopg

TRANSACTS, SETTLES = "transacts", "settles"


def main(config: str, what: str, main_url: str, billing_url: str) -> None:
    with onecommit.open(config) as oc:
        said = "open"
        if what == TRANSACTS:
            with (
                psycopg.connect(main_url) as one,
                psycopg.connect(billing_url) as other,
                oc.transaction(main=one, billing=other) as tx,
            ):
                one.execute("update account set changes = changes + 1")
                other.execute("insert into payment values (100)")
            assert tx.protocol == "two-phase", tx.protocol
            said = tx.id
        print(said, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
