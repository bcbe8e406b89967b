//! Reads committed messages, as a user's consumer would, for `onecommit consume` and Python's
//! `read`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::failure::from_kafka;
use super::settings::{REQUEST_LIMIT, base_config};
use crate::delivery::DeliveredMessage;
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "consume";

/// A `read_committed` reader of one topic.
pub struct KafkaReader {
    consumer: BaseConsumer,
    topic: String,
    grouped: bool,
    ends: BTreeMap<i32, bool>,
}

impl KafkaReader {
    /// With a `group` it goes on where the group was; without one it begins now, or with
    /// `from_beginning` at the first message.
    pub fn open(
        properties: &BTreeMap<String, String>,
        topic: &str,
        group: Option<&str>,
        from_beginning: bool,
    ) -> Result<Self> {
        let failed = |error| from_kafka(OPERATION, error).with("topic", topic);
        let mut config = base_config(properties);
        for (name, value) in [
            ("group.id", group.unwrap_or("onecommit-consume")),
            ("isolation.level", "read_committed"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", if from_beginning { "earliest" } else { "latest" }),
        ] {
            config.set(name, value);
        }
        let consumer: BaseConsumer = config.create().map_err(failed)?;
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST_LIMIT).map_err(failed)?;
        let partitions: Vec<i32> = metadata
            .topics()
            .iter()
            .filter(|found| found.name() == topic)
            .flat_map(|found| found.partitions().iter().map(|partition| partition.id()))
            .collect();
        if partitions.is_empty() {
            let why = format!("there is no such topic: `onecommit init --topic {topic}` makes it");
            return Err(Error::new(ErrorKind::Configuration, OPERATION, why).with("topic", topic));
        }
        if group.is_some() {
            consumer.subscribe(&[topic]).map_err(failed)?;
        } else {
            let offset = if from_beginning { Offset::Beginning } else { Offset::End };
            let mut assignment = TopicPartitionList::new();
            for partition in &partitions {
                assignment.add_partition_offset(topic, *partition, offset).map_err(failed)?;
            }
            consumer.assign(&assignment).map_err(failed)?;
        }
        let ends = partitions.into_iter().map(|partition| (partition, false)).collect();
        Ok(KafkaReader { consumer, topic: topic.to_string(), grouped: group.is_some(), ends })
    }

    /// The next message, None if there is none within `limit`.
    pub fn next(&mut self, limit: Duration) -> Result<Option<DeliveredMessage>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.consumer.poll(left) {
                Some(Ok(record)) => {
                    self.ends.insert(record.partition(), false);
                    return Ok(Some(delivered(&record)));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.ends.insert(partition, true);
                }
                Some(Err(error)) => return Err(from_kafka(OPERATION, error).with("topic", &self.topic)),
                None => {}
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// Whether the end of every partition was reached, for a reader without a group.
    pub fn at_end(&self) -> bool {
        self.ends.values().all(|reached| *reached)
    }

    /// Stores the group's position behind everything that [`KafkaReader::next`] returned.
    pub fn commit(&self) -> Result<()> {
        if !self.grouped {
            return Ok(());
        }
        match self.consumer.commit_consumer_state(CommitMode::Sync) {
            Err(KafkaError::ConsumerCommit(rdkafka::error::RDKafkaErrorCode::NoOffset)) | Ok(()) => Ok(()),
            Err(error) => Err(from_kafka(OPERATION, error).with("topic", &self.topic)),
        }
    }
}

fn delivered(record: &rdkafka::message::BorrowedMessage<'_>) -> DeliveredMessage {
    let headers = record.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|header| (header.key.to_string(), header.value.map(<[u8]>::to_vec))).collect()
    });
    DeliveredMessage {
        topic: record.topic().to_string(),
        partition: record.partition(),
        offset: record.offset(),
        timestamp_ms: record.timestamp().to_millis().unwrap_or(0),
        key: record.key().map(<[u8]>::to_vec),
        value: record.payload().map(<[u8]>::to_vec),
        headers,
    }
}
