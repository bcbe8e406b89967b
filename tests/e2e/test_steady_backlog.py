"""Writers that insert as fast as the relay delivers leave pruning no time of its own."""

from __future__ import annotations

from contextlib import closing

from .installation import PostgresInstallation
from .kafka_topics import TopicReader
from .waiting import RUN_LIMIT_S

# More than the messages below which no backlog counts as one that writers feed.
BACKLOG = 25_000
STEP = 5_000
TIMES = 8
PUBLISH = """
select count(onecommit.publish('{topic}', 'key-' || n, repeat('x', 500)))
from generate_series(1, {messages}) n
"""


def test_a_backlog_that_writers_keep_up_does_not_make_the_table_grow(
    installation: PostgresInstallation,
) -> None:
    postgres, topic = installation.postgres, installation.topic
    postgres.execute(PUBLISH.format(topic=topic, messages=BACKLOG))
    published, most_rows = BACKLOG, 0
    relay = installation.relay()
    with closing(TopicReader(installation.servers.kafka, [topic], "read_committed")) as reader:
        while published < TIMES * BACKLOG:
            wait_read(reader, published - BACKLOG)
            postgres.execute(PUBLISH.format(topic=topic, messages=STEP))
            published += STEP
            most_rows = max(most_rows, postgres.waiting_rows())
        assert most_rows < 3 * BACKLOG
        wait_read(reader, published)
    installation.wait_pruned()
    relay.stop()
    assert len(reader.records) == published


def wait_read(reader: TopicReader, messages: int) -> None:
    reader.read_until(
        lambda: len(reader.message_ids) >= messages,
        lambda: f"read {len(reader.message_ids)} of {messages} messages",
        RUN_LIMIT_S,
    )
