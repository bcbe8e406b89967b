"""What `status`, `doctor` and a relay's metrics say of transactions over several databases."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.servers import Postgres

from .admin_client import watched_relay
from .installation import PostgresInstallation, Servers, postgres_to_topic_log
from .standby import Standby
from .transacting_application import WAITS_PREPARED
from .two_databases import TwoDatabases, execute, opened, prepared
from .waiting import wait_until

COUNTS = ("alive", "recovering", "dead", "orphan")
Finding = dict[str, str]


@pytest.fixture
def both(servers: Servers, tmp_path: Path) -> Iterator[TwoDatabases]:
    """With the decision log in a file."""
    with opened(postgres_to_topic_log(servers, tmp_path), servers) as made:
        yield made


@pytest.fixture
def in_zookeeper(servers: Servers, tmp_path: Path) -> Iterator[TwoDatabases]:
    with opened(PostgresInstallation(servers, tmp_path, zookeeper=True), servers) as made:
        yield made


def status(both: TwoDatabases) -> Any:
    """What `status` says of transactions."""
    told = json.loads(both.installation.command_line.succeed("--json", "status"))
    return told["transactions"]


def counts(told: Any) -> list[int]:
    return [told[f"{state}_coordinators"] for state in COUNTS]


def findings(both: TwoDatabases) -> list[Finding]:
    """What the doctor says, as long as a server is late again."""
    done = both.installation.command_line.reached("--json", "doctor")
    found: list[Finding] = json.loads(done.stdout)["findings"]
    return found


def has(found: list[Finding], severity: str, *words: str) -> bool:
    said = [str(one) for one in found if one["severity"] == severity]
    return any(all(word in one for word in words) for one in said)


def wait_status(both: TwoDatabases, is_told: Callable[[Any], bool], what: str) -> Any:
    last: list[Any] = []

    def told() -> bool:
        last.append(status(both))
        return is_told(last[-1])

    wait_until(told, what, explain=lambda: str(last[-1]))
    return last[-1]


def test_nothing_is_made_by_who_only_looks(both: TwoDatabases) -> None:
    assert status(both) is None and has(findings(both), "ok", "rights that coordinators need")
    data = both.installation.folder / "data"
    assert not list(data.glob("decisions.db*"))


def are_prepared(told: Any) -> bool:
    return told is not None and bool(told["prepared_branches"] == 2)


def is_seen(both: TwoDatabases) -> None:
    """One that lives, and its death."""
    both.live_long()
    with both.application(WAITS_PREPARED) as application:
        told = wait_status(both, are_prepared, "both are prepared")
        assert counts(told) == [1, 0, 0, 0]
        assert (told["in_doubt_transactions"], told["oldest_in_doubt_age_ms"]) == (0, None)
        assert told["unsettled"] == told["refusals"] == []
        line = both.installation.command_line.succeed("status").splitlines()[-1]
        assert line.startswith("transactions: none in doubt; 2 branches prepared"), line
    told = wait_status(both, lambda told: counts(told) == [0, 0, 1, 0], "its death is noticed")
    assert told["in_doubt_transactions"] == 1 and told["oldest_in_doubt_age_ms"] > 0
    (unsettled,) = told["unsettled"]
    assert unsettled["coordinator"] == application.coordinator
    assert unsettled["pid"] == application.process.pid and unsettled["state"] == "dead"
    assert unsettled["participants"] == ["billing", "main"] and told["refusals"] == []
    said = both.installation.command_line.succeed("status")
    assert "1 in doubt, the oldest for" in said, said
    assert f"process {application.process.pid} on" in said, said
    found = findings(both)
    assert has(found, "warning", "1 dead and not recovered", "transaction resolve"), found


def test_the_dead_are_told_from_the_living(both: TwoDatabases) -> None:
    is_seen(both)
    both.installation.configure()
    (refusal,) = status(both)["refusals"]
    assert "not in this configuration" in refusal and "billing" in refusal
    assert has(findings(both), "problem", "not in this configuration", "docs/refusals.md")


def test_the_dead_are_told_from_the_living_in_zookeeper(in_zookeeper: TwoDatabases) -> None:
    is_seen(in_zookeeper)
    in_zookeeper.installation.configure()
    assert "not in this configuration" in status(in_zookeeper)["refusals"][0]


def test_watching_shows_transactions_too(both: TwoDatabases) -> None:
    both.die_prepared()
    arguments = both.installation.command_line.arguments("--json", "status", "--watch", "1")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told: dict[str, Any] = {}
        # A line without it says why: a busy server was late.
        while "in_doubt_transactions" not in told:
            told = json.loads(child.stdout.readline())["transactions"]
        assert told["in_doubt_transactions"] == 1, told
        child.terminate()


def test_a_relay_that_settles_counts_it(both: TwoDatabases) -> None:
    both.die_prepared()
    relay, admin = watched_relay(both.installation, {"participants.billing": {"url": both.url}})
    admin.wait_ready()
    admin.wait_sum("onecommit_settled_coordinators_total", 1)
    for name in ("dead_coordinators", "branches_in_doubt", "recovery_refused"):
        admin.wait_sum(f"onecommit_{name}", 0)
    admin.wait_sum("onecommit_oldest_branch_in_doubt_age_seconds", 0)
    relay.stop()


@pytest.mark.parametrize("log", ["both", "in_zookeeper"])
def test_a_relay_of_one_database_settles_what_held_a_lock(
    log: str, request: pytest.FixtureRequest
) -> None:
    both: TwoDatabases = request.getfixturevalue(log)
    both.installation.configure()
    relay, admin = watched_relay(both.installation)
    admin.wait_ready()
    both.die_with_a_lock()
    admin.wait_sum("onecommit_settled_coordinators_total", 1)
    assert prepared(both.installation.outbox.url) == []
    relay.stop()


def test_what_waits_for_a_person_is_told_everywhere(both: TwoDatabases) -> None:
    both.die_prepared()
    urls = [both.installation.outbox.url, both.url]
    for url in urls:
        execute(url, "update onecommit.coordinator set mark = 1000")
    relay, admin = watched_relay(both.installation, {"participants.billing": {"url": both.url}})
    admin.wait_ready()
    admin.wait_sum("onecommit_recovery_refused", 2)
    admin.wait_sum("onecommit_dead_coordinators", 1)
    admin.wait_sum("onecommit_branches_in_doubt", 2)
    assert admin.sums("onecommit_oldest_branch_in_doubt_age_seconds")[0] > 0
    told = wait_status(both, lambda told: counts(told) == [0, 0, 1, 0], "the relay lets it go")
    assert told["in_doubt_transactions"] == 1 and len(told["refusals"]) == 2
    for url in urls:
        (name,) = prepared(url)
        assert any(name in refusal for refusal in told["refusals"]), told
    assert "waits for a person" in both.installation.command_line.succeed("status")
    found = findings(both)
    assert has(found, "problem", "Nothing was touched", "transaction resolve"), found
    relay.stop()


def test_branches_that_no_record_names(both: TwoDatabases) -> None:
    both.transact()
    with psycopg.connect(both.url) as connection:
        row = connection.execute("select incarnation from onecommit.installation").fetchone()
    assert row is not None
    name = f"oc1:{both.installation.name}:{row[0]}:{uuid.uuid4()}:1:billing"
    with psycopg.connect(both.url, autocommit=True) as connection:
        connection.execute("begin")
        connection.execute("insert into payment values (1)")
        connection.execute(f"prepare transaction '{name}'".encode())
    told = wait_status(both, lambda told: told["alive_coordinators"] == 0, "the other one is dead")
    assert told["orphan_coordinators"] == 1 and told["in_doubt_transactions"] == 1
    (refusal,) = told["refusals"]
    assert "does not know" in refusal and name in refusal


def test_a_role_that_recovery_can_not_take(both: TwoDatabases) -> None:
    role, url = f"{both.installation.name}_role", urlsplit(both.url)
    as_role = url._replace(netloc=f"{role}@{url.hostname}:{url.port}").geturl()
    execute(both.url, f"create role {role} login")
    try:
        execute(both.url, f"grant usage on schema onecommit to {role}")
        execute(both.url, f"grant all on all tables in schema onecommit to {role}")
        both.die_prepared()
        both.installation.configure(other={"participants.billing": {"url": as_role}})
        wanted = ("problem", "can't take the role", "postgres")
        wait_until(lambda: has(findings(both), *wanted), "the role is told")
    finally:
        both.installation.configure(other={"participants.billing": {"url": both.url}})
        execute(both.url, f"drop owned by {role}")
        execute(both.url, f"drop role {role}")


def test_what_a_server_has_too_little_of(servers: Servers, tmp_path: Path) -> None:
    few = {"max_prepared_transactions": "0", "max_connections": "60"}
    with Postgres(settings=few) as own:
        at = replace(servers, postgres=own.dsn)
        with opened(postgres_to_topic_log(at, tmp_path), at) as both:
            assert has(findings(both), "problem", "max_prepared_transactions = 0", "billing")
            own.query("alter system set max_prepared_transactions = 50")
            own.restart()
            wanted = ("warning", "max_prepared_transactions = 50", "max_connections (60)")
            wait_until(lambda: has(findings(both), *wanted), "too few are told")
            with Standby(own):
                wanted = ("warning", "none of them synchronous", "synchronous_standby_names")
                wait_until(lambda: has(findings(both), *wanted), "the standby is told")
