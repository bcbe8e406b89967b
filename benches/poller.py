"""A poller as it is written by hand today, which the bench compares the relay with.

Delivers at least once. Relies on a plain table `outbox`; deletes its rows once Kafka has
them. Run as `poller.py DATABASE_URL BOOTSTRAP_SERVERS`.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import psycopg
from confluent_kafka import Producer

BATCH_ROWS = 5000  # as many as the relay's batch
IDLE_S = 0.01
SELECT = """select id, topic, key, value from outbox
            order by id limit %s for update skip locked"""


def main(url: str, servers: str) -> None:
    failed: list[Any] = []
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "enable.idempotence": True,
            "delivery.report.only.error": True,
            "partitioner": "murmur2_random",
            "on_delivery": lambda error, _message: failed.append(error),
        }
    )
    with psycopg.connect(url) as connection:
        while True:
            with connection.transaction(), connection.cursor(binary=True) as cursor:
                rows = cursor.execute(SELECT, [BATCH_ROWS]).fetchall()
                for _, topic, key, value in rows:
                    producer.produce(topic, value, key)
                if producer.flush(30) > 0 or failed:
                    sys.exit(f"not delivered: {failed}")
                ids = [row[0] for row in rows]
                cursor.execute("delete from outbox where id = any(%s)", [ids])
            if not rows:
                time.sleep(IDLE_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
