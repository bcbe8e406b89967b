"""Bugs in how Kafka is written to and progress is read."""

from __future__ import annotations

from .bug import Bug, Edit, e2e, rust

NATIVE = "src/delivery/kafka/native/mod.rs"
PROGRESS = "src/delivery/kafka/progress.rs"
UNCLEAR = "test_unclear_commits.py"
UNSEEN = e2e(
    "test_unseen_progress.py::test_progress_that_is_committed_and_not_to_be_seen_yet_is_waited_for"
)

BUGS = [
    Bug(
        "other-partitioner",
        "Keys go to the partitions to which Java's producer sends them.",
        rust("delivery_kafka::keys_go_where_javas_producer_sends_them"),
        "assertion `left == right` failed",
        [
            Edit(
                "src/delivery/kafka/port.rs",
                'map_or("murmur2_random", String::as_str)',
                'map_or("consistent_random", String::as_str)',
            )
        ],
    ),
    Bug(
        "end-of-transaction-not-counted",
        "A commit whose request was sent more than once makes its producer worthless: the late one "
        "can end the next transaction.",
        e2e(f"{UNCLEAR}::test_a_commit_that_was_sent_twice_can_not_end_the_next_transaction"),
        "the broker gets the first request in the transaction after",
        [Edit(NATIVE, "(Ok(()), 1) => {", "(Ok(()), 1..) => {")],
    ),
    Bug(
        "waits-by-the-wall-clock",
        "librdkafka's waits go by a clock that only counts on: one set back made them longer.",
        e2e("test_clock_jumps.py::test_a_relay_at_work_goes_on[postgres]"),
        "still not",
        [
            Edit(
                NATIVE,
                'target_env = "gnu", target_pointer_width = "64"))]\nmod wait;\n',
                'target_env = "none"))]\nmod wait;\n',
            )
        ],
    ),
    Bug(
        "fenced-not-told",
        "A producer that was fenced says so, whatever Kafka calls it.",
        rust("delivery_kafka::who_is_fenced_while_sending_hears_of_it_then"),
        "right: Fenced",
        [
            Edit(
                "src/delivery/kafka/failure.rs",
                "Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch =>",
                "Code::Fenced | Code::ProducerFenced =>",
            )
        ],
    ),
    Bug(
        "old-producer-after-a-refusal",
        "Behind a message that was refused only another producer goes on.",
        rust("delivery_kafka::of_invalid_records_each_is_named_and_the_others_are_innocent"),
        "called `Result::unwrap()` on an `Err` value",
        [
            Edit(
                "src/delivery/kafka/shard.rs",
                "self.producer = fence(&self.producers, self.partitioner)?;",
                "self.producer.abort(REQUEST_LIMIT)?;",
            )
        ],
    ),
    Bug(
        "absence-by-timeout",
        "What stands last in the progress topic is proved by reaching its end, never by a timeout.",
        UNSEEN,
        "a transaction stays open in the progress topic",
        [
            Edit(
                PROGRESS,
                'return Err(Error::new(ErrorKind::Unreachable, OPERATION, why).with("end", end));',
                "tracing::debug!(why);\n                return Ok(());",
            ),
            Edit(
                PROGRESS,
                '        let why = "the end of the progress topic was not reached in time";\n'
                "        Err(Error::new(ErrorKind::Unreachable, OPERATION, why))",
                "        Ok(found)",
            ),
        ],
    ),
    Bug(
        "end-as-the-committed-see-it",
        "The end that has to be reached is that of everything that was written.",
        UNSEEN,
        "a transaction stays open in the progress topic",
        [
            Edit(
                PROGRESS,
                'Reader { consumer: consumer(clients, scope, "read_uncommitted")?',
                'Reader { consumer: consumer(clients, scope, "read_committed")?',
            )
        ],
    ),
    Bug(
        "topic-log-of-any-owner",
        "Who was succeeded appends nothing more to a topic log.",
        rust("sqlite::the_topic_log_conforms"),
        "a fenced predecessor must not commit",
        [
            Edit(
                "src/delivery/topic_log/append.rs",
                "where name = ?1 and taken = ?2",
                "where name = ?1 and ?2 is not null",
            )
        ],
    ),
]
