"""One transfer of `bank.py` with asyncio: the connections and the block are the asynchronous ones.

`python examples/bank_async.py postgresql://app@127.0.0.1/north postgresql://app@127.0.0.1/south`,
behind `bank.py`, which makes the tables.
"""

from __future__ import annotations

import asyncio
import sys
import uuid

import onecommit
import psycopg
from bank import ENTER, MOVE


async def main(north_url: str, south_url: str) -> None:
    """Moves 5 from north to south."""
    north = await psycopg.AsyncConnection.connect(north_url)
    south = await psycopg.AsyncConnection.connect(south_url)
    async with north, south, onecommit.open_async() as oc:
        number = uuid.uuid4()
        async with oc.transaction(north=north, south=south) as tx:
            for conn, change in [(north, -5), (south, 5)]:
                await conn.execute(MOVE, [change])
                await conn.execute(ENTER, [number, change])
            value = {"transfer": str(number), "amount": 5}
            tx.publish("transfer.made", key="ann", value=value)
        print("committed", 5)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
