"""A second database, without an outbox, beside an installation's own; and applications of both."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from . import transacting_application
from .adoption import long_leases
from .installation import Installation, Servers
from .postgres_outbox import url_of
from .transacting_application import DIES_PREPARED, DIES_WITH_A_LOCK, TRANSACTS
from .waiting import LIMIT_S

PREPARED = "select gid from pg_prepared_xacts where database = current_database()"


class TwoDatabases:
    """An installation whose transactions have a branch in `billing` too."""

    def __init__(self, installation: Installation, server: str) -> None:
        self.installation = installation
        self.server = server
        self.database = f"{installation.name}_billing"
        self.url = url_of(server, self.database)
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(sql.SQL("create database {}").format(sql.Identifier(self.database)))
        with psycopg.connect(self.url) as connection:
            connection.execute("create table payment (total int not null)")
        installation.configure(other={"participants.billing": {"url": self.url}})

    def live_long(self) -> None:
        """Who is to be seen living does so where a busy machine lets it stand still."""
        tables = {"participants.billing": {"url": self.url}, **long_leases(self.installation)}
        self.installation.configure(other=tables)

    @contextmanager
    def application(self, what: str) -> Iterator[Application]:
        """An application that lives as long as the block, and is killed at its end."""
        urls = [self.installation.outbox.url, self.url]
        config = str(self.installation.command_line.configuration)
        command = [sys.executable, transacting_application.__file__, config, what, *urls]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            try:
                assert process.stdout is not None
                said = process.stdout.readline().strip()
                assert said, "it has said why on standard error"
                yield Application(process, said)
            finally:
                process.kill()

    def transact(self) -> str:
        """Makes a transaction in a process that is killed behind it; the coordinator's id."""
        with self.application(TRANSACTS) as application:
            return application.coordinator

    def die_prepared(self) -> str:
        """A transaction of a process that dies with both branches prepared; its id."""
        with self.application(DIES_PREPARED) as application:
            application.process.wait(LIMIT_S)
            return application.said

    def die_with_a_lock(self) -> str:
        """The same with one branch only, which is prepared as it holds a lock."""
        with self.application(DIES_WITH_A_LOCK) as application:
            application.process.wait(LIMIT_S)
            return application.said

    def tables(self) -> list[str]:
        """Ours in `billing`."""
        names = "select tablename from pg_tables where schemaname = 'onecommit' order by 1"
        with psycopg.connect(self.url) as connection:
            return [str(name) for (name,) in connection.execute(names)]

    def drop(self) -> None:
        """Removes the second database."""
        with psycopg.connect(self.server, autocommit=True) as admin:
            drop = sql.SQL("drop database if exists {} with (force)")
            admin.execute(drop.format(sql.Identifier(self.database)))


class Application:
    """One that lives."""

    def __init__(self, process: subprocess.Popen[str], said: str) -> None:
        self.process = process
        self.said = said

    @property
    def coordinator(self) -> str:
        """The one of its transaction."""
        return self.said.partition(":")[0]


@contextmanager
def opened(made: Installation, servers: Servers) -> Iterator[TwoDatabases]:
    """The second database, and the tables; what is left prepared goes with both."""
    both = TwoDatabases(made, servers.postgres)
    try:
        made.init()
        yield both
    finally:
        for url in (made.outbox.url, both.url):
            # A database in which a branch is prepared can't be dropped.
            for name in prepared(url):
                execute(url, f"rollback prepared '{name}'")
        both.drop()
        made.close()


def execute(url: str, statement: str) -> None:
    """Changes a database by hand."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def prepared(url: str) -> list[str]:
    """The names of the branches that are prepared there."""
    with psycopg.connect(url) as connection:
        return [str(name) for (name,) in connection.execute(PREPARED.encode())]
