"""Real PostgreSQL, Kafka and ZooKeeper servers for tests, from package registries only.

`python -m tests.servers run -- COMMAND` is the way in from a shell; `Postgres`, `Kafka` and
`ZooKeeper` are the way in from a test that wants to kill, pause and restart them. Relies on
Linux, Java 17, Maven and apt, and on no Python package.
"""

from .ensemble import Ensemble
from .kafka import QUICK_RETURN, Broker, Kafka
from .pgbouncer import PgBouncer
from .ports import free_port
from .postgres import Postgres
from .process import ServerError
from .zookeeper import ZooKeeper

__all__ = [
    "QUICK_RETURN",
    "Broker",
    "Ensemble",
    "Kafka",
    "PgBouncer",
    "Postgres",
    "ServerError",
    "ZooKeeper",
    "free_port",
]
