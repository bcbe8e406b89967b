"""Two databases in one commit from Python: with a decision log in ZooKeeper, and by SQLAlchemy's
two-phase sessions, which have none.

Run by the bench as `transfers.py onecommit|sqlalchemy URL URL ZOOKEEPER FOLDER THREADS SECONDS`,
over tables that it has made. Prints transfers per second, and how many branches are prepared at the
end.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onecommit
import psycopg
from sqlalchemy import create_engine, text
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

UPDATE = "update account set balance = balance + 1 where id = {account}"
PREPARED = "select count(*) from pg_prepared_xacts where database = current_database()"

Transfer = Callable[[int], None]


class One(DeclarativeBase):
    """What the first database's statements are bound by."""


class Two(DeclarativeBase):
    """The second one's."""


@contextmanager
def sqlalchemy(urls: list[str], threads: int) -> Iterator[Callable[[], Transfer]]:
    drivers = [url.replace("postgresql://", "postgresql+psycopg://") for url in urls]
    engines = [create_engine(url, pool_size=threads) for url in drivers]
    sessions = sessionmaker(twophase=True, binds={One: engines[0], Two: engines[1]})

    def connected() -> Transfer:
        def transfer(account: int) -> None:
            update = text(UPDATE.format(account=account))
            session: Session
            with sessions.begin() as session:
                for engine in engines:
                    session.execute(update, bind_arguments={"bind": engine})

        return transfer

    yield connected
    for engine in engines:
        engine.dispose()


@contextmanager
def ours(urls: list[str], zookeeper: str, folder: Path) -> Iterator[Callable[[], Transfer]]:
    config = folder / "onecommit.toml"
    if not config.exists():
        config.write_text(
            f'namespace = "bench"\ndata_dir = "{folder}"\n[zookeeper]\nservers = "{zookeeper}"\n'
            f'[participants.one]\nurl = "{urls[0]}"\noutbox = true\n'
            f'[participants.two]\nurl = "{urls[1]}"\n'
        )
        onecommit_init = [sys.executable, "-m", "onecommit", "init", "--config", str(config)]
        subprocess.run(onecommit_init, check=True, stdout=subprocess.DEVNULL)
    with onecommit.open(config) as node:

        def connected() -> Transfer:
            one, two = (psycopg.connect(url, autocommit=True) for url in urls)

            def transfer(account: int) -> None:
                update = UPDATE.format(account=account)
                with node.transaction(one=one, two=two):
                    one.execute(update)
                    two.execute(update)

            return transfer

        yield connected


def transfers_per_s(connected: Callable[[], Transfer], threads: int, seconds: float) -> float:
    done = [0] * threads
    together = threading.Barrier(threads)

    def run(thread: int) -> None:
        transfer = connected()
        transfer(thread)  # what is only made once
        together.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            transfer(thread)
            done[thread] += 1

    running = [threading.Thread(target=run, args=[thread]) for thread in range(threads)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    return sum(done) / seconds


def main() -> None:
    way, *urls, zookeeper, folder, threads, seconds = sys.argv[1:]
    opened = {
        "onecommit": lambda: ours(urls, zookeeper, Path(folder)),
        "sqlalchemy": lambda: sqlalchemy(urls, int(threads)),
    }
    with opened[way]() as connected:
        rate = transfers_per_s(connected, int(threads), float(seconds))
    prepared = 0
    for url in urls:
        with psycopg.connect(url) as conn:
            row = conn.execute(PREPARED).fetchone()
            prepared += row[0] if row else 0
    print(rate, prepared)


if __name__ == "__main__":
    main()
