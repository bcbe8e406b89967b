"""The whole set: three servers of ZooKeeper and of Kafka, two of PostgreSQL with a standby each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.e2e.random_run.postgres_pair import PostgresPair
from tests.servers import QUICK_RETURN, Ensemble, Kafka

from .town import BILLING, MAIN, Database, Town

# Fewer partitions are back sooner.
KAFKA = {**QUICK_RETURN, "transaction.state.log.num.partitions": "6"}


class WholeSet:
    """All of them, started side by side."""

    def __init__(self, stack: ExitStack) -> None:
        self.kafka = Kafka(3, heap="256m", properties=KAFKA)
        self.zookeeper = Ensemble()
        self.pairs = {MAIN: PostgresPair(), BILLING: PostgresPair()}
        with ThreadPoolExecutor() as pool:
            servers = (self.kafka, self.zookeeper, *self.pairs.values())
            started = [pool.submit(stack.enter_context, server) for server in servers]
        for one in started:
            one.result()
        databases = {name: _database(pair) for name, pair in self.pairs.items()}
        self.town = Town(stack, databases, self.zookeeper, self.kafka.internal_address)


def _database(pair: PostgresPair) -> Database:
    return Database(pair.dsn, pair.port, lambda: pair.crash(0))
