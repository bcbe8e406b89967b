//! The first word with a cluster: its id, or why it lets no client of ours in. librdkafka tries for as
//! long as anybody waits, whatever the reason, and tells the reason only in passing: so a client that
//! listens for it asks once more.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::failure::from_kafka;
use super::settings::REQUEST_LIMIT;
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "connect to Kafka";
const SERVERS: &str = "bootstrap.servers";
const NO_ANSWER: &str =
    "no broker answered: start Kafka, or correct bootstrap.servers or security.protocol under [kafka]";
/// After this long without an answer it is asked for the reason.
const FIRST_LIMIT: Duration = Duration::from_secs(1);
/// How long the brokers are asked, and how long between two looks at what librdkafka tells.
const ASK_LIMIT: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(200);
const TOLD_AT_MOST: usize = 100;

/// Asks the cluster for its id.
pub(super) fn cluster_id(config: &ClientConfig) -> Result<String> {
    let client: BaseConsumer = config.create().map_err(|error| from_kafka(OPERATION, error))?;
    if let Some(id) = client.client().fetch_cluster_id(FIRST_LIMIT) {
        return Ok(id);
    }
    let obstacle = obstacle(config);
    let error = match obstacle {
        Some(error) if error.kind() == ErrorKind::Configuration => error,
        obstacle => match client.client().fetch_cluster_id(REQUEST_LIMIT) {
            Some(id) => return Ok(id),
            None => obstacle.unwrap_or_else(|| Error::new(ErrorKind::Unreachable, OPERATION, NO_ANSWER)),
        },
    };
    Err(error.with(SERVERS, config.get(SERVERS).unwrap_or("")))
}

fn obstacle(config: &ClientConfig) -> Option<Error> {
    let client: BaseConsumer<Listener> = config.create_with_context(Listener::default()).ok()?;
    let deadline = Instant::now() + ASK_LIMIT;
    while Instant::now() < deadline {
        if client.fetch_metadata(None, LOOK).is_ok() {
            return None;
        }
        // What it told is in a queue among its log lines; whether one was taken off, nobody says.
        for _ in 0..TOLD_AT_MOST {
            let _ = client.poll(Duration::ZERO);
        }
        let told = client.context().told.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((code, text)) = told {
            let (kind, what) = meaning(code, &text)?;
            return Some(Error::new(kind, OPERATION, what).caused_by(text));
        }
    }
    None
}

/// Keeps the first thing that is told.
#[derive(Default)]
struct Listener {
    told: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

impl ClientContext for Listener {
    // Its default says that there is no token, which is then told like any other reason.
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) =
            error.rdkafka_error_code().filter(|code| *code != RDKafkaErrorCode::AllBrokersDown)
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.get_or_insert_with(|| (code, reason.to_string()));
        }
    }

    fn log(&self, _: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!(target: "librdkafka", "{facility} {line}");
    }
}

impl ConsumerContext for Listener {}

fn meaning(code: RDKafkaErrorCode, text: &str) -> Option<(ErrorKind, &'static str)> {
    let has = |part: &str| text.contains(part);
    let what = match code {
        RDKafkaErrorCode::Authentication if has("OAUTHBEARER token") => {
            "there is no OAUTHBEARER token: Onecommit asks no server for one so far; use another sasl.mechanism, \
             or a client's certificate"
        }
        RDKafkaErrorCode::Authentication => {
            "Kafka refused the user, the password or the mechanism: correct sasl.username, sasl.password and \
             sasl.mechanism under [kafka]"
        }
        RDKafkaErrorCode::SSL if has("verif") => {
            "the broker's certificate is not one that can be believed: correct ssl.ca.location under [kafka], or \
             the host in bootstrap.servers, which the certificate has to be made for"
        }
        // With TLS 1.3 it comes only behind the handshake, as an error of the connection.
        _ if has(" alert ") || has("client SSL authentication") => {
            "the broker does not accept this client's certificate: give one that it trusts in \
             ssl.certificate.location, and its private key in ssl.key.location, under [kafka]"
        }
        RDKafkaErrorCode::SSL => {
            "no TLS connection to the broker could be made: correct security.protocol under [kafka], or the port in \
             bootstrap.servers"
        }
        // A broker, or what stands before it, that is only just starting cuts connections off, too.
        _ if has("listener?") => {
            return Some((ErrorKind::Unreachable, NO_ANSWER));
        }
        _ => return None,
    };
    Some((ErrorKind::Configuration, what))
}
