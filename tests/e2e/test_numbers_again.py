"""PostgreSQL hands out a transaction's number again that a crash has forgotten: whoever rolls a
branch back that was never prepared must not take the next transaction for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onecommit
import psycopg
import pytest
from onecommit._drivers import exchange as sending

from tests.servers import Postgres

from .bank import Bank
from .bank_worker import ENTER, LOCK, MOVE
from .conftest import OwnServers
from .installation import Servers
from .postgres_crash import next_xid, nothing_flushed_by_itself
from .waiting import LIMIT_S

TRIES = 10
NUMBER = "select pg_current_xact_id()::text"


@pytest.fixture
def bank(servers: Servers, own_servers: OwnServers, tmp_path: Path) -> Iterator[Bank]:
    made = Bank(servers, tmp_path, zookeeper=False, billing=own_servers.postgres.dsn)
    yield made
    made.close()


def move(
    bank: Bank, oc: onecommit.Onecommit, transfer: str, numbers: list[int] | None = None
) -> None:
    """One transfer under the lock; notes its number in the database that may crash."""
    here, there = (psycopg.connect(url) for url in bank.way().urls)
    with here, there, oc.transaction(main=here, billing=there, deadline=LIMIT_S) as tx:
        # Who had it before has to be at its end.
        tx.lock(LOCK)
        for conn in (here, there):
            conn.execute(MOVE, [0, 1])
            conn.execute(ENTER, [transfer, 0])
        if numbers is not None:
            numbers.append(int(there.execute(NUMBER).fetchall()[0][0]))


def before_prepare(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Once, before the next PREPARE is sent."""
    original = sending.exchange

    def exchange(messages, seconds):  # type: ignore[no-untyped-def]
        if "prepare transaction" in messages[0][1]:
            monkeypatch.setattr(sending, "exchange", original)
            happens()
        return original(messages, seconds)

    monkeypatch.setattr(sending, "exchange", exchange)


def crashes(bank: Bank, postgres: Postgres) -> int:
    """Without what is not flushed; the number that is handed out next, to a stranger."""
    with nothing_flushed_by_itself(postgres) as crash:
        crash()
    postgres.start()
    number = next_xid(postgres)
    bank.billing.execute("create table if not exists stranger ()")
    bank.billing.execute("drop table stranger")
    return number


def test_a_number_that_comes_again_keeps_no_lock(
    bank: Bank, own_servers: OwnServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    came_again: list[int] = []
    with onecommit.open(bank.config) as oc:
        for attempt in range(TRIES):
            move(bank, oc, f"before-{attempt}")
            before_prepare(
                monkeypatch, lambda: came_again.append(crashes(bank, own_servers.postgres))
            )
            lost: list[int] = []
            with pytest.raises(onecommit.Error):
                move(bank, oc, f"lost-{attempt}", lost)
            move(bank, oc, f"behind-{attempt}")
            if came_again[-1] == lost[0]:
                break
        assert came_again[-1] == lost[0], "no number has come again"
    here, there = bank.entries()
    assert here.keys() == there.keys()
    assert len(here) == 2 * len(came_again), "those that were lost are nowhere"
