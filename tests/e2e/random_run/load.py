"""The load of a run: eight writers of all kinds of transactions, and pgbench.

Whatever they publish goes into the ledger by the same statement. A message's place among its key's
is its id: whoever publishes for a key that others publish for has locked a row of that key before.
"""

from __future__ import annotations

import random
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from tests.servers.process import Process, tail

from ..dead_letters import TOO_LARGE
from ..postgres_outbox import CHANGE, KEYS, Connection, Writers, connect, publish
from ..waiting import LIMIT_S
from .journal import Journal

ACCOUNTS = 200
# What is committed has to be delivered in the end, by few cores that bring servers back meanwhile.
PAUSE_S = 0.3
MORE_ACCOUNTS = f"""
insert into account (name)
select convert_to('key-' || n, 'UTF8') from generate_series({KEYS + 1}, {ACCOUNTS}) n;
create table foreign_work (number bigint);
"""
# pgbench's own transaction updates account, teller and branch before it writes its history.
ANNOUNCE = """
create function announce() returns trigger language plpgsql as $$
declare k bytea;
begin
  foreach k in array array[convert_to('pgbench teller ' || new.tid, 'UTF8'),
                           convert_to('pgbench branch ' || new.bid, 'UTF8')] loop
    insert into ledger (message_id, topic, key, digest, place)
    select onecommit.publish('{topic}', convert_from(k, 'UTF8'), new.delta::text), '{topic}', k,
      md5(new.delta::text), currval('onecommit.outbox_id_seq');
  end loop;
  return new;
end $$;
create trigger announce after insert on pgbench_history for each row execute function announce();
"""
PROCESSED = re.compile(r"transactions actually processed: (\d+)")


class AllKinds(Writers):
    """Writers with savepoints, long and prepared transactions, and messages that are too large."""

    threads = 8
    # A standby that is not promoted yet takes no changes.
    away = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction)

    def __init__(self, url: str, topic: str, small: str, seed: int, journal: Journal) -> None:
        self._small = small
        self._journal = journal
        self._prepared: list[str] = []
        self._numbers = iter(range(1_000_000_000))
        self._lock = threading.Lock()
        with connect(url) as connection:
            connection.execute(MORE_ACCOUNTS)
        super().__init__(url, topic, seed, "on")

    def resolve_prepared(self, chance: random.Random) -> None:
        """Ends what is still prepared, by whatever accident; when they have stopped."""
        with connect(self.url) as connection:
            rows = connection.execute(
                "select gid from pg_prepared_xacts where database = current_database() order by gid"
            ).fetchall()
            for (gid,) in rows:
                self._end_prepared(connection, chance, str(gid))

    def _transaction(self, connection: Connection, chance: random.Random) -> None:
        self._stop.wait(chance.random() * PAUSE_S)
        kind = chance.random()
        if kind < 0.03:
            self._prepare(connection, chance)
        elif kind < 0.08 and self._prepared:
            with self._lock:
                gid = self._prepared.pop(chance.randrange(len(self._prepared)))
            self._end_prepared(connection, chance, gid)
        else:
            self._ordinary(connection, chance, is_long=kind > 0.98)

    def _ordinary(self, connection: Connection, chance: random.Random, *, is_long: bool) -> None:
        numbers = sorted(chance.sample(range(1, ACCOUNTS + 1), chance.randint(1, 3)))
        keys: list[bytes | None] = [f"key-{number}".encode() for number in numbers]
        if chance.random() < 0.1:
            keys.append(None)
        commits = chance.random() < 0.8
        with connection.transaction(force_rollback=not commits):
            for key in keys:
                if key is not None:
                    connection.execute(CHANGE, [key])
                self._publish(connection, chance, key)
                if chance.random() < 0.15:
                    self._in_savepoint(connection, chance, key)
            if is_long:
                self._stop.wait(chance.uniform(0.5, 3.0))
        self.committed += commits
        if is_long and commits:
            self._journal.count("long transaction")

    def _publish(self, connection: Connection, chance: random.Random, key: bytes | None) -> None:
        topic = self._small if chance.random() < 0.33 else self.topic
        # One of a hundred messages.
        if topic == self._small and chance.random() < 0.03:
            publish(connection, topic, key, TOO_LARGE)
        else:
            publish(connection, topic, key, chance.randbytes(chance.randint(0, 200)))

    def _in_savepoint(
        self, connection: Connection, chance: random.Random, key: bytes | None
    ) -> None:
        is_kept = chance.random() < 0.5
        with connection.transaction(force_rollback=not is_kept):
            self._publish(connection, chance, key)
        self._journal.count("savepoint kept" if is_kept else "savepoint rolled back")

    def _prepare(self, connection: Connection, chance: random.Random) -> None:
        """With messages under a key of its own, or of somebody to whom the outbox is foreign."""
        is_foreign = chance.random() < 0.3
        with self._lock:
            gid = f"{self.url.rpartition('/')[2]} {next(self._numbers)}"
        connection.execute("begin")
        if is_foreign:
            connection.execute("insert into foreign_work values (1)")
        else:
            publish(connection, self.topic, gid.encode(), b"prepared")
        connection.execute(f"prepare transaction '{gid}'".encode())
        with self._lock:
            self._prepared.append(gid)
        self._journal.count("foreign prepared" if is_foreign else "prepared")

    def _end_prepared(self, connection: Connection, chance: random.Random, gid: str) -> None:
        end = "commit" if chance.random() < 0.7 else "rollback"
        try:
            connection.execute(f"{end} prepared '{gid}'".encode())
        except psycopg.errors.UndefinedObject:
            return  # ended already, by a request whose answer was lost
        self._journal.count(f"prepared, then {end}")


class PgBench:
    """pgbench's own transactions; a trigger publishes them."""

    clients = 2
    rate_per_s = 10
    run_s = 3

    def __init__(
        self, programs: Path, url: str, topic: str, folder: Path, journal: Journal
    ) -> None:
        self._program = str(programs / "pgbench")
        self._url = url
        self._log = folder / "pgbench.log"
        self._journal = journal
        self._stop = threading.Event()
        self._run("-i", "-s", "1", "-q")
        with connect(url) as connection:
            connection.execute(ANNOUNCE.format(topic=topic).encode())
        self._pool = ThreadPoolExecutor(1)
        self._running = self._pool.submit(self._run_again_and_again)

    def stop(self) -> None:
        """Ends it behind its present run, and tells how many transactions there were."""
        self._stop.set()
        self._pool.shutdown()
        self._running.result()
        done = sum(map(int, PROCESSED.findall(self._log.read_text(errors="replace"))))
        self._journal.count("pgbench transaction", done)

    def _run_again_and_again(self) -> None:
        while not self._stop.is_set():
            load = ["-n", "-c", str(self.clients), "-R", str(self.rate_per_s)]
            # It gives up when its connections are gone; users of it begin again.
            self._run(*load, "-T", str(self.run_s), may_fail=True)
            self._stop.wait(0.1)

    def _run(self, *words: str, may_fail: bool = False) -> None:
        process = Process([self._program, *words, self._url], log=self._log)
        try:
            status = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.end()
            raise AssertionError(f"pgbench {words} does not end\n{tail(self._log)}") from None
        assert status == 0 or may_fail, f"pgbench {words} ended with {status}\n{tail(self._log)}"
