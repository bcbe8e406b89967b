"""Fixtures: the servers, and a fresh installation for each test.

Servers named by ONECOMMIT_TEST_POSTGRES, ONECOMMIT_TEST_KAFKA and ONECOMMIT_TEST_ZOOKEEPER are
used; those that are not are started. Tests that kill a server have one of their own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers import QUICK_RETURN, Kafka, Postgres, ZooKeeper

from .installation import Installation, PostgresInstallation, Servers, postgres_to_topic_log
from .two_databases import TwoDatabases, opened

# What would flush or number transactions by itself while a test prepares a crash.
UNDISTURBED = {"autovacuum": "off", "checkpoint_timeout": "1h"}
MakeInstallation = Callable[..., PostgresInstallation]


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The servers that all tests share."""
    with ExitStack() as stack:

        def address(kind: str, start: Callable[[], str]) -> str:
            return os.environ.get(f"ONECOMMIT_TEST_{kind}") or start()

        yield Servers(
            postgres=address("POSTGRES", lambda: stack.enter_context(Postgres()).dsn),
            kafka=address("KAFKA", lambda: stack.enter_context(Kafka()).address),
            zookeeper=address("ZOOKEEPER", lambda: stack.enter_context(ZooKeeper()).address),
        )


class OwnServers:
    """Servers of the session's own, which tests may kill; each is started when first asked for."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._postgres: Postgres | None = None
        self._kafka: Kafka | None = None
        self._zookeeper: ZooKeeper | None = None

    @property
    def postgres(self) -> Postgres:
        with self._lock:
            if self._postgres is None:
                self._postgres = self._stack.enter_context(Postgres(settings=UNDISTURBED))
            return self._postgres

    @property
    def kafka(self) -> Kafka:
        with self._lock:
            if self._kafka is None:
                # 4.3.0 loses committed messages when its only broker is killed (KAFKA-20734).
                kafka = Kafka(version="4.2.0", properties=QUICK_RETURN)
                self._kafka = self._stack.enter_context(kafka)
            return self._kafka

    @property
    def zookeeper(self) -> ZooKeeper:
        with self._lock:
            if self._zookeeper is None:
                self._zookeeper = self._stack.enter_context(ZooKeeper())
            return self._zookeeper

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def own_servers() -> Iterator[OwnServers]:
    own = OwnServers()
    try:
        yield own
    finally:
        own.close()


@pytest.fixture
def make_installation(servers: Servers, tmp_path: Path) -> Iterator[MakeInstallation]:
    """Makes installations that end with the test."""
    with ExitStack() as stack:

        def make(given: Servers | None = None, *, zookeeper: bool = False) -> PostgresInstallation:
            made = PostgresInstallation(given or servers, tmp_path, zookeeper=zookeeper)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def installation(make_installation: MakeInstallation) -> PostgresInstallation:
    """An installation on which `init` has run."""
    made = make_installation()
    made.init()
    return made


@pytest.fixture(params=["zookeeper", "file"])
def databases(
    request: pytest.FixtureRequest, servers: Servers, tmp_path: Path
) -> Iterator[TwoDatabases]:
    """With the decision log in each of the places where it may be."""
    made: Installation
    if request.param == "zookeeper":
        made = PostgresInstallation(servers, tmp_path, zookeeper=True)
    else:
        made = postgres_to_topic_log(servers, tmp_path)
    with opened(made, servers) as both:
        yield both
