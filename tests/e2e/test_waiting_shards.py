"""A shard that can't go on waits: it is told once and shown, and goes on by itself."""

from __future__ import annotations

from contextlib import closing

from confluent_kafka.admin import AdminClient

from .dead_letters import SMALL_BYTES, SmallTopic
from .installation import PostgresInstallation
from .kafka_topics import REQUEST_LIMIT_S, TopicReader, progress_topics
from .postgres_outbox import publish
from .test_relay import commit, key_in
from .test_servers_fail import outages
from .waiting import wait_until

STOPS = "a message can't be delivered, and `on_poison` says"


def last_errors(installation: PostgresInstallation) -> list[str | None]:
    return [shard["last_error"] for shard in installation.command_line.status()]


def test_a_message_that_is_to_stop_its_shard_holds_it_until_the_limit_is_raised(
    installation: PostgresInstallation,
) -> None:
    topic = SmallTopic(installation)
    small = topic.name
    installation.configure(other={f'topics."{small}"': {"on_poison": "stop"}})
    relay = installation.relay()
    held, other = key_in(0), key_in(1)
    with installation.postgres.connect() as connection:
        for value_bytes in (10, 2 * SMALL_BYTES, 20, 2 * SMALL_BYTES):
            publish(connection, small, held, b"x" * value_bytes)
            connection.commit()
        publish(connection, installation.topic, held, b"behind it")
    relay.wait_for(f"waits, nothing is lost shard=0.*{STOPS}")
    commit(installation, installation.topic, other, other)
    ledger = installation.outbox.ledger()
    flowing = [message.message_id for message in ledger if message.key == other]
    installation.topics.wait_delivered([installation.topic], flowing)

    def tried_at_ms() -> int:
        stopped, flows = installation.command_line.status()
        error = stopped["last_error"] or ""
        is_shown = STOPS in error and small in error and flows["last_error"] is None
        return int(stopped["last_error_at_ms"]) if is_shown else 0

    first = wait_until(tried_at_ms, "the message in status", explain=relay.text)
    wait_until(lambda: tried_at_ms() > first, "another try", explain=relay.text)
    waiting = [shard["backlog_messages"] for shard in installation.command_line.status()]
    assert waiting == [5, 0]
    assert all(outage.count(STOPS) <= 1 for outage in outages(relay.text())), relay.text()
    with closing(TopicReader(installation.servers.kafka, [small], "read_committed")) as reader:
        assert reader.read_to(reader.ends()) == []

    topic.raise_limit()
    topics = [installation.topic, small]
    installation.topics.wait_delivered(topics, [message.message_id for message in ledger])
    wait_until(lambda: last_errors(installation) == [None, None], "the error is gone")
    relay.stop()
    report = installation.topics.check(topics, ledger)
    assert report.committed == 7 and not report.findings, str(report)


def test_what_keeps_a_shard_from_being_taken_is_shown_and_gone_when_it_is(
    installation: PostgresInstallation,
) -> None:
    """Nothing waits to be delivered: the shards being taken is all that can take the error back."""
    kafka = installation.servers.kafka
    progress = installation.progress_topic()
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_topics([progress])[progress].result(timeout=REQUEST_LIMIT_S)
    # The broker hears of it later than the controller.
    wait_until(
        lambda: progress not in progress_topics(kafka, installation.name), "the topic is gone"
    )
    relay = installation.relay()

    def shown() -> bool:
        shards = installation.command_line.status_in_part("progress topic")
        return all("restore it" in str(shard["last_error"]) for shard in shards)

    wait_until(shown, "in status, what keeps the shards")
    # None was born: there is no progress that an empty topic would hide.
    installation.init()
    wait_until(lambda: last_errors(installation) == [None, None], "the error is gone")
    commit(installation, installation.topic, key_in(0), key_in(1))
    installation.finish(relay, at_least=2)
