"""A PostgreSQL server that asks for TLS, passwords and client certificates.

The tests themselves connect as `postgres`, without any of it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.servers import Postgres

from .certificates import Authority

HBA = """
local   all all                       trust
host    all postgres     127.0.0.1/32 trust
hostssl all certified    127.0.0.1/32 cert
hostnossl all plain    127.0.0.1/32 scram-sha-256
hostssl all plain      127.0.0.1/32 reject
hostssl all all          127.0.0.1/32 scram-sha-256
"""
PASSWORD = "s3cret-of-the-relay"
ROLES = f"""
set password_encryption = 'scram-sha-256';
create role relay login password '{PASSWORD}';
create role plain login password '{PASSWORD}';
create role certified login;
"""


class SecuredPostgres(Postgres):
    """Its certificate is one for `localhost`, signed by `authority`."""

    def __init__(self, folder: Path) -> None:
        files = {"ssl_cert_file": "server.crt", "ssl_key_file": "server.key"}
        super().__init__(settings={"ssl": "on", "ssl_ca_file": "ca.crt", **files})
        self.authority = Authority(folder, "authority")
        self._certificate = self.authority.sign("localhost", alternative="DNS:localhost")

    def _initialise(self) -> None:
        super()._initialise()
        (self._data / "pg_hba.conf").write_text(HBA)
        self._install(self._certificate.certificate, "server.crt")
        self._install(self._certificate.key, "server.key")
        self._install(self.authority.certificate, "ca.crt")

    def _install(self, file: Path, name: str) -> None:
        target = self._data / name
        shutil.copy(file, target)
        target.chmod(0o600)
        if self.account is not None:
            os.chown(target, self.account.user, self.account.group)

    def make_roles(self) -> None:
        """Those that the tests connect as."""
        self.query(ROLES)

    def url(self, database: str, user: str, query: str = "", host: str = "localhost") -> str:
        """A url without a password."""
        return f"postgresql://{user}@{host}:{self.port}/{database}?{query}"

    def connections(self, database: str) -> set[tuple[str | None, bool]]:
        """Who is connected to a database, and whether by TLS."""
        rows = self.query(
            "select a.usename, s.ssl from pg_stat_activity a join pg_stat_ssl s using (pid) "
            f"where a.datname = '{database}' and a.usename <> 'postgres'"
        )
        return {(user, ssl == "t") for user, ssl in rows}
