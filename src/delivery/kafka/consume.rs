//! Reads committed messages, as a user's consumer would, for `onecommit consume` and Python's
//! `read`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::contact;
use super::failure::{from_kafka, hidden, is_about_group, is_passing};
use super::settings::{ClientSettings, REQUEST_LIMIT};
use crate::delivery::DeliveredMessage;
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "consume";
const PAUSE: Duration = Duration::from_millis(20);
/// How long the group is waited for until it is looked whether it may be used.
const GROUP_LIMIT: Duration = Duration::from_secs(3);
const TOLD_AT_MOST: usize = 100;

/// A `read_committed` reader of one topic.
pub struct KafkaReader {
    consumer: BaseConsumer,
    clients: ClientSettings,
    /// None where no token is needed.
    log_in_at: Option<Instant>,
    topic: String,
    grouped: bool,
    ends: BTreeMap<i32, bool>,
    away: bool,
}

impl KafkaReader {
    /// With a `group` it goes on where the group was. Without one, or where the group never was, it
    /// begins now, or with `from_beginning` at the first message.
    pub fn open(
        properties: &BTreeMap<String, String>,
        topic: &str,
        group: Option<&str>,
        from_beginning: bool,
    ) -> Result<Self> {
        let clients = ClientSettings::new(properties);
        contact::cluster_id(&clients).map_err(|error| error.with("topic", topic))?;
        let reader = KafkaReader::connect(clients, topic, group, from_beginning)?;
        let starts = reader.starts(from_beginning).map_err(|error| reader.failed(error))?;
        let begun = match group {
            None => reader.consumer.assign(&starts),
            Some(_) => reader.store_where_new(&starts).and_then(|()| reader.consumer.subscribe(&[topic])),
        };
        begun.map_err(|error| reader.failed(error))?;
        Ok(reader)
    }

    fn connect(
        clients: ClientSettings,
        topic: &str,
        group: Option<&str>,
        from_beginning: bool,
    ) -> Result<Self> {
        let failed = |error| from_kafka(OPERATION, error).with("topic", topic);
        let own = [
            ("group.id", group.unwrap_or("onecommit-consume")),
            ("isolation.level", "read_committed"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", if from_beginning { "earliest" } else { "latest" }),
        ];
        let consumer = clients.with(own).consumer(OPERATION).map_err(|error| error.with("topic", topic))?;
        let log_in_at = clients.tokens.is_some().then(Instant::now);
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST_LIMIT).map_err(failed)?;
        let ends: BTreeMap<i32, bool> = metadata
            .topics()
            .iter()
            .filter(|found| found.name() == topic)
            .flat_map(|found| found.partitions().iter().map(|partition| (partition.id(), false)))
            .collect();
        if let Some(error) = hidden(OPERATION, &metadata, topic) {
            return Err(error);
        }
        if ends.is_empty() {
            let why = format!("there is no such topic: `onecommit init --topic {topic}` makes it");
            return Err(Error::new(ErrorKind::Configuration, OPERATION, why).with("topic", topic));
        }
        let (topic, grouped) = (topic.to_string(), group.is_some());
        Ok(KafkaReader { consumer, clients, log_in_at, topic, grouped, ends, away: false })
    }

    /// Where to begin in each partition, as a number: told only "at the end", librdkafka looks for it
    /// with its first fetch and skips what came since the opening.
    fn starts(&self, from_beginning: bool) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for partition in self.ends.keys() {
            let (first, end) = self.consumer.fetch_watermarks(&self.topic, *partition, REQUEST_LIMIT)?;
            let start = if from_beginning { first } else { end };
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(start))?;
        }
        Ok(list)
    }

    /// Stores `starts` as the group's position in the partitions in which it has none. Otherwise a
    /// partition of which it has read nothing yet would be begun anew next time, maybe at its end.
    fn store_where_new(&self, starts: &TopicPartitionList) -> KafkaResult<()> {
        let deadline = Instant::now() + REQUEST_LIMIT;
        loop {
            match self.try_store_where_new(starts) {
                // The first group of a cluster finds no coordinator for moments.
                Err(error) if is_passing(&error) && Instant::now() < deadline => {
                    self.check_group_right()?;
                    std::thread::sleep(PAUSE);
                }
                // The group has members at work: where it begins is theirs to say.
                Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::UnknownMemberId)) => return Ok(()),
                done => return done,
            }
        }
    }

    /// That the group may not be used is told only in passing; what waits for it times out.
    fn check_group_right(&self) -> KafkaResult<()> {
        for _ in 0..TOLD_AT_MOST {
            if let Some(Err(error)) = self.consumer.poll(Duration::ZERO)
                && is_about_group(&error)
            {
                return Err(error);
            }
        }
        Ok(())
    }

    fn try_store_where_new(&self, starts: &TopicPartitionList) -> KafkaResult<()> {
        let stored = self.consumer.committed_offsets(starts.clone(), GROUP_LIMIT)?;
        let mut new = TopicPartitionList::new();
        for start in starts.elements() {
            let found = stored.find_partition(&self.topic, start.partition());
            if found.is_none_or(|found| found.offset() == Offset::Invalid) {
                new.add_partition_offset(&self.topic, start.partition(), start.offset())?;
            }
        }
        if new.count() == 0 { Ok(()) } else { self.consumer.commit(&new, CommitMode::Sync) }
    }

    /// The next message, None if there is none within `limit`.
    pub fn next(&mut self, limit: Duration) -> Result<Option<DeliveredMessage>> {
        let deadline = Instant::now() + limit;
        loop {
            if self.log_in_at.is_some_and(|at| at <= Instant::now()) {
                self.log_in_at = self.clients.log_in(self.consumer.client())?;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let until = self.log_in_at.map_or(deadline, |at| at.min(deadline));
            match self.consumer.poll(until.saturating_duration_since(Instant::now())) {
                Some(Ok(record)) => {
                    self.away = false;
                    self.ends.insert(record.partition(), false);
                    return Ok(Some(delivered(&record)));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.ends.insert(partition, true);
                }
                Some(Err(error)) if is_passing(&error) => self.tell_away(&error),
                Some(Err(error)) if !self.grouped && is_about_group(&error) => {}
                Some(Err(error)) => return Err(self.failed(error)),
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
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) | Ok(()) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn tell_away(&mut self, error: &KafkaError) {
        if !self.away {
            tracing::warn!(topic = self.topic, %error, "Kafka can't be reached: waits for it");
        }
        self.away = true;
    }

    fn failed(&self, error: KafkaError) -> Error {
        from_kafka(OPERATION, error).with("topic", &self.topic)
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
