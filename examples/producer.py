"""Changes a row and publishes in the same transaction; every third one is rolled back.

Needs `onecommit.toml` with a PostgreSQL participant, and `onecommit init --topic account.changed`.
Run it as `python examples/producer.py postgresql://app@127.0.0.1/orders 10`.
"""

from __future__ import annotations

import sys

import onecommit
import psycopg


def main(url: str, changes: int) -> None:
    """Makes that many changes."""
    outbox = onecommit.Outbox()
    with psycopg.connect(url) as conn:
        conn.execute("create table if not exists accounts (id int primary key, total int not null)")
        conn.execute("insert into accounts values (42, 0) on conflict do nothing")
        conn.commit()
        for number in range(changes):
            # Change first: the row's lock puts this transaction behind the one before it.
            row = conn.execute(
                "update accounts set total = total + 1 where id = 42 returning total"
            ).fetchone()
            assert row is not None
            outbox.publish(conn, "account.changed", key="42", value={"total": row[0]})
            if number % 3 == 2:
                conn.rollback()
                print("rolled back", row[0])
            else:
                conn.commit()
                print("committed", row[0])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
