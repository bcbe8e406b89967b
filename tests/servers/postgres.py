"""Real PostgreSQL servers: version 15 from apt, the oldest and newest from Maven Central.

PostgreSQL refuses to run as root, so under root it runs as the system user `postgres`, which is
made where it is missing. Promises a server on 127.0.0.1 only, without passwords, with two-phase
commit and logical decoding possible, and with fsync on: what it called committed survives `kill`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from .fetch import postgres_programs
from .ports import free_port
from .postgres_wire import LIMIT_S, query
from .process import Account, ServerError, tail
from .server import Server

SYSTEM_USER = "postgres"
SETTINGS = {
    "max_connections": "600",
    "max_prepared_transactions": "1200",
    "wal_level": "logical",
    "listen_addresses": "127.0.0.1",
    "log_line_prefix": "%m [%p] ",
}
StopMode = Literal["smart", "fast", "immediate"]
STOP_SIGNALS = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}


class Postgres(Server):
    """One PostgreSQL server. `settings` are added to, or replace, those of postgresql.conf."""

    farewell: signal.Signals = signal.SIGQUIT  # so that it gives its shared memory back

    def __init__(self, version: str = "15", settings: Mapping[str, str] | None = None) -> None:
        super().__init__(f"PostgreSQL {version}")
        self.version = version
        self.port = free_port()
        self._settings = {**SETTINGS, **(settings or {})}
        self._programs = Path()
        self._data = self.folder / "data"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def programs(self) -> Path:
        """The folder of its programs, once it has started."""
        return self._programs

    @property
    def dsn(self) -> str:
        return self.database_url("postgres")

    def database_url(self, name: str) -> str:
        return f"postgresql://postgres@{self.address}/{quote(name, safe='')}"

    def query(
        self, sql: str, database: str = "postgres", limit_s: float = LIMIT_S
    ) -> list[tuple[str | None, ...]]:
        """Runs one statement (or several, as one transaction); values come back as text. No answer
        within `limit_s` is a `TimeoutError`."""
        return query(self.port, sql, database, limit_s)

    def create_database(self, name: str) -> str:
        """Creates a database and returns its url."""
        quoted = name.replace('"', '""')
        self.query(f'create database "{quoted}"')
        return self.database_url(name)

    def stop(self, mode: StopMode = "fast") -> None:
        """`immediate` ends every backend without a checkpoint; the next start recovers."""
        self.ask_to_stop(STOP_SIGNALS[mode])
        self.wait_until_stopped()

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def pause(self) -> None:
        """SIGSTOP to the postmaster only: new connections hang, open ones go on."""
        super().pause()

    def close(self) -> None:
        """Ends the server for good; a killed one is started once more."""
        left = self._prepared and not self.running and (self._data / "postmaster.pid").exists()
        try:
            if left and not self._closed:
                self.start()  # only PostgreSQL itself finds the shared memory a killed one left
        finally:
            super().close()

    def _fetch(self) -> None:
        self._programs = postgres_programs(self.version)

    def _prepare(self) -> None:
        socket_folder = self.folder / "socket"
        socket_folder.mkdir()
        if os.geteuid() == 0:
            self.account = system_account()
            for owned in (self.folder, socket_folder):
                os.chown(owned, self.account.user, self.account.group)
            self._programs = self._programs_in_reach(self.account)
        self._initialise()
        settings = {
            **self._settings,
            "port": str(self.port),
            "unix_socket_directories": str(socket_folder),
        }
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.writelines(lines)

    def _programs_in_reach(self, account: Account) -> Path:
        """The repository may lie in root's home, closed to the user PostgreSQL runs as."""
        postgres = [str(self._programs / "postgres"), "--version"]
        try:
            subprocess.run(
                postgres,
                user=account.user,
                group=account.group,
                extra_groups=[],
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                check=True,
            )
        except PermissionError:
            copy = self.folder / "programs"
            shutil.copytree(self._programs.parent, copy, symlinks=True)
            subprocess.run(["chmod", "-R", "a+rX", copy], check=True)
            return copy / "bin"
        return self._programs

    def _initialise(self) -> None:
        log = self.folder / "initdb.log"
        command = [str(self._programs / "initdb"), "-D", str(self._data), "-U", "postgres"]
        # no-sync is about initdb's own files only; the server started on them does sync
        command += ["-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        # SIGTERM as farewell, so that its postgres gives its shared memory back
        if self._run(command, log, signal.SIGTERM).wait() != 0:
            raise ServerError(f"initdb of {self.title} failed\n{tail(log)}")

    def _environment(self) -> Mapping[str, str]:
        """Without the person's own PG* variables and locale, which PostgreSQL would heed."""
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"}

    def _command(self) -> Sequence[str]:
        return [str(self._programs / "postgres"), "-D", str(self._data)]

    def _ask(self) -> None:
        if query(self.port, "select 1", limit_s=5.0) != [("1",)]:
            raise ValueError("`select 1` was answered with something else")


def system_account() -> Account:
    """The user that PostgreSQL and its pooler run as under root."""
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        add = ["useradd", "--system", "--user-group", "--no-create-home", SYSTEM_USER]
        subprocess.run(add, check=True)
        entry = pwd.getpwnam(SYSTEM_USER)
    return Account(entry.pw_uid, entry.pw_gid)
