"""A real PgBouncer, in transaction mode, in front of a PostgreSQL server of the tests.

Few server connections for many clients, so that a client's transactions meet other connections all
the time. It refuses to run as root, so under root it runs as PostgreSQL's user. From apt.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from .ports import free_port
from .postgres import Postgres, system_account
from .postgres_wire import query
from .process import ServerError
from .server import Server

PROGRAM = "/usr/sbin/pgbouncer"
SERVER_CONNECTIONS = 5
CONFIGURATION = """[databases]
* = host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 500
auth_type = trust
auth_file = {users}
admin_users = postgres
server_login_retry = 1
"""


class PgBouncer(Server):
    """A pooler in front of `postgres`, which runs."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__("PgBouncer")
        self.port = free_port()
        self._postgres = postgres

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def dsn(self) -> str:
        return self.database_url("postgres")

    def database_url(self, name: str) -> str:
        return f"postgresql://postgres@{self.address}/{quote(name, safe='')}"

    def _fetch(self) -> None:
        if shutil.which(PROGRAM) is None:
            raise ServerError(
                f"{PROGRAM} is missing: run `tests/install-system-packages postgresql`"
            )

    def _prepare(self) -> None:
        users = self.folder / "users"
        users.write_text('"postgres" ""\n')
        configuration: Path = self._configuration
        configuration.write_text(
            CONFIGURATION.format(
                server_port=self._postgres.port,
                port=self.port,
                connections=SERVER_CONNECTIONS,
                users=users,
            )
        )
        if os.geteuid() == 0:
            self.account = system_account()
            for owned in (self.folder, users, configuration):
                os.chown(owned, self.account.user, self.account.group)

    @property
    def _configuration(self) -> Path:
        return self.folder / "pgbouncer.ini"

    def _command(self) -> Sequence[str]:
        return [PROGRAM, str(self._configuration)]

    def _ask(self) -> None:
        if query(self.port, "select 1", limit_s=5.0) != [("1",)]:
            raise ValueError("`select 1` was answered with something else")
