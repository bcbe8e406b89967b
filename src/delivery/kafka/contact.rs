//! The first word with a cluster: its id, or why it lets no client of ours in. librdkafka tries for as
//! long as anybody waits, whatever the reason, and tells the reason only in passing: so the client that
//! asks listens for it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::settings::{ClientSettings, REQUEST_LIMIT};
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "connect to Kafka";
const SERVERS: &str = "bootstrap.servers";
const NO_ANSWER: &str =
    "no broker answered: start Kafka, or correct bootstrap.servers or security.protocol under [kafka]";
/// How long between two looks at what librdkafka tells.
const LOOK: Duration = Duration::from_millis(200);
const TOLD_AT_MOST: usize = 100;

/// Asks the cluster for its id.
pub(super) fn cluster_id(clients: &ClientSettings) -> Result<String> {
    let client = clients.consumer_with(OPERATION, Listener::default())?;
    let deadline = Instant::now() + REQUEST_LIMIT;
    let mut error = Error::new(ErrorKind::Unreachable, OPERATION, NO_ANSWER);
    loop {
        if let Some(id) = client.client().fetch_cluster_id(LOOK) {
            return Ok(id);
        }
        // What it told is in a queue among its log lines; whether one was taken off, nobody says.
        for _ in 0..TOLD_AT_MOST {
            let _ = client.poll(Duration::ZERO);
        }
        let told = client.context().told.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((code, text)) = told
            && let Some((kind, what)) = meaning(code, &text, clients.tokens.is_some())
        {
            error = Error::new(kind, OPERATION, what).caused_by(text);
        }
        if error.kind() == ErrorKind::Configuration || Instant::now() >= deadline {
            return Err(error.with(SERVERS, clients.config.get(SERVERS).unwrap_or("")));
        }
    }
}

/// Keeps the first thing that is told.
#[derive(Default)]
struct Listener {
    told: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

impl ClientContext for Listener {
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

fn meaning(code: RDKafkaErrorCode, text: &str, by_token: bool) -> Option<(ErrorKind, &'static str)> {
    let has = |part: &str| text.contains(part);
    let what = match code {
        RDKafkaErrorCode::Authentication if by_token => {
            "Kafka refused the token: correct token.command under [kafka], or whom and what the broker asks for \
             in a token"
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
