"""A ZooKeeper that has lost its majority and only lets itself be read: nothing is decided by it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import onecommit
import psycopg
import pytest

from tests.servers import free_port
from tests.servers.ensemble import Member

from .bank import Bank
from .bank_worker import told_of
from .installation import Servers, Table
from .waiting import wait_until

READ_ONLY = "-Dreadonlymode.enabled=true"
ENTER = "insert into entry values ('mine', 0)"


class ReadOnly(Member):
    """One of three, of which the others never come."""

    modes = ("read-only",)

    def _command(self) -> Sequence[str]:
        java, *rest = super()._command()
        return [java, READ_ONLY, *rest]


def test_nothing_is_decided_by_it_and_one_branch_commits(servers: Servers, tmp_path: Path) -> None:
    ports = [f"127.0.0.1:{free_port()}:{free_port()}" for _ in range(3)]
    with (
        closing(Bank(servers, tmp_path, zookeeper=True)) as bank,
        ReadOnly(1, ports, "128m") as read_only,
        psycopg.connect(bank.databases[0].url) as here,
        psycopg.connect(bank.databases[1].url) as there,
    ):
        tables: dict[str, Table] = {"participants.billing": {"url": bank.billing.url}}
        zookeeper: Table = {"servers": read_only.address, "session_timeout_ms": 3000}
        made = bank.installation
        other = made.configure("read_only.toml", {**tables, "zookeeper": zookeeper})
        with onecommit.open(other) as oc:
            refused = pytest.raises(onecommit.UnreachableError, match="rolled back")
            with refused as caught, oc.transaction(main=here, billing=there):
                here.execute(ENTER)
                there.execute(ENTER)
            for words in ("ZooKeeper does not answer", read_only.address):
                assert words in str(caught.value), caught.value
            assert (bank.entries(), bank.prepared()) == ([{}, {}], 0)
            with oc.transaction(main=here, billing=there) as tx:
                here.execute("select * from entry")
                there.execute("update balance set total = total where account = 1")
            assert tx.protocol == "one-phase"
        with onecommit.open(bank.config) as oc:
            told: list[str] = []

            def is_committed() -> bool:
                """A busy machine may not be done by the bank's deadline."""
                told.append(told_of(oc, here, there, made.topic, f"one-{len(told)}"))
                return told[-1] == "committed"

            wait_until(is_committed, "one is committed")
        in_doubt = sum(one.startswith("in doubt") for one in told)
        assert 1 <= bank.check() <= 1 + in_doubt and "mine" not in bank.entries()[0], told
