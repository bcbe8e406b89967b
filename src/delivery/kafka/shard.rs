//! The one deliverer of a shard to Kafka.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::error::RDKafkaErrorCode;

use super::blame::blame;
use super::failure::{from_code, reason};
use super::native::{Partitioner, Producer, Record};
use super::progress;
use super::settings::{ClientSettings, REQUEST_LIMIT};
use crate::delivery::{Blame, DeliveryScope, Fault, ShardDelivery};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::ShardIndex;
use crate::message::{StoredMessage, illegal_topic};
use crate::protocol::progress::Progress;

pub(super) struct KafkaShard {
    producer: Producer,
    producers: ClientSettings,
    partitioner: Partitioner,
    readers: ClientSettings,
    scope: DeliveryScope,
    shard: ShardIndex,
    progress_topic: String,
    /// With the number of their partitions.
    known_topics: HashMap<String, i32>,
    last_topic: String,
}

impl KafkaShard {
    /// Makes the producer and fences every predecessor at the broker.
    pub(super) fn open(
        producers: ClientSettings,
        readers: ClientSettings,
        partitioner: Partitioner,
        scope: DeliveryScope,
        shard: ShardIndex,
    ) -> Result<Self> {
        let producer = fence(&producers, partitioner).map_err(|error| error.with("shard", shard))?;
        let progress_topic = scope.progress_topic();
        Ok(KafkaShard {
            producer,
            producers,
            partitioner,
            readers,
            scope,
            shard,
            progress_topic,
            known_topics: HashMap::new(),
            last_topic: String::new(),
        })
    }

    /// What keeps a message from being sent, as far as that can be said before.
    fn fault(&mut self, stored: &StoredMessage) -> Result<Option<Fault>> {
        let message = &stored.message;
        // Most messages go where the one before went: no look-up for them.
        if self.last_topic != message.topic() {
            // A row that was written by hand may name anything.
            if let Some(why) = illegal_topic(message.topic()) {
                return Ok(Some(message_fault(stored, why)));
            }
            if !self.known_topics.contains_key(message.topic())
                && let Some(fault) = self.look_up(message.topic())?
            {
                return Ok(Some(fault));
            }
            self.last_topic = message.topic().to_string();
        }
        let Some(partition) = message.partition() else { return Ok(None) };
        if self.has_partition(message.topic(), partition) {
            return Ok(None);
        }
        // It may have got more since.
        let fault = self.look_up(message.topic())?;
        if fault.is_some() || self.has_partition(message.topic(), partition) {
            return Ok(fault);
        }
        Ok(Some(message_fault(stored, format!("its topic has no partition {partition}"))))
    }

    fn has_partition(&self, topic: &str, partition: i32) -> bool {
        self.known_topics.get(topic).is_some_and(|partitions| partition < *partitions)
    }

    /// Says at once, and with the way on, that a topic is missing; librdkafka would hold its
    /// messages back for half a minute first.
    fn look_up(&mut self, topic: &str) -> Result<Option<Fault>> {
        self.known_topics.remove(topic);
        self.last_topic.clear();
        let held = |reason: String| Some(Fault::Topic { topic: topic.to_string(), reason });
        let metadata = self.producer.metadata(topic, REQUEST_LIMIT)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let problem = found.and_then(|found| found.error());
        match problem.map(RDKafkaErrorCode::from) {
            None if found.is_some_and(|found| !found.partitions().is_empty()) => {
                let partitions = found.map_or(0, |found| found.partitions().len());
                let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
                self.known_topics.insert(topic.to_string(), partitions);
                Ok(None)
            }
            None | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Ok(held(format!("it is not there. Make it: `onecommit init --topic {topic}`")))
            }
            Some(code @ RDKafkaErrorCode::TopicAuthorizationFailed) => Ok(held(reason(code))),
            Some(_) => {
                let code = problem.expect("matched above");
                Err(from_code("look up topic", code, "Kafka can't say where the topic is")
                    .with("topic", topic))
            }
        }
    }
}

impl ShardDelivery for KafkaShard {
    fn progress(&mut self) -> Result<Option<Progress>> {
        progress::last(&self.readers, &self.scope, self.shard, true)
    }

    fn begin(&mut self) -> Result<()> {
        self.producer.begin()
    }

    fn send(&mut self, messages: &[StoredMessage]) -> Result<Option<(usize, Fault)>> {
        for (index, stored) in messages.iter().enumerate() {
            let message = &stored.message;
            if let Some(fault) = self.fault(stored)? {
                return Ok(Some((index, fault)));
            }
            let mut buffer = uuid::Uuid::encode_buffer();
            let id: &str = stored.message_id.0.hyphenated().encode_lower(&mut buffer);
            let sent = self.producer.send(&Record {
                topic: message.topic(),
                partition: message.partition(),
                key: message.key(),
                value: message.shared_value(),
                headers: message.headers(),
                id: Some(id),
                timestamp_ms: stored.created_at_ms,
                keyless_group: stored.transaction,
            });
            if !sent.map_err(|error| error.with("message_id", stored.message_id))? {
                let why = format!(
                    "it has {} bytes, more than `message.max.bytes` of [kafka] allows",
                    message.size()
                );
                return Ok(Some((index, message_fault(stored, why))));
            }
        }
        self.producer.check()?;
        Ok(None)
    }

    fn flush(&mut self) -> Result<()> {
        self.producer.flush(REQUEST_LIMIT)
    }

    fn blame(&self) -> Blame {
        blame(&self.producer.failures(), self.producer.last_code().map(RDKafkaErrorCode::from))
    }

    fn topic_fault(&mut self, topic: &str) -> Result<Option<Fault>> {
        self.look_up(topic)
    }

    fn seal(&mut self, progress: &Progress) -> Result<()> {
        let key = Progress::key(&self.scope.participant, self.shard);
        let sent = self.producer.send(&Record {
            topic: &self.progress_topic,
            partition: Some(i32::from(self.shard.0)),
            key: Some(key.as_bytes()),
            value: Some(&Bytes::from(progress.encode())),
            headers: &[],
            id: None,
            timestamp_ms: 0,
            keyless_group: 0,
        })?;
        if !sent {
            let why = "the progress record is larger than `message.max.bytes` of [kafka] allows: raise it";
            return Err(Error::new(ErrorKind::Configuration, "commit transaction", why));
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        failpoint!("delivery.commit.before")?;
        self.producer.commit(REQUEST_LIMIT)?;
        failpoint!("delivery.commit.after")
    }

    /// librdkafka goes on counting behind the messages that were not taken, and the broker refuses the
    /// next ones as out of order: only another producer goes on.
    fn renew(&mut self) -> Result<Option<Progress>> {
        self.producer = fence(&self.producers, self.partitioner)?;
        self.progress()
    }

    fn abort(&mut self, limit: Duration) -> Result<()> {
        self.producer.abort(limit)
    }
}

/// Makes a producer, which fences every other one of the shard.
fn fence(settings: &ClientSettings, partitioner: Partitioner) -> Result<Producer> {
    let mut producer = Producer::new(&settings.config, settings.tokens.clone(), partitioner)?;
    failpoint!("delivery.fence.before_init")?;
    producer.init_transactions(REQUEST_LIMIT)?;
    failpoint!("delivery.fence.after_init")?;
    Ok(producer)
}

fn message_fault(stored: &StoredMessage, reason: impl Into<String>) -> Fault {
    Fault::Message { message_id: stored.message_id, reason: reason.into() }
}
