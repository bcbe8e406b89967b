//! What a person wants to know of a Kafka cluster before it goes wrong: read once, judged elsewhere.
//! Nothing is changed. Settings that this user may not read are left out.

use std::collections::BTreeMap;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use super::failure::from_kafka;
use super::port::KafkaDelivery;
use super::settings::REQUEST_LIMIT;
use crate::delivery::Delivery as _;
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "examine Kafka";

/// What was found in a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaFacts {
    /// The cluster's id.
    pub cluster: String,
    /// How many brokers answer.
    pub brokers: usize,
    /// A broker's settings, by name; None where they may not be read.
    pub broker: Option<BTreeMap<String, String>>,
    /// Of the topics asked for: those that are there, None for those that are not.
    pub topics: BTreeMap<String, Option<TopicFacts>>,
}

/// One topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicFacts {
    /// How many partitions it has.
    pub partitions: usize,
    /// The fewest replicas that one of them has,
    pub replicas: usize,
    /// the fewest that are in sync,
    pub in_sync: usize,
    /// and how many have no leader now.
    pub leaderless: usize,
    /// Its settings, by name; None where they may not be read.
    pub settings: Option<BTreeMap<String, String>>,
}

impl KafkaDelivery {
    /// Looks at the cluster, its progress topic and `topics` for messages. Blocks.
    pub fn examine(&self, topics: &[String]) -> Result<KafkaFacts> {
        let cluster = self.id()?;
        let client = self.clients().admin(OPERATION)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|error| Error::new(ErrorKind::Failed, OPERATION, "no runtime").caused_by(error))?;
        let mut facts = KafkaFacts { cluster, ..KafkaFacts::default() };
        let progress = self.scope().progress_topic();
        for topic in std::iter::once(&progress).chain(topics) {
            let found = look_up(&client, topic, &mut facts)?;
            facts.topics.insert(topic.clone(), found);
        }
        let there: Vec<String> =
            facts.topics.iter().filter(|(_, found)| found.is_some()).map(|(name, _)| name.clone()).collect();
        for name in there {
            let settings = settings(&client, &runtime, &ResourceSpecifier::Topic(&name))?;
            if let Some(Some(topic)) = facts.topics.get_mut(&name) {
                topic.settings = settings;
            }
        }
        if let Some(id) = first_broker(&client)? {
            facts.broker = settings(&client, &runtime, &ResourceSpecifier::Broker(id))?;
        }
        Ok(facts)
    }
}

fn first_broker(client: &AdminClient<DefaultClientContext>) -> Result<Option<i32>> {
    let metadata = client.inner().fetch_metadata(None, REQUEST_LIMIT);
    let metadata = metadata.map_err(|error| from_kafka(OPERATION, error))?;
    Ok(metadata.brokers().first().map(|broker| broker.id()))
}

fn look_up(
    client: &AdminClient<DefaultClientContext>,
    topic: &str,
    facts: &mut KafkaFacts,
) -> Result<Option<TopicFacts>> {
    let metadata = client.inner().fetch_metadata(Some(topic), REQUEST_LIMIT);
    let metadata = metadata.map_err(|error| from_kafka(OPERATION, error).with("topic", topic))?;
    facts.brokers = metadata.brokers().len();
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let Some(found) = found.filter(|found| !found.partitions().is_empty()) else { return Ok(None) };
    let partitions = found.partitions();
    Ok(Some(TopicFacts {
        partitions: partitions.len(),
        replicas: partitions.iter().map(|one| one.replicas().len()).min().unwrap_or(0),
        in_sync: partitions.iter().map(|one| one.isr().len()).min().unwrap_or(0),
        leaderless: partitions.iter().filter(|one| one.leader() < 0).count(),
        settings: None,
    }))
}

/// None where this user may not read them: the right to do so is not needed otherwise.
fn settings(
    client: &AdminClient<DefaultClientContext>,
    runtime: &tokio::runtime::Runtime,
    of: &ResourceSpecifier<'_>,
) -> Result<Option<BTreeMap<String, String>>> {
    let options = AdminOptions::new().request_timeout(Some(REQUEST_LIMIT));
    let answers = runtime.block_on(client.describe_configs([of], &options));
    let answers = answers.map_err(|error| from_kafka(OPERATION, error))?;
    let Some(Ok(found)) = answers.into_iter().next() else { return Ok(None) };
    let plain = found.entries.into_iter().filter(|entry| !entry.is_sensitive);
    Ok(Some(plain.filter_map(|entry| Some((entry.name, entry.value?))).collect()))
}
