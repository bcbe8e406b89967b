"""Two databases of one server that take part in transactions, one of them with an outbox."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import psycopg

Name = Literal["orders", "billing"]
NAMES: tuple[Name, Name] = ("orders", "billing")
TABLES = """
create table orders (id int primary key, paid bool not null default false);
create table payments (id int, total int not null check (total >= 0));
"""
# The machine may stand still meanwhile.
PATIENT = """
coordinator.request_timeout_ms = 60000
relay.request_timeout_ms = 60000
"""
ROWS = "truncate orders, payments; insert into orders (id) values (42), (43)"


class Connections(TypedDict):
    """One of the application's own to each, as a transaction takes them."""

    orders: psycopg.Connection[Any]
    billing: psycopg.Connection[Any]


class AsyncConnections(TypedDict):
    """The same for asyncio."""

    orders: psycopg.AsyncConnection[Any]
    billing: psycopg.AsyncConnection[Any]


@dataclass(frozen=True)
class TwoDatabases:
    """What they are called, and the configuration that names them."""

    config: Path
    urls: dict[str, str]
    admin_url: str

    @classmethod
    def create(cls, server: str, directory: Path) -> TwoDatabases:
        """Makes them, with tables of an application; `init` has still to be run."""
        urls: dict[str, str] = {}
        text = f'namespace = "two"\ndata_dir = "{directory}/data"\n{PATIENT}'
        for name in NAMES:
            database = f"onecommit_{name}_{os.getpid()}"
            with psycopg.connect(server, autocommit=True) as admin:
                admin.execute(f"create database {database}".encode())
            urls[name] = f"{server.rsplit('/', 1)[0]}/{database}"
            with psycopg.connect(urls[name]) as conn:
                conn.execute(TABLES.encode())
            text += f'[participants.{name}]\nurl = "{urls[name]}"\n'
            text += "outbox = true\n" if name == "orders" else ""
        config = directory / "onecommit.toml"
        config.write_text(text)
        return cls(config, urls, server)

    def connect(self, name: str, **arguments: Any) -> psycopg.Connection[Any]:
        """A connection of the application's own."""
        return psycopg.connect(self.urls[name], **arguments)

    async def connect_async(self, name: str) -> psycopg.AsyncConnection[Any]:
        """The same for asyncio."""
        return await psycopg.AsyncConnection.connect(self.urls[name])

    def connect_both(self, **arguments: Any) -> Connections:
        """A connection to each."""
        return {
            "orders": self.connect("orders", **arguments),
            "billing": self.connect("billing", **arguments),
        }

    async def connect_both_async(self) -> AsyncConnections:
        """The same for asyncio."""
        return {
            "orders": await self.connect_async("orders"),
            "billing": await self.connect_async("billing"),
        }

    def empty(self) -> None:
        """Makes both as they were."""
        for name in NAMES:
            with self.connect(name) as conn:
                # What another test has left prepared would keep it waiting for ever.
                conn.execute("set lock_timeout = '60s'")
                conn.execute(ROWS.encode())
                conn.execute("truncate onecommit.outbox")

    def number(self, name: str, sql: str) -> int:
        """What a query says that asks for one number."""
        with self.connect(name) as conn:
            row = conn.execute(sql.encode()).fetchone()
        assert row is not None
        return int(row[0])

    def paid(self) -> tuple[int, int, int]:
        """How many orders are paid, how many payments there are, and how many messages wait."""
        return (
            self.number("orders", "select count(*) from orders where paid"),
            self.number("billing", "select count(*) from payments"),
            self.number("orders", "select count(*) from onecommit.outbox"),
        )

    def prepared(self) -> int:
        """How many branches are prepared in both."""
        sql = "select count(*) from pg_prepared_xacts where database = current_database()"
        return sum(self.number(name, sql) for name in NAMES)

    def drop(self) -> None:
        """Removes both."""
        with psycopg.connect(self.admin_url, autocommit=True) as admin:
            for url in self.urls.values():
                name = url.rsplit("/", 1)[1]
                admin.execute(f"drop database {name} with (force)".encode())


def with_zookeeper(
    databases: TwoDatabases,
    folder: Path,
    servers: str,
    chroot: str,
    session_timeout_ms: int = 60_000,
) -> Path:
    """Their configuration with transactions, locks and groups kept in ZooKeeper; to be prepared.
    Who has it is not taken for dead where the machine stands still for seconds."""
    made = folder / f"{servers.rsplit(':', 1)[1]}.toml"
    table = f'[zookeeper]\nservers = "{servers}"\nchroot = "{chroot}"\n'
    timeout = f"session_timeout_ms = {session_timeout_ms}\n"
    made.write_text(databases.config.read_text() + table + timeout)
    return made


def close(conns: Connections) -> None:
    """Closes both."""
    for name in NAMES:
        conns[name].close()


async def close_async(conns: AsyncConnections) -> None:
    """The same for asyncio."""
    for name in NAMES:
        await conns[name].close()
