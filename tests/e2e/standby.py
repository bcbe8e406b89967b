"""A standby of one of the tests' own PostgreSQL servers."""

from __future__ import annotations

import signal

from tests.servers import Postgres, ServerError

from .waiting import wait_until


class Standby(Postgres):
    """Follows `primary` from its first start until it is promoted."""

    def __init__(self, primary: Postgres) -> None:
        super().__init__(primary.version)
        self._primary = primary

    def _initialise(self) -> None:
        command = [
            str(self._programs / "pg_basebackup"),
            "-D",
            str(self._data),
            "-R",
            "-X",
            "stream",
        ]
        command += ["--checkpoint=fast", "--no-sync", "-U", "postgres"]
        command += ["-h", "127.0.0.1", "-p", str(self._primary.port)]
        log = self.folder / "basebackup.log"
        if self._run(command, log, signal.SIGTERM).wait() != 0:
            raise ServerError(f"pg_basebackup failed: {log.read_text()}")

    def catch_up(self) -> None:
        """Waits until everything that the primary has written now is replayed here."""
        ((end,),) = self._primary.query("select pg_current_wal_flush_lsn()::text")
        replayed = f"select pg_last_wal_replay_lsn() >= '{end}'::pg_lsn"
        wait_until(lambda: self.query(replayed) == [("t",)], "the standby has caught up")

    def cut_off(self) -> None:
        """From here on it receives nothing; replay that is only paused ends with the promotion."""
        self.query("alter system set primary_conninfo = ''")
        self.query("select pg_reload_conf()")
        receivers = "select 1 from pg_stat_wal_receiver"
        wait_until(lambda: self.query(receivers) == [], "nothing is received")

    def promote(self) -> None:
        """Makes it a primary."""
        # Not by its own wait, which is as long as that for an answer here.
        self.query("select pg_promote(false)")
        recovers = "select pg_is_in_recovery()"
        wait_until(lambda: self.query(recovers) == [("f",)], "the standby is promoted")
