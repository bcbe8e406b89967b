//! The delivery port on Kafka.

use std::collections::BTreeMap;

use rdkafka::config::ClientConfig;

use super::native::Partitioner;
use super::settings::base_config;
use super::shard::KafkaShard;
use super::{admin, contact, progress};
use crate::delivery::{Delivery, DeliveryScope, ShardDelivery};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, ShardIndex};
use crate::protocol::progress::Progress;

/// One participant's delivery to a Kafka cluster.
pub struct KafkaDelivery {
    properties: BTreeMap<String, String>,
    scope: DeliveryScope,
}

impl KafkaDelivery {
    /// `properties` are librdkafka's, `bootstrap.servers` among them.
    pub fn new(properties: BTreeMap<String, String>, scope: DeliveryScope) -> Self {
        KafkaDelivery { properties, scope }
    }

    pub(super) fn scope(&self) -> &DeliveryScope {
        &self.scope
    }

    pub(super) fn client_config(&self) -> ClientConfig {
        base_config(&self.properties)
    }

    fn producer_config(&self, shard: ShardIndex) -> ClientConfig {
        let mut config = self.client_config();
        // The fastest of those tried with 1,000-byte messages; the user's own come first.
        for (name, value) in [
            ("linger.ms", "5"),
            ("batch.size", "1000000"),
            ("batch.num.messages", "1000"),
            ("queue.buffering.max.kbytes", "32768"),
        ] {
            if !self.properties.contains_key(name) {
                config.set(name, value);
            }
        }
        // What exactly-once rests on. A dead relay's open transaction stalls every read_committed
        // consumer of its partitions until the broker ends it: hence 10 s.
        for (name, value) in [
            ("transactional.id", self.scope.transactional_id(shard).as_str()),
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("transaction.timeout.ms", "10000"),
            ("delivery.report.only.error", "true"),
            // Otherwise librdkafka, and not the partitioner, chooses for keyless messages.
            ("sticky.partitioning.linger.ms", "0"),
        ] {
            config.set(name, value);
        }
        config
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
        contact::cluster_id(&self.client_config())
    }

    fn is_there(&self) -> Result<bool> {
        admin::has_progress_topic(&self.client_config(), &self.scope)
    }

    fn remove(&self) -> Result<()> {
        admin::remove_progress_topic(&self.client_config(), &self.scope)
    }

    fn init(&self) -> Result<()> {
        self.id()?;
        admin::ensure_progress_topic(&self.client_config(), &self.scope)
    }

    fn check(&self) -> Result<()> {
        admin::check_progress_topic(&self.client_config(), &self.scope)
    }

    fn create_topic(&self, topic: &str, partitions: Option<u32>) -> Result<bool> {
        admin::create_topic(&self.client_config(), topic, partitions)
    }

    fn peek(&self, shard: ShardIndex) -> Result<Option<Progress>> {
        progress::last(&self.client_config(), &self.scope, shard, false)
    }

    /// Kafka confirms a commit before its markers are written, and until then nobody sees it.
    fn peek_settled(&self, shard: ShardIndex) -> Result<Option<Progress>> {
        progress::last(&self.client_config(), &self.scope, shard, true)
    }

    fn open(&self, shard: ShardIndex, _epoch: Epoch) -> Result<Box<dyn ShardDelivery>> {
        let (config, readers) = (self.producer_config(shard), self.client_config());
        let shard = KafkaShard::open(config, readers, self.partitioner()?, self.scope.clone(), shard)?;
        Ok(Box::new(shard))
    }
}
