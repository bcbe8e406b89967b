//! Reads a shard's last committed progress from its own partition of the progress topic, backwards
//! from the end in growing steps.
//!
//! One partition a shard, never shared: with a shared one, another shard's open transaction holds
//! the end for read_committed readers back, and an old progress was read. Group offsets are not
//! used: they expire after 7 days.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::failure::{from_kafka, hidden, is_about_group, is_passing};
use super::settings::{ClientSettings, REQUEST_LIMIT};
use crate::delivery::DeliveryScope;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ShardIndex;
use crate::protocol::progress::Progress;

/// The first step back from the end, in offsets: a commit takes two.
const FIRST_STEP: i64 = 16;
/// How often the end is looked at while a transaction is open.
const PAUSE: Duration = Duration::from_millis(50);
const OPERATION: &str = "read progress";

/// The last committed record. With `proved` it is said only after the end was reached that the
/// partition had when this began; an answer that can't be proved within the limit is an error, never
/// None or an older record. That it stays the last is only sure behind `init_transactions`. A topic
/// that is not there is an error too: Kafka says so for moments while its brokers restart, and None
/// would be taken for lost progress.
pub(super) fn last(
    clients: &ClientSettings,
    scope: &DeliveryScope,
    shard: ShardIndex,
    proved: bool,
) -> Result<Option<Progress>> {
    let (topic, partition) = (scope.progress_topic(), i32::from(shard.0));
    let located = |error: Error| error.with("topic", topic.clone()).with("partition", partition);
    let deadline = Instant::now() + REQUEST_LIMIT;
    let reader =
        Reader { consumer: consumer(clients, scope, "read_committed")?, topic: topic.clone(), partition };
    let any =
        Reader { consumer: consumer(clients, scope, "read_uncommitted")?, topic: topic.clone(), partition };
    // Everything that was ever written there: what is open below it is waited for.
    let (low, end) = any.watermarks().map_err(located)?;
    drop(any);
    if proved {
        reader.wait_for_end(end, deadline).map_err(located)?;
    }
    let mut step = FIRST_STEP;
    loop {
        let start = low.max(end - step);
        if let Some(found) = reader.scan(start, deadline).map_err(located)? {
            return Progress::decode(&found).map(Some).map_err(located);
        }
        if start == low {
            return Ok(None);
        }
        step *= 8;
    }
}

struct Reader {
    consumer: BaseConsumer,
    topic: String,
    partition: i32,
}

impl Reader {
    /// First and end offset, as this reader's isolation sees them.
    fn watermarks(&self) -> Result<(i64, i64)> {
        let found = self.consumer.fetch_watermarks(&self.topic, self.partition, REQUEST_LIMIT);
        found.map_err(|error| match error.rdkafka_error_code() {
            // librdkafka says this, too, while the partition has no leader.
            Some(
                RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition,
            ) => {
                let metadata = self.consumer.fetch_metadata(Some(&self.topic), REQUEST_LIMIT).ok();
                let hidden = metadata.and_then(|metadata| hidden(OPERATION, &metadata, &self.topic));
                hidden.unwrap_or_else(|| {
                    let why = "the progress topic is not there, or has no leader now. If it was deleted, restore \
                               it, or go on without it: `onecommit adopt` with the participant's name; if it \
                               never was, `onecommit init` makes it";
                    Error::new(ErrorKind::Unreachable, OPERATION, why).caused_by(error)
                })
            }
            _ => from_kafka(OPERATION, error),
        })
    }

    /// Waits until nothing below `end` is open any more: the end that a read_committed reader sees
    /// only grows, so whatever it reaches later includes everything below `end`.
    fn wait_for_end(&self, end: i64, deadline: Instant) -> Result<()> {
        loop {
            let (_, stable) = self.watermarks()?;
            if stable >= end {
                return Ok(());
            }
            if Instant::now() > deadline {
                let why = "a transaction stays open in the progress topic: the end was not reached";
                return Err(Error::new(ErrorKind::Unreachable, OPERATION, why).with("end", end));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The last record at or behind `start`, None where the end is reached without one.
    fn scan(&self, start: i64, deadline: Instant) -> Result<Option<Vec<u8>>> {
        let mut assignment = TopicPartitionList::new();
        let offset = Offset::Offset(start);
        let assigned = assignment.add_partition_offset(&self.topic, self.partition, offset);
        assigned
            .and_then(|()| self.consumer.assign(&assignment))
            .map_err(|error| from_kafka(OPERATION, error))?;
        let mut found = None;
        while Instant::now() < deadline {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => found = record.payload().map(<[u8]>::to_vec),
                // Sent when a fetch came back empty at the end that this reader's isolation sees.
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(found),
                Some(Err(error)) if !is_passing(&error) && !is_about_group(&error) => {
                    return Err(from_kafka(OPERATION, error));
                }
                Some(Err(_)) | None => {}
            }
        }
        let why = "the end of the progress topic was not reached in time";
        Err(Error::new(ErrorKind::Unreachable, OPERATION, why))
    }
}

fn consumer(clients: &ClientSettings, scope: &DeliveryScope, isolation: &str) -> Result<BaseConsumer> {
    let group = scope.progress_topic();
    let own = [
        ("group.id", group.as_str()),
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "error"),
        ("enable.partition.eof", "true"),
        ("isolation.level", isolation),
        ("fetch.wait.max.ms", "10"),
    ];
    clients.with(own).consumer(OPERATION)
}
