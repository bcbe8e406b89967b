"""docs/transactions.md and the README's two databases: followed and called; what is isolated,
refused and allowed is tried."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onecommit
import psycopg
import pytest

from tests.e2e.installation import PostgresInstallation
from tests.python.short_deadlines import Reached, until_reached

from .document import README, Block, blocks, python_of, text_of
from .follower import PATIENCE, Follower

TRANSACTIONS, SECURITY, LOCKS = "docs/transactions.md", "docs/security.md", "docs/locks.md"
STEPS, TOLD, ISOLATION = "## Step by step", "## What you are told", "## Isolation"
TWO_DATABASES = "## Several databases and Kafka in one transaction"
RIGHTS = "## Give each role its least rights in PostgreSQL"
PREPARED = "select count(*) from pg_prepared_xacts where database = current_database()"
SAVINGS = (
    "create table savings (id int primary key, total int); insert into savings values (1, 100)"
)
TABLES = {
    "orders": "create table orders (id int, state text); insert into orders values (42, 'new')",
    "billing": "create table payments (id int, total int)",
}
# What PREPARE refuses.
UNPREPARABLE = [
    "create temporary table mine (id int)",
    "listen payments",
    "notify payments",
    "declare mine cursor with hold for select 1",
    "select pg_export_snapshot()",
]
NO_LIMIT_S = 300.0
# For a begin, and a wait in vain.
SHORT_S = 3.0
Conns = dict[str, psycopg.Connection[Any]]


@pytest.fixture
def urls(made: PostgresInstallation) -> Iterator[dict[str, str]]:
    """The two databases; the second one is a reader's own, too."""
    billing = f"{made.name.replace('-', '_')}_billing"
    server, _, _ = made.database_url.rpartition("/")
    with psycopg.connect(made.database_url, autocommit=True) as admin:
        admin.execute(f"create database {billing}".encode())
        yield {"orders": made.database_url, "billing": f"{server}/{billing}"}
        admin.execute(f"drop database {billing} with (force)".encode())


@pytest.fixture
def two(put: dict[str, str], urls: Mapping[str, str]) -> dict[str, str]:
    """The addresses of this test."""
    return {**put, "app@127.0.0.1/billing": urls["billing"].removeprefix("postgresql://")}


@pytest.fixture
def ready(
    follower: Follower,
    two: Mapping[str, str],
    urls: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Follower:
    """Somebody who has followed the document to `onecommit init`, with tables as in it."""
    found = [
        block
        for block in blocks(TRANSACTIONS, STEPS, two)
        if block.file_name == "onecommit.toml" or "onecommit init" in block.text
    ]
    follower.follow(found)
    for name, url in urls.items():
        with psycopg.connect(url) as conn:
            conn.execute(f"{TABLES[name]}; {SAVINGS}".encode())
    monkeypatch.chdir(follower.folder)  # where decisions.db is
    for name, value in PATIENCE.items():
        monkeypatch.setenv(name, value)
    return follower


@pytest.fixture
def oc(ready: Follower) -> Iterator[onecommit.Onecommit]:
    with onecommit.open(ready.folder / "onecommit.toml") as opened:
        yield opened


@pytest.fixture
def connect(urls: Mapping[str, str]) -> Iterator[Any]:
    """Opens connections to both that end with the test."""
    with ExitStack() as stack:

        def opened(role: str | None = None) -> Conns:
            found = {}
            for name, url in urls.items():
                at = psycopg.conninfo.make_conninfo(url, **({"user": role} if role else {}))
                found[name] = stack.enter_context(psycopg.connect(at, autocommit=True))
            return found

        yield opened


@pytest.fixture
def defined(two: Mapping[str, str], tmp_path: Path) -> dict[str, Any]:
    """What the document's programs define that are no files."""
    parts = [python_of(blocks(TRANSACTIONS, heading, two)) for heading in (TOLD, ISOLATION)]
    file = tmp_path / "program.py"
    file.write_text("".join(parts))
    return runpy.run_path(str(file))


def numbers(urls: Mapping[str, str], sql: str) -> list[int]:
    """What each database answers."""
    found = []
    for url in urls.values():
        with psycopg.connect(url) as conn:
            row = conn.execute(sql.encode()).fetchone()
        assert row is not None
        found.append(int(row[0]))
    return found


def test_step_by_step(follower: Follower, two: Mapping[str, str], urls: Mapping[str, str]) -> None:
    text = text_of(TRANSACTIONS)
    (setting,) = re.findall(r"^max_prepared_transactions = \d+$", text, re.MULTILINE)
    steps = [block for block in blocks(TRANSACTIONS, STEPS, two) if setting not in block.text]
    follower.follow(steps)
    assert follower.sql("select state from orders order by id") == [("paid",), ("paid",)]
    assert numbers({"billing": urls["billing"]}, "select sum(total) from payments") == [130]
    assert numbers(urls, PREPARED) == [0, 0]


def test_the_readmes_two_databases(
    ready: Follower, two: Mapping[str, str], urls: Mapping[str, str]
) -> None:
    program = python_of(blocks(README, TWO_DATABASES, two))
    assert len(program.splitlines()) < 20
    ready.run(Block("python", program))
    assert ready.sql("select state from orders where id = 42") == [("paid",)]
    assert numbers({"billing": urls["billing"]}, "select sum(total) from payments") == [100]
    toml = "".join(
        block.text for block in blocks(README, TWO_DATABASES, two) if block.language == "toml"
    )
    assert toml in (ready.folder / "onecommit.toml").read_text()


def test_paying(oc: onecommit.Onecommit, connect: Any, defined: Mapping[str, Any]) -> None:
    conns = connect()
    assert defined["pay"](oc, order=42, total=100, **conns) == "paid"
    conns["orders"].execute("drop table orders")
    with pytest.raises(psycopg.errors.UndefinedTable):
        defined["pay"](oc, order=43, total=100, **conns)
    assert conns["billing"].execute("select id from payments").fetchall() == [(42,)]


def test_the_words_for_what_is_known_of_a_transaction(
    oc: onecommit.Onecommit, connect: Any, ready: Follower
) -> None:
    conns = connect()
    with oc.transaction(**conns) as tx:
        conns["orders"].execute("insert into orders values (44, 'new')")
        other = connect()["billing"]
        # As Onecommit names a branch; it is of no coordinator that the decision log knows.
        shown = ready.run(Block("sh", "onecommit --json init\n"))
        name = f"oc1:shop:{json.loads(shown)['incarnation']}:{tx.id}:billing"
        other.execute("begin; insert into payments values (44, 1)")
        other.execute(f"prepare transaction '{name}'".encode())
    command = Block("sh", f"onecommit transaction show {tx.id}\n")
    said = ready.run(command)
    other.execute(f"rollback prepared '{name}'".encode())
    for text, word in [(said, "orphaned"), (ready.run(command), "not kept")]:
        assert text.startswith(f"{tx.id}: {word}") and f"`{word}`" in text_of(TRANSACTIONS)


def test_write_skew_commits_over_two_serializable_databases(
    oc: onecommit.Onecommit, connect: Any, defined: Mapping[str, Any], urls: Mapping[str, str]
) -> None:
    defined["withdraw_both"](oc, connect(), connect(), 150)
    assert numbers(urls, "select total from savings") == [-50, -50]


def test_who_locks_what_it_reads_is_waited_for(
    oc: onecommit.Onecommit, connect: Any, defined: Mapping[str, Any]
) -> None:
    first, lock = connect(), "for update"

    def lock_in_vain(reached: Reached) -> None:
        second = connect()
        with oc.transaction(deadline=SHORT_S, **second):
            reached()
            defined["total"](**second, lock=lock)

    with oc.transaction(isolation="serializable", deadline=NO_LIMIT_S, **first) as tx:
        assert defined["total"](**first, lock=lock) == 200
        with pytest.raises(psycopg.errors.LockNotAvailable):
            until_reached(lock_in_vain)
        first["billing"].execute("update savings set total = total - 150")
    assert tx.protocol == "two-phase", "also a branch that only locked keeps its locks until then"
    assert defined["total"](**connect(), lock=lock) == 50


def test_who_takes_a_lock_sees_what_the_one_before_has_left(
    oc: onecommit.Onecommit,
    connect: Any,
    two: Mapping[str, str],
    urls: Mapping[str, str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "locks.py"
    file.write_text(python_of(blocks(LOCKS, "# Locks and leader election", two)))
    program = runpy.run_path(str(file))
    at_once = [(connect(), database) for database in ("orders", "billing")]
    with ThreadPoolExecutor(len(at_once)) as pool:
        withdrawn = [
            pool.submit(program["withdraw"], oc, conns, database, 150)
            for conns, database in at_once
        ]
        assert sorted(one.result(NO_LIMIT_S) for one in withdrawn) == [False, True]
    assert sum(numbers(urls, "select total from savings")) == 50
    assert program["report"](oc) < program["report"](oc)
    assert program["lead"](oc, 3) < program["lead"](oc, 3)


def test_read_uncommitted_is_read_committed(oc: onecommit.Onecommit, connect: Any) -> None:
    conns = connect()
    with oc.transaction(isolation="read uncommitted", **conns):
        shown = conns["billing"].execute("show transaction_isolation").fetchone()
    assert shown == ("read committed",)


@pytest.mark.parametrize("statement", UNPREPARABLE)
def test_what_can_not_be_prepared_is_refused_and_works_where_one_branch_writes(
    oc: onecommit.Onecommit, connect: Any, urls: Mapping[str, str], statement: str
) -> None:
    conns = connect()
    pay, note = "insert into payments values (42, 1)", "update orders set state = 'paid'"
    refused = pytest.raises(onecommit.InvalidError, match="cannot PREPARE")
    with refused as told, oc.transaction(**conns):
        conns["orders"].execute(note)
        conns["billing"].execute(f"{statement}; {pay}".encode())
    assert "rolled back" in str(told.value) and "participant: billing" in str(told.value)
    assert numbers(urls, PREPARED) == [0, 0]
    with oc.transaction(**conns) as tx:
        conns["orders"].execute("select state from orders")
        conns["billing"].execute(f"{statement}; {pay}".encode())
    assert tx.protocol == "one-phase"
    assert numbers({"billing": urls["billing"]}, "select count(*) from payments") == [1]


def test_the_rights_of_both_users(
    ready: Follower, made: PostgresInstallation, urls: Mapping[str, str], connect: Any
) -> None:
    """The application's own user and the participants' user have what docs/security.md says."""
    roles = {name: f"{made.name.replace('-', '_')}_{name}" for name in ("writer", "coordinator")}
    application, coordinator = roles.values()
    sql = "".join(block.text for block in blocks(SECURITY, RIGHTS, {}) if block.language == "sql")
    grants = {
        name: re.findall(rf"^(grant .* to )orders_{name};$", sql, re.MULTILINE) for name in roles
    }
    config = ready.folder / "onecommit.toml"
    config.write_text(config.read_text().replace("postgres@", f"{coordinator}@"))
    owner = connect()
    with ExitStack() as stack:
        for role in roles.values():
            # Otherwise it would have the application's rights besides its own.
            owner["orders"].execute(f"create role {role} login noinherit".encode())
            stack.callback(owner["orders"].execute, f"drop role {role}".encode())
        for conn in owner.values():
            for name, role in roles.items():
                stack.callback(conn.execute, f"drop owned by {role}".encode())
                for grant in grants[name]:
                    conn.execute(f"{grant}{role}".encode())
            for table in ("orders", "payments"):
                exists = f"select to_regclass('{table}') is not null"
                if conn.execute(exists.encode()).fetchone() == (True,):
                    conn.execute(f"grant insert on {table} to {application}".encode())

        def pay() -> str | None:
            conns = connect(application)
            with onecommit.open(config) as oc, oc.transaction(**conns) as tx:
                conns["orders"].execute("insert into orders values (1, 'paid')")
                conns["billing"].execute("insert into payments values (1, 100)")
                tx.publish("order.paid", key="1", outbox="orders")
            assert tx.applied
            return tx.protocol

        with pytest.raises(onecommit.ConfigurationError, match="recovery could not take"):
            pay()
        owner["orders"].execute(f"grant {application} to {coordinator}".encode())
        assert pay() == "two-phase"
        for grant in grants["coordinator"]:
            rights, _, thing = grant.removeprefix("grant ").removesuffix(" to ").partition(" on ")
            for right in rights.split(", "):
                if (right, thing) == ("delete", "onecommit.coordinator"):
                    continue  # only old rows are deleted
                owner["billing"].execute(f"revoke {right} on {thing} from {coordinator}".encode())
                with pytest.raises(onecommit.Error, match=r"lacks a right|take .* mark in time"):
                    pay()
                owner["billing"].execute(f"grant {right} on {thing} to {coordinator}".encode())
        assert pay() == "two-phase"
    assert numbers(urls, PREPARED) == [0, 0]
