"""A program that has opened onecommit follows the settings that change at run time."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import onecommit
import psycopg
import pytest

from tests.e2e.waiting import wait_until

from .conftest import MODULE
from .short_deadlines import Reached, until_reached
from .two_databases import Connections, TwoDatabases

KEY = "coordinator.deadline_ms"
LIMIT_MS = 3000
LOCK_LIMIT_MS = "select setting::int from pg_settings where name = 'lock_timeout'"
CHANGED = "a setting has changed"


def settings(config: Path, *words: str) -> None:
    subprocess.run([*MODULE, "--config", str(config), "settings", *words], check=True)


def test_a_deadline_that_is_set_holds_for_the_next_transaction(
    two_databases: TwoDatabases,
    connect_both: Callable[[], Connections],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    config = two_databases.config
    pay = "update orders set paid = true where id = 42"

    def pay_in_vain(reached: Reached) -> None:
        conns = connect_both()
        with oc.transaction(**conns):
            limit = conns["orders"].execute(LOCK_LIMIT_MS).fetchone()
            assert limit is not None and limit[0] <= LIMIT_MS, limit
            reached()
            conns["orders"].execute(pay)

    with onecommit.open(config) as oc, two_databases.connect("orders") as other:
        settings(config, "set", KEY, str(LIMIT_MS))
        try:
            wait_until(lambda: CHANGED in caplog.text, "it is told", explain=lambda: caplog.text)
            other.execute(pay)
            # Under the deadline of 30 s that it began with, this would wait for as long.
            with pytest.raises(psycopg.errors.LockNotAvailable):
                until_reached(pay_in_vain)
            other.rollback()
        finally:
            settings(config, "unset", KEY)
