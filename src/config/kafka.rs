//! `[kafka]`: librdkafka's properties, and one of ours. They are passed on as they are but for those
//! that the guarantees rest on. Those are set where they are used, and refused here with the reason,
//! so that nobody believes to have changed them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use super::document::GivenProperties;
use super::value::suggest;
use crate::error::Result;

pub(super) const SERVERS: &str = "bootstrap.servers";
pub(super) const PARTITIONER: &str = "partitioner";
/// Java's partitioner. librdkafka's own default scatters the same keys differently.
pub(super) const PARTITIONER_DEFAULT: &str = "murmur2_random";
/// The one that librdkafka does not know: what prints tokens for OAUTHBEARER. It looks like the others so
/// that the environment can give it.
pub(crate) const TOKEN_COMMAND: &str = "token.command";
/// librdkafka's own way to a token, without any server; for trials.
const UNSIGNED: &str = "enable.sasl.oauthbearer.unsecure.jwt";
const MECHANISM: [&str; 2] = ["sasl.mechanism", "sasl.mechanisms"];
/// Those that librdkafka knows. Its `random` is missing: it tears the messages of a key apart.
pub(super) const PARTITIONERS: [&str; 6] =
    ["consistent", "consistent_random", "murmur2", "murmur2_random", "fnv1a", "fnv1a_random"];
/// All that librdkafka knows, a line each: it would name an unknown one only when a client is made.
const KNOWN: &str = include_str!("kafka_properties.txt");
/// librdkafka's cluster in memory, for its own tests.
const MOCK_PREFIX: &str = "test.";
/// All that [`fmt::Debug`] shows the values of; the others may be secrets.
const SHOWN: [&str; 2] = [SERVERS, PARTITIONER];

/// Properties that can't be set, and why.
pub(super) struct Refused {
    /// Aliases included: librdkafka would take the last one given.
    pub names: &'static [&'static str],
    pub reason: &'static str,
}

pub(super) static REFUSED: [Refused; 13] = [
    Refused {
        names: &["acks", "request.required.acks"],
        reason: "a message counts as delivered when all in-sync replicas have it",
    },
    Refused {
        names: &["enable.idempotence", "transactional.id"],
        reason: "exactly once rests on Kafka's transactions, and on one transactional.id for each shard",
    },
    Refused {
        names: &["transaction.timeout.ms"],
        reason: "a dead relay's open transaction holds up every read_committed consumer for this long",
    },
    Refused { names: &["isolation.level"], reason: "progress that is not committed must never be read" },
    Refused {
        names: &["max.in.flight", "max.in.flight.requests.per.connection", "queuing.strategy"],
        reason: "the order of a key's messages rests on it",
    },
    Refused {
        names: &["delivery.report.only.error", "enabled_events"],
        reason: "the relay finds messages that can't be delivered by their reports",
    },
    Refused {
        names: &["enable.auto.commit", "auto.commit.enable", "auto.commit.interval.ms"],
        reason: "how far a relay is stands in its progress; group offsets expire",
    },
    Refused {
        names: &["enable.auto.offset.store", "offset.store.method", "offset.store.path"],
        reason: "how far a relay is stands in its progress; group offsets expire",
    },
    Refused {
        names: &["group.id", "group.instance.id", "group.protocol"],
        reason: "a relay reads its progress by partition, in no consumer group",
    },
    Refused {
        names: &["auto.offset.reset", "enable.partition.eof"],
        reason: "whether there is progress is proved by reading to the partition's very end",
    },
    Refused {
        names: &["allow.auto.create.topics"],
        reason: "a progress topic that comes from nowhere would hide that the real one was lost",
    },
    Refused {
        names: &["metadata.broker.list"],
        reason: "it is another name for bootstrap.servers: write that",
    },
    Refused {
        names: &["partitioner_cb", "msg_order_cmp", "dr_cb", "dr_msg_cb", "default_topic_conf"],
        reason: "it takes code, not a value",
    },
];

/// Properties for librdkafka, by name: `bootstrap.servers` and `partitioner` are always there.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaProperties(BTreeMap<String, String>);

impl KafkaProperties {
    pub(super) fn build(given: GivenProperties) -> Result<Self> {
        for (name, (value, origin)) in &given.values {
            if let Some(why) = refusal(name, value) {
                return Err(origin.error(format!("[kafka] {name}: {why}")));
            }
        }
        if !given.values.contains_key(SERVERS) {
            let why = format!(
                "[kafka] {SERVERS} is missing; without a [kafka] table messages go to the embedded topic log"
            );
            return Err(given.origin.error(why));
        }
        check_token(&given)?;
        let mut properties: BTreeMap<String, String> =
            given.values.into_iter().map(|(name, (value, _))| (name, value)).collect();
        properties.entry(PARTITIONER.to_string()).or_insert_with(|| PARTITIONER_DEFAULT.to_string());
        Ok(KafkaProperties(properties))
    }
}

/// Without this librdkafka would wait for a token for ever.
fn check_token(given: &GivenProperties) -> Result<()> {
    let mechanism = MECHANISM.iter().find_map(|name| Some((name, given.values.get(*name)?)));
    let Some((name, (value, origin))) = mechanism else { return Ok(()) };
    let no = ["false", "f", "0"];
    let unsigned = given.values.get(UNSIGNED).map(|(value, _)| value.to_ascii_lowercase());
    let unsigned = unsigned.is_some_and(|value| !no.contains(&value.as_str()));
    if !value.eq_ignore_ascii_case("OAUTHBEARER") || unsigned != given.values.contains_key(TOKEN_COMMAND) {
        return Ok(());
    }
    let why = if unsigned {
        format!("either {TOKEN_COMMAND} or {UNSIGNED} gives the token, not both")
    } else {
        format!("OAUTHBEARER needs {TOKEN_COMMAND}, a command that prints the token")
    };
    Err(origin.error(format!("[kafka] {name}: {why}")))
}

fn refusal(name: &str, value: &str) -> Option<String> {
    if let Some(refused) = REFUSED.iter().find(|refused| refused.names.contains(&name)) {
        return Some(format!("can't be set: {}", refused.reason));
    }
    if name.starts_with(MOCK_PREFIX) {
        return Some("can't be set: messages would go to a mock cluster in memory".to_string());
    }
    if name == SERVERS && value.trim().is_empty() {
        return Some("expected host:port, or several with commas, found nothing".to_string());
    }
    if name == PARTITIONER && !PARTITIONERS.contains(&value) {
        return Some(format!("{value:?} is not allowed: {}", suggest(value, PARTITIONERS.into_iter())));
    }
    if name == TOKEN_COMMAND && value.trim().is_empty() {
        return Some("it is empty: give a command".to_string());
    }
    if name != TOKEN_COMMAND && !KNOWN.lines().any(|known| known == name) {
        return Some(unknown(name));
    }
    value.contains('\0').then(|| "a value can't hold NUL".to_string())
}

fn unknown(name: &str) -> String {
    let settable = |known: &&str| !REFUSED.iter().any(|refused| refused.names.contains(known));
    let near = suggest(name, KNOWN.lines().filter(settable).chain([TOKEN_COMMAND]));
    // Where none is near it would list them all.
    let near = Some(near).filter(|near| near.starts_with("did you mean"));
    near.map_or("librdkafka has no such property".to_string(), |near| format!("unknown property: {near}"))
}

impl Deref for KafkaProperties {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for KafkaProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |name: &str, value| if SHOWN.contains(&name) { value } else { "***" };
        f.debug_map().entries(self.0.iter().map(|(name, value)| (name, shown(name, value)))).finish()
    }
}
