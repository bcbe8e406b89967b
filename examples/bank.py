"""Moves money between two databases, and publishes each transfer: all three happen, or none.

Needs `onecommit.toml` with the PostgreSQL participants `north` (with an outbox) and `south`, and
`onecommit init --topic transfer.made`. Run it as
`python examples/bank.py postgresql://app@127.0.0.1/north postgresql://app@127.0.0.1/south 10`.
"""

from __future__ import annotations

import sys
import uuid

import onecommit
import psycopg

TABLES = """
create table if not exists accounts (name text primary key, total int not null check (total >= 0));
create table if not exists entries (transfer uuid primary key, amount int not null);
insert into accounts values ('ann', 100) on conflict do nothing;
"""
MOVE = "update accounts set total = total + %s where name = 'ann'"
ENTER = "insert into entries values (%s, %s)"


def transfer(
    oc: onecommit.Onecommit, north: psycopg.Connection, south: psycopg.Connection, amount: int
) -> str:
    """Moves what Ann has in the north to what she has in the south; a negative amount back."""
    number = uuid.uuid4()

    def work(tx: onecommit.Transaction) -> None:
        for conn, change in [(north, -amount), (south, amount)]:
            conn.execute(MOVE, [change])
            conn.execute(ENTER, [number, change])
        value = {"transfer": str(number), "amount": amount}
        tx.publish("transfer.made", key="ann", value=value)

    try:
        oc.run(work, north=north, south=south)  # again where another transfer was in the way
    except psycopg.errors.CheckViolation:
        return "refused"  # there is not enough; nothing happened in either database
    except onecommit.InDoubt as doubt:
        return f"in doubt: {doubt.transaction_id}"  # never run again before its outcome is known
    return "committed"


def main(north_url: str, south_url: str, transfers: int) -> None:
    """Makes that many transfers."""
    with (
        psycopg.connect(north_url, autocommit=True) as north,
        psycopg.connect(south_url, autocommit=True) as south,
        onecommit.open() as oc,
    ):
        for conn in (north, south):
            conn.execute(TABLES)
        for n in range(transfers):
            amount = 30 if n % 2 == 0 else -10
            print(transfer(oc, north, south, amount), amount)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
