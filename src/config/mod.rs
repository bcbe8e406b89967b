//! What an installation is configured with: `onecommit.toml`, then the environment, then defaults.
//! Everything is parsed once, here, so that a [`Config`] can't be wrong afterwards; whatever is
//! wrong is an error that names the key, the place and the way out. Nothing is looked up on any
//! server, and no file but the configuration's own is opened.
//!
//! `settings` is the one table of all keys: the file, the environment and the reference in
//! `docs/configuration.md` are read from it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Namespace, ParticipantName};

mod admin;
mod coordinator;
mod database_url;
mod document;
mod environment;
mod followed;
mod kafka;
mod log_level;
mod postgres_url;
mod reference;
mod relay;
mod run_time;
mod settings;
#[cfg(test)]
mod tests;
mod topic;
mod value;
mod zookeeper;

pub use admin::Admin;
pub use coordinator::Coordinator;
pub use database_url::DatabaseUrl;
pub use followed::Followed;
pub use kafka::KafkaProperties;
pub(crate) use kafka::TOKEN_COMMAND;
pub use log_level::LogLevel;
pub use postgres_url::{PostgresUrl, Roots, SslMode, Tls};
pub use reference::reference;
pub use relay::Relay;
pub use run_time::{RunTimeKey, RunTimeSettings, RunTimeValue, ValueSource};
pub use topic::{OnPoison, Topic};
pub use zookeeper::{Secret, Zookeeper, ZookeeperTls};

use document::Document;
use run_time::Given;
use settings::SHARDS_MAX;
use value::{Origin, Section};

const OPERATION: &str = "read configuration";
/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "onecommit.toml";
const DEFAULT_PARTICIPANT: &str = "main";
const SQLITE_SHARDS: u16 = 1;
const POSTGRES_SHARDS: u16 = 2;
/// PostgreSQL cuts longer names off without a word.
const IDENTIFIER_MAX_LEN: usize = 63;
/// Leaves room in a topic's 249 characters for the incarnation and the participant's name.
const KAFKA_PREFIX_MAX_LEN: usize = 150;

/// One installation's configuration.
///
/// ```
/// use onecommit::config::Config;
///
/// let text = r#"
/// namespace = "shop"
/// [participants.orders]
/// url = "postgresql://app@127.0.0.1/orders"
/// outbox = true
/// "#;
/// let config = Config::from_toml(text, [])?;
/// assert_eq!(config.kafka_prefix(), "onecommit.shop.");
/// assert_eq!(config.outboxes().count(), 1);
/// # Ok::<(), onecommit::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The installation's name.
    pub namespace: Namespace,
    /// Where everything embedded keeps its files.
    pub data_dir: PathBuf,
    /// The PostgreSQL schema of Onecommit's tables: a plain identifier that needs no quotes.
    pub schema: String,
    /// The databases that can take part.
    pub participants: BTreeMap<ParticipantName, Participant>,
    /// Where messages are delivered to; None for the embedded topic log.
    pub kafka: Option<KafkaProperties>,
    /// Where leases, decisions, locks, groups and settings at run time are kept; None for the database beside the
    /// outbox (leases) and files in `data_dir`.
    pub zookeeper: Option<Zookeeper>,
    /// How a relay works.
    pub relay: Relay,
    /// How transactions over several databases are run.
    pub coordinator: Coordinator,
    /// What is said of single topics.
    pub topics: BTreeMap<String, Topic>,
    /// Where a relay answers over HTTP.
    pub admin: Admin,
    /// How much is logged, where that is set at run time.
    pub log_level: Option<LogLevel>,
    kafka_prefix: Option<String>,
    /// What settings at run time are laid over.
    given: Given,
}

/// One database that can take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participant {
    /// The database.
    pub url: DatabaseUrl,
    /// Whether messages published through it wait in it.
    pub outbox: bool,
    /// Into how many shards its outbox is divided, 1 to 256.
    pub shards: u16,
}

impl Config {
    /// Reads the file at `path`, then the process's environment. None reads `./onecommit.toml`,
    /// or takes the defaults where there is none; a named file has to be there.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let file = path.unwrap_or(Path::new(DEFAULT_FILE));
        let text = read_file(file, path.is_some())?;
        let env = std::env::vars_os().filter_map(into_text).collect::<Result<Vec<_>>>()?;
        Config::parse(&file.display().to_string(), &text, env)
    }

    /// Parses the text of an `onecommit.toml`, with `env` in the place of the environment.
    pub fn from_toml(text: &str, env: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        Config::parse(DEFAULT_FILE, text, env)
    }

    fn parse(file: &str, text: &str, env: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let mut document = Document::parse(file, text)?;
        environment::overlay(&mut document, env)?;
        Config::build(document)
    }

    fn build(document: Document) -> Result<Self> {
        let root = &document.root;
        let data_dir = PathBuf::from(root.checked_text("data_dir", check_not_empty)?);
        let participants = match document.participants.is_empty() {
            true => embedded_participant(&data_dir)?,
            false => named_participants(&document.participants)?,
        };
        Ok(Config {
            namespace: root.parsed("namespace")?,
            schema: root.checked_text("schema", check_schema)?.to_string(),
            kafka_prefix: root.optional_text("kafka_prefix", check_kafka_prefix)?.map(str::to_string),
            kafka: document.kafka.map(KafkaProperties::build).transpose()?,
            zookeeper: document.zookeeper.as_ref().map(Zookeeper::build).transpose()?,
            relay: Relay::build(&document.relay)?,
            coordinator: Coordinator::build(&document.coordinator)?,
            topics: Topic::build_all(&document.topics)?,
            admin: Admin::build(&document.admin)?,
            log_level: None,
            participants,
            data_dir,
            given: Given {
                relay: document.relay,
                coordinator: document.coordinator,
                topics: document.topics,
            },
        })
    }

    /// The start of every Kafka topic and `transactional.id` of this installation.
    pub fn kafka_prefix(&self) -> String {
        self.kafka_prefix.clone().unwrap_or_else(|| format!("onecommit.{}.", self.namespace))
    }

    /// The participants in which messages wait.
    pub fn outboxes(&self) -> impl Iterator<Item = (&ParticipantName, &Participant)> {
        self.participants.iter().filter(|(_, participant)| participant.outbox)
    }
}

impl Participant {
    fn build(section: &Section) -> Result<Self> {
        let url: DatabaseUrl = section.parsed("url")?;
        let shards = match section.given_number("shards") {
            None if matches!(url, DatabaseUrl::Sqlite(_)) => SQLITE_SHARDS,
            None => POSTGRES_SHARDS,
            Some((shards, origin)) => {
                if matches!(url, DatabaseUrl::Sqlite(_)) && shards != u64::from(SQLITE_SHARDS) {
                    let why =
                        "an outbox in SQLite has one shard, because SQLite has one writer: leave it out";
                    return Err(section.refuse("shards", why, origin));
                }
                // The settings bound it, see SHARDS_MAX.
                u16::try_from(shards).unwrap_or(SHARDS_MAX)
            }
        };
        Ok(Participant { url, outbox: section.flag("outbox"), shards })
    }
}

fn embedded_participant(data_dir: &Path) -> Result<BTreeMap<ParticipantName, Participant>> {
    let url = DatabaseUrl::Sqlite(data_dir.join(format!("{DEFAULT_PARTICIPANT}.db")));
    let participant = Participant { url, outbox: true, shards: SQLITE_SHARDS };
    Ok(BTreeMap::from([(DEFAULT_PARTICIPANT.parse()?, participant)]))
}

fn named_participants(
    sections: &BTreeMap<ParticipantName, Section>,
) -> Result<BTreeMap<ParticipantName, Participant>> {
    sections.iter().map(|(name, section)| Ok((name.clone(), Participant::build(section)?))).collect()
}

fn check_not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("it is empty".to_string()) } else { Ok(()) }
}

/// SQL is written with the schema's name in it, unquoted and the same in every language.
fn check_schema(text: &str) -> Result<(), String> {
    let plain = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if !plain || !first || text.len() > IDENTIFIER_MAX_LEN {
        return Err(format!(
            "{text:?} is no plain identifier: a small letter or _ first, then a-z, 0-9 and _, \
             {IDENTIFIER_MAX_LEN} characters at most"
        ));
    }
    if text.starts_with("pg_") || text == "information_schema" {
        return Err(format!("{text:?} is a name that PostgreSQL keeps for itself"));
    }
    Ok(())
}

fn check_kafka_prefix(text: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > KAFKA_PREFIX_MAX_LEN || !text.chars().all(legal) {
        return Err(format!(
            "{text:?} can't begin a topic's name: 1 to {KAFKA_PREFIX_MAX_LEN} letters, digits, . _ and -"
        ));
    }
    Ok(())
}

fn read_file(file: &Path, is_named: bool) -> Result<String> {
    let error = match fs::read_to_string(file) {
        Ok(text) => return Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named => return Ok(String::new()),
        Err(error) => error,
    };
    let why = match error.kind() {
        io::ErrorKind::NotFound => "the file is not there",
        io::ErrorKind::InvalidData => "the file is not UTF-8 text",
        _ => "the file can't be read",
    };
    Err(configuration(why).with("file", file.display()).caused_by(error))
}

/// Only variables of ours have to be text; others may hold anything.
fn into_text((name, value): (OsString, OsString)) -> Option<Result<(String, String)>> {
    let name = name.into_string().ok().filter(|name| name.starts_with(environment::PREFIX))?;
    let text = value.into_string().map_err(|_| {
        Origin::Environment(name.clone()).error("the environment variable's value is not UTF-8 text")
    });
    Some(text.map(|text| (name, text)))
}

fn configuration(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, OPERATION, message)
}
