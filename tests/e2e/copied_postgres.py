"""PostgreSQL servers that come into being from another one: from its base backup, by pg_upgrade, or
from a dump of a database."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence

from tests.servers import Postgres, ServerError

from .waiting import LIMIT_S

LOG_TAIL = 2000


class Copied(Postgres):
    """A server whose data are made from another one's at its first start."""

    def __init__(self, original: Postgres) -> None:
        super().__init__(original.version)
        self._original = original

    def _make(self, program: str, options: Sequence[str]) -> None:
        log = self.folder / f"{program}.log"
        command = [str(self._programs / program), *options, "-U", "postgres"]
        if self._run(command, log, signal.SIGTERM).wait() != 0:
            raise ServerError(f"{program} failed: {log.read_text()[-LOG_TAIL:]}")


class BaseBackup(Copied):
    """Restored from a base backup, with all that the original had committed by then."""

    def _initialise(self) -> None:
        options = ["-D", str(self._data), "-X", "stream", "--checkpoint=fast", "--no-sync"]
        address = ["-h", "127.0.0.1", "-p", str(self._original.port)]
        self._make("pg_basebackup", [*options, *address])


class Upgraded(Copied):
    """What pg_upgrade makes of the original, which is stopped: it has another identifier."""

    def _initialise(self) -> None:
        super()._initialise()
        programs = ["-b", str(self._programs), "-B", str(self._programs)]
        data = ["-d", str(self._original.folder / "data"), "-D", str(self._data)]
        ports = ["-p", str(self._original.port), "-P", str(self.port)]
        self._make("pg_upgrade", [*programs, *data, *ports])


def dump_and_load(source: Postgres, target: Postgres, database: str) -> None:
    """Moves one database by pg_dump and pg_restore."""
    target.create_database(database)
    user = ["-h", "127.0.0.1", "-U", "postgres"]
    dumped = _run(source, "pg_dump", [*user, "-p", str(source.port), "-Fc", database])
    _run(target, "pg_restore", [*user, "-p", str(target.port), "-d", database], dumped)


def _run(server: Postgres, program: str, options: Sequence[str], given: bytes = b"") -> bytes:
    command = [str(server.programs / program), *options]
    done = subprocess.run(command, input=given, capture_output=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise ServerError(f"{program} failed: {done.stderr.decode()[-LOG_TAIL:]}")
    return done.stdout
