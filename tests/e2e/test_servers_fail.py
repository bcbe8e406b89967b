"""Each server dies once while everything is at work, and comes back; the relay goes on by itself.

The relay's process is the same before and after, says once that it waits, and loses, doubles and
reorders nothing.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager

from .closed_door import closed_door
from .command_line import RelayProcess
from .conftest import MakeInstallation, OwnServers
from .installation import PostgresInstallation, Servers
from .postgres_crash import next_xid, nothing_flushed_by_itself
from .postgres_outbox import Writers
from .waiting import wait_until

SOME = 60
ROUNDS = 3
TRIES = 20
# An unanswered request to Kafka ends after 15 s, and it takes a few of them.
LIMIT_S = 240.0
# What the relay says when it misses a server, and when it has it again.
AWAY, REACHED = "waiting, nothing is lost", "goes on, nothing is away any more"
LEASES_AWAY, LEASES_KEPT = "leases can't be kept", "leases are kept again"
SHARD_AWAY, SHARD_DELIVERS = "the shard waits, nothing is lost", "delivers again"
RECOVERED = re.compile(f"{REACHED}|{LEASES_KEPT}|{SHARD_DELIVERS}")
DELIVERS = re.compile(r"delivers shard=(\d+) epoch=(\d+)")


def wait_more_committed(writers: Writers) -> None:
    """Waits until the writers have committed some transactions more."""
    target = writers.committed + SOME
    wait_until(lambda: writers.committed >= target, "writers commit")


def wait_some_delivered(installation: PostgresInstallation) -> None:
    """Waits until the relay delivers: its first batch is behind it."""
    wait_until(lambda: installation.report().delivered > 0, "a first delivery")


def wait_said(relay: RelayProcess, what: str, opposite: str) -> None:
    """Waits until the relay has said this, and not the opposite since then."""

    def said() -> bool:
        text = relay.text()
        return text.rfind(what) > text.rfind(opposite)

    wait_until(said, what, LIMIT_S, explain=relay.text)


def outages(text: str) -> list[str]:
    """A relay's log in parts: on a busy machine there may be more outages than the test's own."""
    return RECOVERED.split(text)


def assert_told_once(text: str, what: str) -> None:
    """The log has warnings of this kind, and of one outage no two that are the same."""
    told = 0
    for outage in outages(text):
        warnings = [line.split("WARN ")[1] for line in outage.splitlines() if "WARN " in line]
        ours = [warning for warning in warnings if what in warning]
        assert len(set(ours)) == len(ours), text
        told += len(ours)
    assert told, text


def test_postgresql_crashes_while_commits_are_not_flushed(
    make_installation: MakeInstallation, servers: Servers, own_servers: OwnServers
) -> None:
    postgres = own_servers.postgres
    installation = make_installation(Servers(postgres.dsn, servers.kafka, servers.zookeeper))
    installation.init()
    relay = installation.relay()
    for seed in range(ROUNDS):
        with writing_unflushed(installation, seed) as writers:
            wait_more_committed(writers)
            wait_some_delivered(installation)
            with nothing_flushed_by_itself(postgres) as crash:
                # The relay's barriers flush; without it numbers pile up that a crash forgets.
                if seed % 2 == 0:
                    relay.pause()
                wait_more_committed(writers)
                crash()
        # With no writer left, or they would draw again what was forgotten before it is looked at.
        assert installation.command_line.status_in_part("PostgreSQL") == []
        postgres.start()
        if seed % 2 == 0:
            assert next_xid(postgres) <= writers.highest_xid, "no transaction number was forgotten"
            relay.resume()
        relay.wait_for(REACHED, times=seed + 1)
    with writing_unflushed(installation, ROUNDS) as writers:
        wait_more_committed(writers)
    installation.finish(relay, at_least=SOME)


def writing_unflushed(
    installation: PostgresInstallation, seed: int
) -> AbstractContextManager[Writers]:
    return installation.postgres.writing(installation.topic, seed=seed, synchronous_commit="off")


def test_postgresql_is_away_for_long_and_that_is_told_once(
    make_installation: MakeInstallation, servers: Servers, own_servers: OwnServers
) -> None:
    postgres = own_servers.postgres
    installation = make_installation(Servers(postgres.dsn, servers.kafka, servers.zookeeper))
    installation.init()
    relay = installation.relay()
    installation.outbox.burst(installation.topic, SOME)
    installation.wait_delivered()
    postgres.kill()
    with closed_door(postgres.port) as door:
        wait_said(relay, AWAY, REACHED)
        wait_said(relay, LEASES_AWAY, LEASES_KEPT)
        before = relay.text()
        door.wait_for_tries(TRIES)
        assert not RECOVERED.search(relay.text()[len(before) :]), relay.text()
    postgres.start()
    wait_said(relay, REACHED, AWAY)
    wait_said(relay, LEASES_KEPT, LEASES_AWAY)
    installation.outbox.burst(installation.topic, SOME)
    installation.wait_delivered()
    assert_told_once(relay.text(), AWAY)
    assert_told_once(relay.text(), LEASES_AWAY)
    installation.finish(relay, at_least=2 * SOME)


def test_kafka_is_killed_and_comes_back(
    make_installation: MakeInstallation, servers: Servers, own_servers: OwnServers
) -> None:
    kafka = own_servers.kafka
    installation = make_installation(Servers(servers.postgres, kafka.address, servers.zookeeper))
    # After this long without Kafka it would leave its shards.
    installation.relay_settings["lease_timeout_ms"] = 60_000
    installation.configure()
    installation.init()
    relay = installation.relay()
    with installation.postgres.writing(installation.topic) as writers:
        wait_more_committed(writers)
        wait_some_delivered(installation)
        kafka.kill()
        wait_said(relay, SHARD_AWAY, SHARD_DELIVERS)
        wait_more_committed(writers)

        def told() -> bool:
            shards = installation.command_line.status_in_part("Kafka")
            assert all(shard["position"] is None for shard in shards), shards
            return all(shard["last_error"] and shard["owner"] for shard in shards)

        wait_until(told, "each shard has its owner, and what keeps it", explain=relay.text)
        kafka.start()
        wait_said(relay, SHARD_DELIVERS, SHARD_AWAY)
        wait_more_committed(writers)
    assert_told_once(relay.text(), SHARD_AWAY)
    installation.finish(relay, at_least=SOME)


def test_zookeeper_is_killed_and_comes_back(
    make_installation: MakeInstallation, servers: Servers, own_servers: OwnServers
) -> None:
    zookeeper = own_servers.zookeeper
    given = Servers(servers.postgres, servers.kafka, zookeeper.address)
    installation = make_installation(given, zookeeper=True)
    installation.init()
    relay = installation.relay()
    with installation.postgres.writing(installation.topic) as writers:
        wait_more_committed(writers)
        wait_some_delivered(installation)
        zookeeper.kill()
        wait_said(relay, LEASES_AWAY, LEASES_KEPT)

        def held() -> bool:
            shards = installation.command_line.status_in_part("ZooKeeper")
            return all(shard["backlog_messages"] and shard["owner"] is None for shard in shards)

        wait_until(held, "messages wait, and no owner is known", explain=relay.text)
        zookeeper.start()
        wait_said(relay, LEASES_KEPT, LEASES_AWAY)
        wait_more_committed(writers)
    assert_told_once(relay.text(), LEASES_AWAY)
    installation.finish(relay, at_least=SOME)


def test_lease_rows_that_were_deleted_under_a_relay_are_made_again(
    installation: PostgresInstallation,
) -> None:
    """What was delivered is not known from them: epochs go on above those delivered under."""
    relay = installation.relay()

    def epochs() -> dict[str, int]:
        """Of each shard, the last one that it was delivered under."""
        return {shard: int(epoch) for shard, epoch in DELIVERS.findall(relay.text())}

    with installation.postgres.writing(installation.topic) as writers:
        wait_until(lambda: len(epochs()) == installation.outbox.shards, "all deliver")
        before = epochs()
        with installation.postgres.connect() as connection:
            connection.execute("truncate onecommit.lease, onecommit.relay")
            connection.commit()

        def are_above() -> bool:
            return all(epochs()[shard] > epoch for shard, epoch in before.items())

        wait_until(are_above, f"epochs above {before}", explain=relay.text)
        wait_more_committed(writers)
    installation.finish(relay, at_least=SOME)
