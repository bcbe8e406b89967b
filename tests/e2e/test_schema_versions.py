"""Tables of earlier releases: relays of this one work with them, until `init` brings them up to
date under running relays."""

from __future__ import annotations

from .command_line import CONFIGURATION, REFUSED
from .dead_letters import TOO_LARGE, SmallTopic
from .installation import PostgresInstallation
from .test_relay import commit, key_in
from .waiting import wait_until

# What `init` of earlier releases has made.
BACK_TO_VERSION_2 = """
drop table onecommit.coordinator;
update onecommit.installation set schema_version = 2;
"""
BACK_TO_VERSION_1 = f"""
{BACK_TO_VERSION_2}
drop table onecommit.set_aside, onecommit.held_topic, onecommit.dead_topic;
update onecommit.installation set schema_version = 1;
"""


def version(installation: PostgresInstallation) -> int:
    with installation.postgres.connect() as connection:
        found = connection.execute("select schema_version from onecommit.installation").fetchone()
    assert found is not None
    return int(str(found[0]))


def test_relays_work_with_tables_of_version_1_and_while_they_are_brought_up_to_date(
    installation: PostgresInstallation,
) -> None:
    with installation.postgres.connect() as connection:
        connection.execute(BACK_TO_VERSION_1.encode())
    small = SmallTopic(installation)
    installation.all_topics.append(small.name)
    relays = [installation.relay(), installation.relay()]
    installation.wait_shared(2)
    commit(installation, installation.topic, key_in(0), key_in(1))
    installation.wait_delivered()
    installation.wait_pruned()

    # Nothing can be set aside: the shard waits, as it did under that release, and says what to do.
    dead, behind = small.commit((key_in(0), TOO_LARGE), (key_in(0), b"x"))
    commit(installation, installation.topic, key_in(1))

    def told() -> bool:
        shards = installation.command_line.status()
        return "run `onecommit init`" in str(shards[0]["last_error"])

    wait_until(told, "what to do in status", explain=lambda: relays[0].text() + relays[1].text())
    assert version(installation) == 1
    refused = installation.command_line.reached("dead-letter", "list")
    assert refused.returncode == CONFIGURATION and "run `onecommit init`" in refused.stderr, refused

    installation.init()
    assert version(installation) == 3
    small.wait_dead(dead, waiting=1)
    small.raise_limit()
    small.see_to("retry", dead)
    small.wait_delivered(dead, behind)
    installation.wait_pruned()
    installation.finish(*relays, at_least=5)


def test_relays_work_with_tables_of_version_2_and_while_they_are_brought_up_to_date(
    installation: PostgresInstallation,
) -> None:
    with installation.postgres.connect() as connection:
        connection.execute(BACK_TO_VERSION_2.encode())
    small = SmallTopic(installation)
    installation.all_topics.append(small.name)
    relay = installation.relay()
    dead, behind = small.commit((key_in(0), TOO_LARGE), (key_in(0), b"x"))
    commit(installation, installation.topic, key_in(0), key_in(1))
    small.wait_dead(dead, waiting=1)
    assert version(installation) == 2, "what came with version 2 is there"

    installation.init()
    assert version(installation) == 3
    small.raise_limit()
    small.see_to("retry", dead)
    small.wait_delivered(dead, behind)
    installation.wait_pruned()
    installation.finish(relay, at_least=4)


def test_tables_of_a_later_release_are_refused(installation: PostgresInstallation) -> None:
    with installation.postgres.connect() as connection:
        connection.execute("update onecommit.installation set schema_version = 4")
    for words in (["init"], ["relay"], ["dead-letter", "list"]):
        done = installation.command_line.reached(*words)
        assert done.returncode == REFUSED and "works with 1 to 3" in done.stderr, done
