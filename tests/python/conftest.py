"""Databases with an outbox in them, for each test its own or emptied before."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import onecommit
import psycopg
import pytest

from tests.e2e.command_line import in_time

from .outbox_tables import postgres_tables, sqlite_tables
from .slow_prepare import SlowPrepare, slow_prepare
from .two_databases import Connections, TwoDatabases, close

MODULE = [sys.executable, "-m", "onecommit"]
POSTGRES = "ONECOMMIT_TEST_POSTGRES"
ACCOUNTS = "create table accounts (id int primary key, total int not null)"


def init(*words: str) -> None:
    """`onecommit init`: again where a server is late, as may be on a busy machine."""
    command = [*MODULE, "init", *words]
    done = in_time(partial(subprocess.run, command, check=False, capture_output=True, text=True))
    assert done.returncode == 0, done


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A database of this run alone, with an outbox in the schema `onecommit`."""
    server = os.environ.get(POSTGRES)
    if not server:
        pytest.fail(f"{POSTGRES} is not set: run the tests by `python -m tests.servers run -- ...`")
    name = f"onecommit_python_{os.getpid()}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {name}".encode())
    url = psycopg.conninfo.make_conninfo(server, dbname=name)
    with psycopg.connect(url) as conn:
        conn.execute(postgres_tables("onecommit").encode())
        conn.execute(ACCOUNTS.encode())
    yield url
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"drop database {name} with (force)".encode())


@pytest.fixture
def empty_url(postgres_url: str) -> str:
    with psycopg.connect(postgres_url) as conn:
        conn.execute("truncate onecommit.outbox, accounts")
    return postgres_url


@pytest.fixture
def pg(empty_url: str) -> Iterator[psycopg.Connection[Any]]:
    conn = psycopg.connect(empty_url)
    yield conn
    conn.close()


@pytest.fixture
async def async_pg(empty_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    conn = await psycopg.AsyncConnection.connect(empty_url)
    yield conn
    await conn.close()


@pytest.fixture(scope="session")
def databases_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoDatabases]:
    databases = TwoDatabases.create(os.environ[POSTGRES], tmp_path_factory.mktemp("two"))
    init("--config", str(databases.config))
    yield databases
    databases.drop()


@pytest.fixture
def two_databases(databases_of_this_run: TwoDatabases) -> TwoDatabases:
    """Two databases that take part in transactions, `orders` with an outbox; as new."""
    databases_of_this_run.empty()
    return databases_of_this_run


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    conn = sqlite3.connect(path)
    conn.executescript(sqlite_tables() + ACCOUNTS)
    conn.execute("insert into accounts values (42, 0)")
    conn.commit()
    conn.close()
    return path


@pytest.fixture
def lite(sqlite_file: Path) -> Iterator[sqlite3.Connection]:
    conn = sqlite3.connect(sqlite_file)
    yield conn
    conn.close()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with everything at its default, and a relay that runs."""
    monkeypatch.chdir(tmp_path)
    init()
    relay = subprocess.Popen([*MODULE, "relay"], stderr=subprocess.DEVNULL)
    yield tmp_path
    relay.kill()
    relay.wait()


@pytest.fixture
def oc(two_databases: TwoDatabases) -> Iterator[onecommit.Onecommit]:
    with onecommit.open(two_databases.config) as opened:
        yield opened


@pytest.fixture
def connect_both(two_databases: TwoDatabases) -> Iterator[Callable[[], Connections]]:
    """Opens connections to both that end with the test."""
    with ExitStack() as stack:

        def opened() -> Connections:
            conns = two_databases.connect_both()
            stack.callback(close, conns)
            return conns

        yield opened


@pytest.fixture
def conns(connect_both: Callable[[], Connections]) -> Connections:
    return connect_both()


@pytest.fixture
def slow(two_databases: TwoDatabases) -> Iterator[SlowPrepare]:
    """A PREPARE in `orders` lasts until it is let go."""
    with slow_prepare(two_databases) as held:
        yield held
