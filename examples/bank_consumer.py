"""Builds the bank's ledger from Kafka, and compares it with what both databases have.

Run it beside `onecommit.toml`, while a relay runs, as
`python examples/bank_consumer.py postgresql://app@127.0.0.1/north postgresql://app@127.0.0.1/south`.
"""

from __future__ import annotations

import json
import sys

import onecommit
import psycopg


def entries(url: str) -> dict[str, int]:
    """The transfers that a database knows, with how its account changed."""
    with psycopg.connect(url) as conn:
        return dict(conn.execute("select transfer::text, amount from entries").fetchall())


def main(north_url: str, south_url: str) -> None:
    """Reads as many transfers as the databases have."""
    north, south = entries(north_url), entries(south_url)
    ledger: dict[str, int] = {}
    messages = onecommit.read("transfer.made", from_beginning=True)
    while len(ledger) < len(south):
        made = json.loads(next(messages).value or b"null")
        if made["transfer"] in ledger:
            sys.exit(f"twice in Kafka: {made['transfer']}")
        ledger[made["transfer"]] = made["amount"]
    if ledger != south or north != {transfer: -amount for transfer, amount in south.items()}:
        sys.exit("they do not agree")
    print(len(ledger), "transfers: both databases and Kafka agree")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
