//! What all clients of Kafka share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::AdminClient;
use rdkafka::client::{Client, ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, DefaultConsumerContext};

use super::failure::from_kafka;
use super::native::log_in;
use super::token::Tokens;
use crate::config::TOKEN_COMMAND;
use crate::error::Result;

/// How long any one request to Kafka may take, transactions included. Above the broker's limit for
/// an open transaction, so that a predecessor's is always ended within it.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// A dead relay's open transaction stalls every read_committed consumer of its partitions until the
/// broker ends it after this long, in milliseconds.
pub const TRANSACTION_TIMEOUT_MS: i64 = 10_000;

/// Brokers make any topic that a producer asks for, unless the client forbids it: a progress topic that
/// was deleted would come back empty, with settings that forget, and a mistyped topic would be made.
const AUTO_CREATE: (&str, &str) = ("allow.auto.create.topics", "false");

/// Properties that librdkafka does not know, or would take for something else.
const OURS: [&str; 2] = ["partitioner", TOKEN_COMMAND];

/// Refuses a value that librdkafka does not take, before a relay waits for a server that it can't ask.
pub fn check_properties(properties: &BTreeMap<String, String>) -> Result<()> {
    let taken = ClientSettings::new(properties).config.create_native_config().map(drop);
    taken.map_err(|error| from_kafka("read configuration", error))
}

/// What clients are made with: at first the user's properties.
#[derive(Clone)]
pub(super) struct ClientSettings {
    pub(super) config: ClientConfig,
    /// None where no token is needed.
    pub(super) tokens: Option<Arc<Tokens>>,
}

impl ClientSettings {
    pub(super) fn new(properties: &BTreeMap<String, String>) -> Self {
        let mut config = ClientConfig::new();
        for (name, value) in properties.iter().filter(|(name, _)| !OURS.contains(&name.as_str())) {
            config.set(name, value);
        }
        config.set(AUTO_CREATE.0, AUTO_CREATE.1);
        let tokens = properties.get(TOKEN_COMMAND).map(|command| Arc::new(Tokens::new(command.clone())));
        ClientSettings { config, tokens }
    }

    /// The same with more properties.
    pub(super) fn with<'a>(&self, properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut settings = self.clone();
        for (name, value) in properties {
            settings.config.set(name, value);
        }
        settings
    }

    pub(super) fn admin(&self, operation: &'static str) -> Result<AdminClient<DefaultClientContext>> {
        let client: AdminClient<_> = self.config.create().map_err(|error| from_kafka(operation, error))?;
        self.log_in(client.inner())?;
        Ok(client)
    }

    pub(super) fn consumer(&self, operation: &'static str) -> Result<BaseConsumer> {
        self.consumer_with(operation, DefaultConsumerContext)
    }

    pub(super) fn consumer_with<C: ConsumerContext>(
        &self,
        operation: &'static str,
        context: C,
    ) -> Result<BaseConsumer<C>> {
        let made = self.config.create_with_context(context);
        let consumer: BaseConsumer<C> = made.map_err(|error| from_kafka(operation, error))?;
        self.log_in(consumer.client())?;
        Ok(consumer)
    }

    /// Gives the client a token, where one is needed. Returns when to give it another one.
    pub(super) fn log_in<C: ClientContext>(&self, client: &Client<C>) -> Result<Option<Instant>> {
        let Some(tokens) = &self.tokens else { return Ok(None) };
        let token = tokens.get()?;
        log_in(client, &token)?;
        Ok(Some(token.renew_at))
    }
}
