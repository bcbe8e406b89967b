"""Rows of a PostgreSQL outbox that a person changed or deleted: nothing else is lost, and what
can't go on says why. Undone, it goes on."""

from __future__ import annotations

import psycopg
import pytest

from .installation import PostgresInstallation

MESSAGES = 60


@pytest.fixture
def delivered(installation: PostgresInstallation) -> PostgresInstallation:
    """An installation that has delivered, with no relay now."""
    installation.deliver(MESSAGES)
    return installation


# What is done, what undoes it, with what a relay ends, and what it says.
CHANGES = [
    (
        "update onecommit.installation set shards = 3",
        "update onecommit.installation set shards = 2",
        4,
        ["the outbox was set up with 3 shards"],
    ),
    (
        "delete from onecommit.shard where shard = 1",
        "insert into onecommit.shard (shard, epoch, born, pruned) values (1, 1, true, true)",
        4,
        ["the outbox has no row for this shard", "changed by hand", "shard: 1"],
    ),
    (
        "update onecommit.installation set namespace = 'Not a name'",
        "update onecommit.installation set namespace = '{namespace}'",
        4,
        ["a value is not what `init` writes", "undo", "column: namespace"],
    ),
    (
        "update onecommit.installation set delivery_id = 'another'",
        "update onecommit.installation set delivery_id = '{delivery_id}'",
        4,
        ["the Kafka cluster (or topic log) is another one"],
    ),
]


DAMAGES = [
    "header_names = '{a,b}', header_values = '{x}'",
    "header_names = '{a}'",
    "header_names = '{null}', header_values = '{x}'",
    "topic = ''",
    "topic = repeat('x', 250)",
    "topic = null",
    "message_id = null",
    "created_at = null",
    "xid = null",
    "id = 7",
]


@pytest.mark.parametrize("change", CHANGES, ids=[change[0][:45] for change in CHANGES])
def test_our_own_rows(
    delivered: PostgresInstallation, change: tuple[str, str, int, list[str]]
) -> None:
    doing, undoing, status, words = change
    with delivered.postgres.connect() as connection:
        sql = "select namespace, delivery_id from onecommit.installation"
        namespace, delivery_id = connection.execute(sql).fetchone() or ("", "")
    delivered.outbox.burst(delivered.topic, MESSAGES)
    delivered.outbox.execute(doing)
    relay = delivered.relay()
    assert relay.wait() == status, relay.text()
    said = relay.text().splitlines()[-1]
    assert all(word in said for word in words), said
    delivered.outbox.execute(undoing.format(namespace=namespace, delivery_id=delivery_id))
    delivered.finish(delivered.relay(), at_least=2 * MESSAGES)


def test_messages_that_were_deleted_hold_nothing_up(installation: PostgresInstallation) -> None:
    """Before any relay has read them, and between two reads of one at work."""
    installation.outbox.burst(installation.topic, MESSAGES)
    assert delete_half(installation) == MESSAGES // 2
    relay = installation.relay()
    installation.wait_delivered()
    relay.pause()
    installation.outbox.burst(installation.topic, MESSAGES)
    assert delete_half(installation) == MESSAGES // 2
    relay.resume()
    installation.finish(relay, at_least=MESSAGES)


def delete_half(installation: PostgresInstallation) -> int:
    """Deletes every second message that waits, and what the ledger says of it."""
    with installation.postgres.connect() as connection:
        sql = "delete from onecommit.outbox where id % 2 = 0 returning message_id"
        gone = [row[0] for row in connection.execute(sql).fetchall()]
        connection.execute("delete from ledger where message_id = any(%s)", [gone])
    return len(gone)


def test_rows_that_could_not_be_read_are_kept_out(installation: PostgresInstallation) -> None:
    installation.outbox.burst(installation.topic, 1)
    errors = psycopg.errors
    kept_out = (errors.CheckViolation, errors.NotNullViolation, errors.GeneratedAlways)
    for damage in DAMAGES:
        with pytest.raises(kept_out):
            installation.outbox.execute(f"update onecommit.outbox set {damage}")
