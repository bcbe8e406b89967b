//! The delivery port on Kafka.

use std::collections::BTreeMap;

use super::native::Partitioner;
use super::settings::{ClientSettings, TRANSACTION_TIMEOUT_MS};
use super::shard::KafkaShard;
use super::{admin, contact, progress};
use crate::delivery::{Delivery, DeliveryScope, ShardDelivery};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, ShardIndex};
use crate::protocol::progress::Progress;

/// One participant's delivery to a Kafka cluster.
pub struct KafkaDelivery {
    properties: BTreeMap<String, String>,
    clients: ClientSettings,
    scope: DeliveryScope,
}

impl KafkaDelivery {
    /// `properties` are librdkafka's, `bootstrap.servers` among them.
    pub fn new(properties: BTreeMap<String, String>, scope: DeliveryScope) -> Self {
        let clients = ClientSettings::new(&properties);
        KafkaDelivery { properties, clients, scope }
    }

    pub(super) fn scope(&self) -> &DeliveryScope {
        &self.scope
    }

    pub(super) fn clients(&self) -> &ClientSettings {
        &self.clients
    }

    fn producers(&self, shard: ShardIndex) -> ClientSettings {
        let transactional_id = self.scope.transactional_id(shard);
        let transaction_timeout_ms = TRANSACTION_TIMEOUT_MS.to_string();
        // The fastest of those tried with 1,000-byte messages; the user's own come first.
        let fast = [
            ("linger.ms", "5"),
            ("batch.size", "1000000"),
            ("batch.num.messages", "1000"),
            ("queue.buffering.max.kbytes", "32768"),
        ];
        let fast = fast.into_iter().filter(|(name, _)| !self.properties.contains_key(*name));
        // What exactly-once rests on.
        let fixed = [
            ("transactional.id", transactional_id.as_str()),
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("transaction.timeout.ms", transaction_timeout_ms.as_str()),
            ("delivery.report.only.error", "true"),
            // Otherwise librdkafka, and not the partitioner, chooses for keyless messages.
            ("sticky.partitioning.linger.ms", "0"),
        ];
        self.clients.with(fast.chain(fixed))
    }

    fn partitioner(&self) -> Result<Partitioner> {
        let name = self.properties.get("partitioner").map_or("murmur2_random", String::as_str);
        Partitioner::by_name(name).ok_or_else(|| {
            let why =
                "not one of consistent, consistent_random, murmur2, murmur2_random, fnv1a, fnv1a_random";
            Error::new(ErrorKind::Configuration, "configure producer", why).with("partitioner", name)
        })
    }
}

impl Delivery for KafkaDelivery {
    fn id(&self) -> Result<String> {
        contact::cluster_id(&self.clients)
    }

    fn is_there(&self) -> Result<bool> {
        admin::has_progress_topic(&self.clients, &self.scope)
    }

    fn remove(&self) -> Result<()> {
        admin::remove_progress_topic(&self.clients, &self.scope)
    }

    fn init(&self) -> Result<()> {
        self.id()?;
        admin::ensure_progress_topic(&self.clients, &self.scope)
    }

    fn check(&self) -> Result<()> {
        admin::check_progress_topic(&self.clients, &self.scope)
    }

    fn create_topic(&self, topic: &str, partitions: Option<u32>) -> Result<bool> {
        admin::create_topic(&self.clients, topic, partitions)
    }

    fn peek(&self, shard: ShardIndex) -> Result<Option<Progress>> {
        progress::last(&self.clients, &self.scope, shard, false)
    }

    /// Kafka confirms a commit before its markers are written, and until then nobody sees it.
    fn peek_settled(&self, shard: ShardIndex) -> Result<Option<Progress>> {
        progress::last(&self.clients, &self.scope, shard, true)
    }

    fn open(&self, shard: ShardIndex, _epoch: Epoch) -> Result<Box<dyn ShardDelivery>> {
        let (producers, readers) = (self.producers(shard), self.clients.clone());
        let shard = KafkaShard::open(producers, readers, self.partitioner()?, self.scope.clone(), shard)?;
        Ok(Box::new(shard))
    }
}
