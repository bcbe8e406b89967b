//! What all clients of Kafka share.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::ClientConfig;

use super::failure::from_kafka;
use crate::error::Result;

/// How long any one request to Kafka may take, transactions included. Above the broker's limit for
/// an open transaction, so that a predecessor's is always ended within it.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// Brokers make any topic that a producer asks for, unless the client forbids it: a progress topic that
/// was deleted would come back empty, with settings that forget, and a mistyped topic would be made.
const AUTO_CREATE: (&str, &str) = ("allow.auto.create.topics", "false");

/// Refuses a value that librdkafka does not take, before a relay waits for a server that it can't ask.
pub fn check_properties(properties: &BTreeMap<String, String>) -> Result<()> {
    let taken = base_config(properties).create_native_config().map(drop);
    taken.map_err(|error| from_kafka("read configuration", error))
}

/// What every client of ours begins with: the user's properties.
pub(super) fn base_config(properties: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in properties.iter().filter(|(name, _)| *name != "partitioner") {
        config.set(name, value);
    }
    config.set(AUTO_CREATE.0, AUTO_CREATE.1);
    config
}
