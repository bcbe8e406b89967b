//! The one deliverer of a shard to Kafka.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;

use super::failure::from_code;
use super::native::{Partitioner, Producer, Record};
use super::progress;
use super::settings::REQUEST_LIMIT;
use crate::delivery::{DeliveryScope, ShardDelivery};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::ShardIndex;
use crate::message::{StoredMessage, TOPIC_MAX_LEN};
use crate::protocol::progress::Progress;

pub(super) struct KafkaShard {
    producer: Producer,
    readers: ClientConfig,
    scope: DeliveryScope,
    shard: ShardIndex,
    progress_topic: String,
    known_topics: HashSet<String>,
    last_topic: String,
}

impl KafkaShard {
    /// Makes the producer and fences every predecessor at the broker.
    pub(super) fn open(
        config: &ClientConfig,
        readers: ClientConfig,
        partitioner: Partitioner,
        scope: DeliveryScope,
        shard: ShardIndex,
    ) -> Result<Self> {
        let producer = Producer::new(config, partitioner)?;
        failpoint!("delivery.fence.before_init")?;
        producer.init_transactions(REQUEST_LIMIT).map_err(|error| error.with("shard", shard))?;
        failpoint!("delivery.fence.after_init")?;
        let progress_topic = scope.progress_topic();
        Ok(KafkaShard {
            producer,
            readers,
            scope,
            shard,
            progress_topic,
            known_topics: HashSet::new(),
            last_topic: String::new(),
        })
    }

    /// Says at once, and with the way on, that a topic is missing; librdkafka would hold its
    /// messages back for half a minute first.
    fn check_topic(&mut self, topic: &str) -> Result<()> {
        if self.known_topics.contains(topic) {
            return Ok(());
        }
        if topic.len() > TOPIC_MAX_LEN {
            let why = "no Kafka topic has so long a name; the row was written by hand";
            return Err(Error::new(ErrorKind::Invalid, "deliver message", why).with("bytes", topic.len()));
        }
        let metadata = self.producer.metadata(topic, REQUEST_LIMIT)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let problem = found.and_then(|found| found.error());
        match problem.map(RDKafkaErrorCode::from) {
            None if found.is_some_and(|found| !found.partitions().is_empty()) => {
                self.known_topics.insert(topic.to_string());
                Ok(())
            }
            None | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                let why = format!(
                    "the topic is not there; its messages wait, nothing is lost. \
                     Make it: `onecommit init --topic {topic}`"
                );
                Err(Error::new(ErrorKind::Configuration, "deliver message", why).with("topic", topic))
            }
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

    fn send(&mut self, messages: &[StoredMessage]) -> Result<()> {
        for stored in messages {
            let message = &stored.message;
            // Most messages go where the one before went: no look-up for them.
            if self.last_topic != message.topic() {
                self.check_topic(message.topic())?;
                self.last_topic = message.topic().to_string();
            }
            let mut buffer = uuid::Uuid::encode_buffer();
            let id: &str = stored.message_id.0.hyphenated().encode_lower(&mut buffer);
            let sent = self.producer.send(&Record {
                topic: message.topic(),
                partition: message.partition(),
                key: message.key(),
                value: message.value(),
                headers: message.headers(),
                id: Some(id),
                timestamp_ms: stored.created_at_ms,
                keyless_group: stored.transaction,
            });
            sent.map_err(|error| error.with("message_id", stored.message_id))?;
        }
        self.producer.check()
    }

    fn commit(&mut self, progress: &Progress) -> Result<()> {
        let key = Progress::key(&self.scope.participant, self.shard);
        self.producer.send(&Record {
            topic: &self.progress_topic,
            partition: Some(i32::from(self.shard.0)),
            key: Some(key.as_bytes()),
            value: Some(&progress.encode()),
            headers: &[],
            id: None,
            timestamp_ms: 0,
            keyless_group: 0,
        })?;
        failpoint!("delivery.commit.before")?;
        self.producer.commit(REQUEST_LIMIT)?;
        failpoint!("delivery.commit.after")
    }

    fn abort(&mut self, limit: Duration) -> Result<()> {
        self.producer.abort(limit)
    }
}
