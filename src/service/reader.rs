//! Committed messages, from Kafka or from the topic log, as a consumer sees them.

use std::time::Duration;

use super::build;
use crate::config::Config;
use crate::delivery::DeliveredMessage;
use crate::delivery::kafka::KafkaReader;
use crate::delivery::topic_log::TopicLogReader;
use crate::error::Result;
use crate::message::check_topic;

/// Reads one topic.
pub enum Reader {
    /// From Kafka, `read_committed`.
    Kafka(KafkaReader),
    /// From the embedded topic log.
    TopicLog(TopicLogReader),
}

/// Opens a reader. With a `group` it goes on where the group was; otherwise it begins now, or with
/// `from_beginning` at the first message. Blocks: not for async threads.
pub fn open_reader(
    config: &Config,
    topic: &str,
    group: Option<&str>,
    from_beginning: bool,
) -> Result<Reader> {
    check_topic("read", topic)?;
    match &config.kafka {
        Some(properties) => KafkaReader::open(properties, topic, group, from_beginning).map(Reader::Kafka),
        None => {
            let path = build::topic_log_path(config);
            TopicLogReader::open(&path, topic, group, from_beginning).map(Reader::TopicLog)
        }
    }
}

impl Reader {
    /// The next message, None if there is none within `limit`.
    pub fn next(&mut self, limit: Duration) -> Result<Option<DeliveredMessage>> {
        match self {
            Reader::Kafka(reader) => reader.next(limit),
            Reader::TopicLog(reader) => reader.next(limit),
        }
    }

    /// Whether the end was reached that a reader without a group reads up to.
    pub fn at_end(&self) -> bool {
        match self {
            Reader::Kafka(reader) => reader.at_end(),
            Reader::TopicLog(reader) => reader.at_end(),
        }
    }

    /// Stores the group's position behind everything that was returned.
    pub fn commit(&mut self) -> Result<()> {
        match self {
            Reader::Kafka(reader) => reader.commit(),
            Reader::TopicLog(reader) => reader.commit(),
        }
    }
}
