"""A standby is promoted that lacks the last record of a dead letter: nothing is lost or doubled.

Each test stops the relay where the standby is cut off, so that it surely has what came before and
surely lacks what comes behind.
"""

from __future__ import annotations

from .conftest import OwnServers
from .dead_letters import TOO_LARGE, SmallTopic
from .installation import PostgresInstallation
from .postgres_outbox import ledger_of
from .standby import Standby
from .test_refusals import (  # noqa: F401 (a fixture)
    configuration_on,
    on_own_postgres,
    refuses,
    relay_of,
    standby_of,
)
from .test_relay import key_in
from .waiting import wait_until


def rows(standby: Standby, installation: PostgresInstallation, table: str) -> int:
    """How many rows the standby's copy of a table has."""
    found = standby.query(f"select count(*) from onecommit.{table}", database=installation.name)
    return int(str(found[0][0]))


def test_a_verdict_that_a_failover_has_lost_is_not_passed_over(
    on_own_postgres: PostgresInstallation,  # noqa: F811
    own_servers: OwnServers,
) -> None:
    """The window's barrier is there. Named by the progress, it would let the successor go on behind
    a message that nobody has a record of any more. Both messages are in one shard, so that no other
    window's barrier comes behind the one at which the standby is cut off."""
    made = on_own_postgres
    small = SmallTopic(made)
    dead, beside = small.commit((key_in(0), TOO_LARGE), (key_in(0, place=1), b"x"))
    with standby_of(own_servers) as standby:
        relay = made.relay("outbox.barrier.after_commit=stop")
        relay.wait_hit("outbox.barrier.after_commit")
        standby.catch_up()
        standby.cut_off()
        relay.resume()
        small.wait_delivered(beside)
        small.wait_dead(dead)
        relay.stop()
        standby.promote()
        wait_until(lambda: standby.query("select pg_is_in_recovery()") == [("f",)], "promoted")
        assert rows(standby, made, "barrier") >= 1 and rows(standby, made, "set_aside") == 0
        refuses(relay_of(made, configuration_on(made, standby)), "barrier row", "failed over")


def test_a_retry_whose_record_a_failover_brings_back_is_not_delivered_again(
    on_own_postgres: PostgresInstallation,  # noqa: F811
    own_servers: OwnServers,
) -> None:
    made = on_own_postgres
    small = SmallTopic(made)
    ids = small.commit((b"k", TOO_LARGE), (b"k", b"1"), (b"k", b"2"))
    with standby_of(own_servers) as standby:
        relay = made.relay("relay.aside.committed=stop")
        small.wait_dead(ids[0], waiting=2)
        small.raise_limit()
        made.command_line.reached("dead-letter", "retry", "--all", "--wait-seconds", "0")
        relay.wait_hit("relay.aside.committed")
        standby.catch_up()
        standby.cut_off()
        relay.resume()
        small.wait_delivered(*ids)
        wait_until(lambda: small.letters() == [], "the records are gone")
        relay.stop()
        standby.promote()
        wait_until(lambda: standby.query("select pg_is_in_recovery()") == [("f",)], "promoted")
        assert rows(standby, made, "set_aside") == 3, "they are back"
        successor = relay_of(made, configuration_on(made, standby))
        wait_until(lambda: rows(standby, made, "set_aside") == 0, "the successor removes them")
        successor.stop()
        report = made.topics.check(small.topics, ledger_of(standby.database_url(made.name)))
        assert report.committed == 3 and not report.findings, str(report)
