"""`onecommit transaction resolve` and `forget`: what they show, ask, do and refuse."""

from __future__ import annotations

import json
import signal
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from .command_line import CONFIGURATION, FAILED, FAILPOINTS, REFUSED
from .installation import Servers, postgres_to_topic_log
from .transacting_application import WAITS_PREPARED
from .two_databases import TwoDatabases, execute, opened, prepared
from .waiting import wait_until


@pytest.fixture
def local(servers: Servers, tmp_path: Path) -> Iterator[TwoDatabases]:
    """With the decision log in a file."""
    with opened(postgres_to_topic_log(servers, tmp_path), servers) as both:
        yield both


def payments(both: TwoDatabases) -> int:
    with psycopg.connect(both.url) as connection:
        row = connection.execute("select count(*) from payment").fetchone()
    assert row is not None
    return int(row[0])


def decide(both: TwoDatabases, transaction: str) -> None:
    """Writes the decision of a dead coordinator, as it would have."""
    coordinator, _, number = transaction.partition(":")
    branch = {"xid": 1, "timeline": "00000001", "lsn": 0}
    branches = [{"participant": name, **branch} for name in ("main", "billing")]
    decision = json.dumps({"number": int(number), "branches": branches})
    row = (uuid.UUID(coordinator).bytes, 0, b"\x01" + decision.encode() + b"\n")
    with closing(sqlite3.connect(both.installation.folder / "data" / "decisions.db")) as log, log:
        log.execute("insert into decision (coordinator, batch, bytes) values (?, ?, ?)", row)


def without_billing(both: TwoDatabases) -> None:
    both.installation.configure()


def with_billing(both: TwoDatabases) -> None:
    both.installation.configure(other={"participants.billing": {"url": both.url}})


def told(both: TwoDatabases, *words: str, code: int = 0) -> Any:
    """What a command says with `--json`, once its servers answer and the dead count as such."""
    answers: list[Any] = []

    def is_told() -> bool:
        done = both.installation.command_line.reached("--json", *words)
        answers.append(done)
        return done.returncode == code

    wait_until(is_told, f"it ends with {code}", explain=lambda: str(answers[-1]))
    return json.loads(answers[-1].stdout or answers[-1].stderr.splitlines()[-1])


def test_what_a_dead_program_left_is_resolved(databases: TwoDatabases) -> None:
    both, transaction = databases, databases.die_prepared()
    shown = told(both, "transaction", "resolve", transaction, "--yes")
    assert shown == {
        "transaction": transaction,
        "state": "rolled back",
        "resolved": True,
        "prepared": [],
        "left": [],
        "facts": [],
        "by_hand": [],
    }
    assert prepared(both.url) == prepared(both.installation.outbox.url) == []
    again = told(both, "transaction", "resolve", transaction)
    assert (again["state"], again["resolved"]) == ("rolled back", True), "it needs no answer now"
    assert told(both, "transaction", "show", transaction)["state"] == "rolled back"


def test_it_shows_what_it_would_do_and_asks(local: TwoDatabases) -> None:
    both, command_line = local, local.installation.command_line
    transaction = both.die_prepared()
    decide(both, transaction)
    words = ("transaction", "resolve", transaction)
    done = command_line.reached(*words)
    assert done.returncode == CONFIGURATION and "--yes" in done.stderr, done
    assert done.stdout.count("to be committed: oc1:") == 2, done
    assert command_line.answered("wrong", *words).returncode == FAILED
    assert len(prepared(both.url)) == 1, "nothing was done"
    number = transaction.partition(":")[2]
    done = command_line.answered(number, *words)
    assert done.returncode == 0 and f"{transaction}: committed" in done.stdout, done
    assert (prepared(both.url), payments(both)) == ([], 1)


def test_the_living_settle_their_own(databases: TwoDatabases) -> None:
    both, command_line = databases, databases.installation.command_line
    both.live_long()
    with both.application(WAITS_PREPARED) as application:
        wait_until(lambda: prepared(both.url), "its branch is prepared")
        for words in [("resolve", application.said, "--yes"), ("forget", "billing", "--yes")]:
            done = command_line.reached("transaction", *words)
            assert done.returncode == REFUSED and "lives" in done.stderr, done
            assert f"pid: {application.process.pid}" in done.stderr, done
            assert application.coordinator in done.stderr, done
    assert len(prepared(both.url)) == 1


def test_a_participant_that_is_gone_is_forgotten_and_its_decisions_are_not(
    local: TwoDatabases,
) -> None:
    both, transaction = local, local.die_prepared()
    decide(both, transaction)
    without_billing(both)
    shown = told(both, "transaction", "resolve", transaction, "--yes", code=REFUSED)
    assert (shown["state"], shown["resolved"]) == ("committed", False)
    (left,) = shown["left"]
    assert left["participant"] == "billing" and "transaction forget" in left["error"]
    assert prepared(both.installation.outbox.url) == [], "the others are settled"

    asked = both.installation.command_line.reached("transaction", "forget", "billing")
    (branch,) = prepared(both.url)
    assert asked.returncode == CONFIGURATION, asked
    assert f"commit prepared '{branch}';" in asked.stdout, asked
    assert "stays prepared" in asked.stdout and "is not in this configuration" in asked.stdout
    forgotten = told(both, "transaction", "forget", "billing", "--yes")
    (record,) = forgotten["records"]
    assert record["decided"] == [{"transaction": transaction, "branch": branch}]
    assert forgotten["forgotten"] and record["undecided"] is None
    assert not told(both, "transaction", "forget", "billing")["forgotten"]

    relay = both.installation.relay()
    show = ("transaction", "show", transaction)
    log = both.installation.folder / "data" / "decisions.db"

    def is_over() -> bool:
        with closing(sqlite3.connect(log)) as connection:
            row = connection.execute("select count(*) from coordinator").fetchone()
        return bool(row == (0,))

    wait_until(is_over, "the record is ended where one participant is left", explain=relay.text)
    relay.stop()
    assert told(both, *show)["state"] == "committed"
    assert prepared(both.url) == [branch], "it was given up"
    with_billing(both)
    assert told(both, "transaction", "resolve", transaction, "--yes")["state"] == "committed"
    assert (prepared(both.url), payments(both)) == ([], 1)


def test_what_has_its_history_is_not_forgotten(local: TwoDatabases) -> None:
    local.die_prepared()
    error = told(local, "transaction", "forget", "billing", "--yes", code=REFUSED)["error"]
    assert "recovery settles what is left there by itself" in error["message"]
    assert len(prepared(local.url)) == 1


def test_lost_history_is_told_with_the_facts_and_what_can_be_run(local: TwoDatabases) -> None:
    both, urls = local, [local.installation.outbox.url, local.url]
    transaction = both.die_prepared()
    for url in urls:
        # Where the decision log is the restored one.
        execute(url, "update onecommit.coordinator set mark = 1000")
    shown = told(both, "transaction", "resolve", transaction, "--yes", code=REFUSED)
    assert (shown["state"], len(shown["left"])) == ("in doubt", 2)
    names = {name for url in urls for name in prepared(url)}
    assert {branch["branch"] for branch in shown["prepared"]} == names
    assert all("is prepared" in fact["says"] for fact in shown["facts"])
    sql = {way["sql"] for way in shown["by_hand"]}
    ends = {f"{end} prepared '{name}';" for end in ("commit", "rollback") for name in names}
    assert sql == ends and all("only where" in way["when"] for way in shown["by_hand"])

    command_line = both.installation.command_line
    done = command_line.answered("billing", "transaction", "forget", "billing")
    assert done.returncode == 0 and "the decision log was restored" in done.stdout, done
    assert f"rollback prepared '{prepared(both.url)[0]}';" in done.stdout, done
    assert "forgotten" in done.stdout and len(prepared(both.url)) == 1


def test_who_is_unknown_or_away_gets_a_clear_answer(local: TwoDatabases) -> None:
    both = local
    never = f"{uuid.uuid4()}:7"
    assert told(both, "transaction", "resolve", never)["state"] == "not kept"
    done = both.installation.command_line.reached("transaction", "resolve", never)
    assert "or it never was" in done.stdout, done
    done = both.installation.command_line.run("transaction", "resolve", "nonsense")
    assert done.returncode == CONFIGURATION and "coordinator's UUID" in done.stderr, done
    done = both.installation.command_line.reached("transaction", "forget", "nobody")
    assert done.returncode == 0 and "nothing to forget" in done.stdout, done

    transaction = both.die_prepared()
    away = both.url.replace("/" + both.database, "/nobody_has_this")
    both.installation.configure(other={"participants.billing": {"url": away}})
    command_line = both.installation.command_line
    done = command_line.reached("--json", "transaction", "list")
    assert done.returncode == CONFIGURATION, "there is no such database"
    listed = json.loads(done.stdout)
    assert [seen["transaction"] for seen in listed["transactions"]] == [transaction]
    assert "billing" in listed["error"] and "main" not in listed["error"], listed
    done = command_line.reached("--json", "transaction", "show", never)
    shown = json.loads(done.stdout)
    assert (shown["state"], shown["prepared"]) == ("unknown", []), shown
    assert "billing" in shown["error"], shown
    words = ("--json", "transaction", "resolve", transaction, "--yes")
    done = command_line.unreached("bring it back", *words)
    (left,) = json.loads(done.stdout)["left"]
    assert left["participant"] == "billing" and "bring it back" in left["error"], left
    assert prepared(both.installation.outbox.url) == [], "the one that answers is settled"
    done = command_line.unreached(
        "out of the configuration", "transaction", "forget", "billing", "--yes"
    )


def killed(both: TwoDatabases, step: str, *words: str) -> None:
    """Runs a command that is killed at this step."""

    def is_killed() -> bool:
        environment = {FAILPOINTS: f"{step}=kill"}
        done = both.installation.command_line.reached(*words, environment=environment)
        return done.returncode == -signal.SIGKILL

    wait_until(is_killed, f"it is killed at {step}")


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(
    "step",
    [
        "file_log.take_over",
        "participant.end",
        "participant.close_history",
        "file_log.record",
        "file_log.remove",
    ],
)
def test_resolving_that_is_killed_is_done_by_the_next(
    local: TwoDatabases, step: str, side: str
) -> None:
    both, transaction = local, local.die_prepared()
    decide(both, transaction)
    resolve = ("transaction", "resolve", transaction, "--yes")
    killed(both, f"{step}.{side}_commit", *resolve)
    assert told(both, *resolve)["state"] == "committed"
    assert (prepared(both.url), payments(both)) == ([], 1)
    assert prepared(both.installation.outbox.url) == []


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("step", ["file_log.take_over", "file_log.record"])
def test_forgetting_that_is_killed_is_done_by_the_next(
    local: TwoDatabases, step: str, side: str
) -> None:
    both, transaction = local, local.die_prepared()
    decide(both, transaction)
    without_billing(both)
    forget = ("transaction", "forget", "billing", "--yes")
    killed(both, f"{step}.{side}_commit", *forget)
    is_done = (step, side) == ("file_log.record", "after")
    assert told(both, *forget)["forgotten"] != is_done
    shown = told(both, "transaction", "resolve", transaction, "--yes")
    assert (shown["state"], shown["left"]) == ("committed", [])
    assert len(prepared(both.url)) == 1, "it was given up"
