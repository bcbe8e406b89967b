//! Topics: made where they are missing, checked where somebody else made them.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

use super::failure::{from_code, from_kafka, hidden};
use super::settings::{ClientSettings, REQUEST_LIMIT};
use crate::delivery::DeliveryScope;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;

/// The smallest segment that Kafka 4 takes: only closed segments are compacted, and progress is
/// small.
const SEGMENT_BYTES: &str = "1048576";
/// How often a fresh topic is looked at until it can be used.
const PAUSE: Duration = Duration::from_millis(20);
/// For so long a topic has to be denied until it counts as gone: a broker that has just started knows
/// none.
const DENIED_FOR: Duration = Duration::from_secs(3);

/// Makes the progress topic, or checks the one that is there: a partition a shard, compacted only
/// (a topic that deletes by time would forget what was delivered).
pub(super) fn ensure_progress_topic(clients: &ClientSettings, scope: &DeliveryScope) -> Result<()> {
    let admin = Admin::new(clients)?;
    let topic = scope.progress_topic();
    let replicas = i32::try_from(admin.brokers()?.min(3)).unwrap_or(1);
    let in_sync = (replicas - 1).max(1).to_string();
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", SEGMENT_BYTES),
        ("min.insync.replicas", in_sync.as_str()),
        ("unclean.leader.election.enable", "false"),
    ];
    let partitions = i32::from(scope.shards);
    let mut wanted = NewTopic::new(&topic, partitions, TopicReplication::Fixed(replicas));
    for (name, value) in settings {
        wanted = wanted.set(name, value);
    }
    let made = admin.create(&wanted).map_err(|error| {
        let why = format!(
            "the progress topic can't be made: make it with {partitions} partitions, {replicas} replicas and \
             cleanup.policy=compact, segment.bytes={SEGMENT_BYTES}, min.insync.replicas={in_sync}, \
             unclean.leader.election.enable=false, then run this again"
        );
        Error::new(error.kind(), "make topic", why).with("topic", topic.clone()).caused_by(error)
    })?;
    if made && replicas < 3 {
        tracing::warn!(
            topic,
            replicas,
            "the progress topic has fewer than 3 replicas: a lost disk can lose it"
        );
    }
    if made { Ok(()) } else { check(&admin, &topic, partitions) }
}

/// Makes a topic for messages with the broker's defaults. Returns whether it was made.
pub(super) fn create_topic(clients: &ClientSettings, topic: &str, partitions: Option<u32>) -> Result<bool> {
    let partitions = partitions.map_or(-1, |number| i32::try_from(number).unwrap_or(i32::MAX));
    let wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
    Admin::new(clients)?.create(&wanted).map_err(|error| {
        if error.kind() != ErrorKind::Configuration {
            return error.with("topic", topic);
        }
        let why = "this user may not make the topic: have it made, for example with kafka-topics.sh --create";
        Error::new(ErrorKind::Configuration, "make topic", why).with("topic", topic).caused_by(error)
    })
}

/// Refuses a progress topic that could forget or take back what was delivered. Settings that may not
/// be read are taken as they are: the right to do so is not needed otherwise.
pub(super) fn check_progress_topic(clients: &ClientSettings, scope: &DeliveryScope) -> Result<()> {
    check(&Admin::new(clients)?, &scope.progress_topic(), i32::from(scope.shards))
}

/// Whether the progress topic is there, with or without leaders.
pub(super) fn has_progress_topic(clients: &ClientSettings, scope: &DeliveryScope) -> Result<bool> {
    let (admin, topic) = (Admin::new(clients)?, scope.progress_topic());
    let deadline = Instant::now() + DENIED_FOR;
    loop {
        if admin.is_known(&topic)? {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Removes the progress topic; no error where it is not there.
pub(super) fn remove_progress_topic(clients: &ClientSettings, scope: &DeliveryScope) -> Result<()> {
    let topic = scope.progress_topic();
    Admin::new(clients)?.delete(&topic).map_err(|error| error.with("topic", topic))
}

fn check(admin: &Admin, topic: &str, partitions: i32) -> Result<()> {
    let refuse = |why: String| Error::new(ErrorKind::Refused, "check topic", why).with("topic", topic);
    let found = admin.partitions(topic)?;
    if found == 0 {
        let why = "the progress topic is not there, or has no leader now. If it was deleted, restore it, or go \
                   on without it: `onecommit adopt` with the participant's name";
        return Err(Error::new(ErrorKind::Unreachable, "check topic", why).with("topic", topic));
    }
    if found != partitions {
        let why = format!("the progress topic has {found} partitions, the outbox {partitions} shards");
        return Err(refuse(why));
    }
    for (name, wanted, otherwise) in [
        ("cleanup.policy", "compact", "it would forget what was delivered"),
        ("unclean.leader.election.enable", "false", "it could take back what was delivered"),
    ] {
        match admin.setting(topic, name) {
            Ok(Some(value)) if value != wanted => {
                let why = format!(
                    "the progress topic's {name} must be {wanted} and is {value}: {otherwise}. \
                     Set {name}={wanted}"
                );
                return Err(refuse(why));
            }
            Err(error) if error.kind() != ErrorKind::Configuration => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

struct Admin {
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    fn new(clients: &ClientSettings) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Failed, "make topic", "no runtime").caused_by(error)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let client = clients.admin("connect to Kafka")?;
        Ok(Admin { client, runtime })
    }

    fn brokers(&self) -> Result<usize> {
        let metadata = self.client.inner().fetch_metadata(None, REQUEST_LIMIT);
        Ok(metadata.map_err(|error| from_kafka("look up brokers", error))?.brokers().len())
    }

    fn partitions(&self, topic: &str) -> Result<i32> {
        let metadata = self.client.inner().fetch_metadata(Some(topic), REQUEST_LIMIT);
        let metadata = metadata.map_err(|error| from_kafka("look up topic", error))?;
        if let Some(error) = hidden("look up topic", &metadata, topic) {
            return Err(error);
        }
        let count = metadata.topics().first().map_or(0, |found| found.partitions().len());
        Ok(i32::try_from(count).unwrap_or(i32::MAX))
    }

    fn is_known(&self, topic: &str) -> Result<bool> {
        let metadata = self.client.inner().fetch_metadata(Some(topic), REQUEST_LIMIT);
        let metadata = metadata.map_err(|error| from_kafka("look up topic", error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.and_then(|found| found.error()).map(RDKafkaErrorCode::from) {
            None => Ok(found.is_some_and(|found| !found.partitions().is_empty())),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(false),
            Some(RDKafkaErrorCode::LeaderNotAvailable) => Ok(true),
            Some(code) => Err(from_code("look up topic", code, "Kafka can't say whether the topic is there")
                .with("topic", topic)),
        }
    }

    fn delete(&self, topic: &str) -> Result<()> {
        let options =
            AdminOptions::new().operation_timeout(Some(REQUEST_LIMIT)).request_timeout(Some(REQUEST_LIMIT));
        failpoint!("kafka.delete_topic.before")?;
        let answers = self.runtime.block_on(self.client.delete_topics(&[topic], &options));
        let answers = answers.map_err(|error| from_kafka("remove topic", error))?;
        failpoint!("kafka.delete_topic.after")?;
        match answers.into_iter().next() {
            Some(Ok(_)) => Ok(()),
            Some(Err((_, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic))) => {
                Ok(())
            }
            Some(Err((_, code))) => Err(from_code("remove topic", code, "Kafka did not remove the topic")),
            None => Err(Error::new(ErrorKind::Failed, "remove topic", "Kafka gave no answer")),
        }
    }

    /// Whether the topic was made now; false where it was there. It can be used when this returns.
    fn create(&self, topic: &NewTopic<'_>) -> Result<bool> {
        let made = self.request(topic)?;
        self.wait_until_usable(topic.name)?;
        Ok(made)
    }

    /// Kafka says that a topic is made before its brokers know it: who used it at once was told
    /// that it was not there, or that its leader was none.
    fn wait_until_usable(&self, topic: &str) -> Result<()> {
        let deadline = Instant::now() + REQUEST_LIMIT;
        while !self.is_usable(topic)? {
            if Instant::now() > deadline {
                let why = "the topic is made, but not all of its partitions have a leader: run this again";
                return Err(Error::new(ErrorKind::Unreachable, "make topic", why).with("topic", topic));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn is_usable(&self, topic: &str) -> Result<bool> {
        let client = self.client.inner();
        let metadata = client.fetch_metadata(Some(topic), REQUEST_LIMIT);
        let metadata = metadata.map_err(|error| from_kafka("look up topic", error))?;
        if let Some(error) = hidden("look up topic", &metadata, topic) {
            return Err(error);
        }
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let Some(found) = found.filter(|found| found.error().is_none() && !found.partitions().is_empty())
        else {
            return Ok(false);
        };
        let answers = |id: i32| client.fetch_watermarks(topic, id, REQUEST_LIMIT).is_ok();
        Ok(found.partitions().iter().all(|partition| partition.leader() >= 0 && answers(partition.id())))
    }

    fn request(&self, topic: &NewTopic<'_>) -> Result<bool> {
        let options =
            AdminOptions::new().operation_timeout(Some(REQUEST_LIMIT)).request_timeout(Some(REQUEST_LIMIT));
        failpoint!("kafka.create_topic.before")?;
        let answers = self.runtime.block_on(self.client.create_topics([topic], &options));
        let answers = answers.map_err(|error| from_kafka("make topic", error))?;
        failpoint!("kafka.create_topic.after")?;
        match answers.into_iter().next() {
            Some(Ok(_)) => Ok(true),
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
            Some(Err((_, code))) => Err(from_code("make topic", code, "Kafka did not make the topic")),
            None => Err(Error::new(ErrorKind::Failed, "make topic", "Kafka gave no answer")),
        }
    }

    fn setting(&self, topic: &str, name: &str) -> Result<Option<String>> {
        let options = AdminOptions::new().request_timeout(Some(REQUEST_LIMIT));
        let resource = ResourceSpecifier::Topic(topic);
        let answers = self.runtime.block_on(self.client.describe_configs([&resource], &options));
        let answers = answers.map_err(|error| from_kafka("read topic settings", error))?;
        match answers.into_iter().next() {
            Some(Ok(found)) => Ok(found.get(name).and_then(|entry| entry.value.clone())),
            Some(Err(code)) => Err(from_code("read topic settings", code, "Kafka gave no settings")),
            None => Ok(None),
        }
    }
}
