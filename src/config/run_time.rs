//! Settings that may change while everything runs: which they are, how they are stored, and how they are laid
//! over what the file and the environment say.
//!
//! Promises that what is stored is checked by the very code that checks the file, so that a running node never
//! works with what it would not have been started with. A setting can change at run time where each use of it
//! reads it anew and nothing else was sized by it; the others take a restart, and an error says why.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::settings::{
    ADMIN, COORDINATOR, PARTICIPANT, RELAY, ROOT, RUN_TIME, Setting, TOPIC, Table, ZOOKEEPER,
};
use super::value::{Origin, Section, suggest};
use super::{Config, Coordinator, Relay, Topic};
use crate::error::{Error, ErrorKind, Result};
use crate::message::illegal_topic;

const OPERATION: &str = "change settings";
const VERSION: u32 = 1;
const TOPICS: &str = "topics.";
/// All of them together: a node in ZooKeeper has room for a mebibyte at most.
const BYTES_MAX: usize = 256 * 1024;

/// The name of a setting that may change at run time: `relay.batch_messages`, `log_level`,
/// `topics."order.paid".on_poison`.
#[derive(Clone)]
pub struct RunTimeKey {
    table: &'static Table,
    setting: &'static Setting,
    /// Only of a topic's.
    topic: Option<String>,
}

impl fmt::Display for RunTimeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.topic {
            Some(topic) => write!(f, "{TOPICS}{topic:?}.{}", self.setting.key),
            None if self.table.name.is_empty() => f.write_str(self.setting.key),
            None => write!(f, "{}.{}", self.table.name, self.setting.key),
        }
    }
}

impl fmt::Debug for RunTimeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for RunTimeKey {
    type Err = Error;

    /// A topic's name may stand in quotes or not: a shell takes them away.
    fn from_str(text: &str) -> Result<Self> {
        let (table, key, topic) = match text.strip_prefix(TOPICS).and_then(|rest| rest.rsplit_once('.')) {
            Some((topic, key)) => (&TOPIC, key, Some(topic.trim_matches('"').to_string())),
            None => match text.rsplit_once('.') {
                None if RUN_TIME.setting(text).is_some() => (&RUN_TIME, text, None),
                None => (&ROOT, text, None),
                Some((table, key)) => (table_of(table).ok_or_else(|| unknown(text))?, key, None),
            },
        };
        let setting = table.setting(key).ok_or_else(|| unknown(text))?;
        if !setting.at_run_time {
            let why = format!(
                "{text} takes a restart: {}. Set it in the configuration file or the environment of each process, and \
                 restart that; at run time these can be set: {}",
                table.at_restart,
                known().join(", ")
            );
            return Err(Error::new(ErrorKind::Configuration, OPERATION, why));
        }
        if let Some(why) = topic.as_deref().and_then(illegal_topic) {
            return Err(Error::new(ErrorKind::Configuration, OPERATION, why).with("key", text));
        }
        Ok(RunTimeKey { table, setting, topic })
    }
}

fn table_of(name: &str) -> Option<&'static Table> {
    match name.split_once('.') {
        Some(("participants", _)) => Some(&PARTICIPANT),
        Some(_) => None,
        None => [&RELAY, &COORDINATOR, &ZOOKEEPER, &ADMIN].into_iter().find(|table| table.name == name),
    }
}

fn known() -> Vec<String> {
    let names = |table: &'static Table| {
        let named = move |setting: &&'static Setting| setting.at_run_time;
        table.settings.iter().filter(named).map(move |setting| match table.name {
            "" => setting.key.to_string(),
            name => format!("{name}.{}", setting.key),
        })
    };
    [&RUN_TIME, &RELAY, &COORDINATOR, &TOPIC].into_iter().flat_map(names).collect()
}

fn unknown(text: &str) -> Error {
    let known = known();
    let known = suggest(text, known.iter().map(String::as_str));
    Error::new(ErrorKind::Configuration, OPERATION, format!("{text:?} is no setting: {known}"))
}

/// What is set at run time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunTimeSettings {
    /// As text, by the key as it is written.
    values: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    values: BTreeMap<String, String>,
}

impl RunTimeSettings {
    /// Reads what was stored. Which keys and values there are is checked by [`Config::with`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let stored: Stored = serde_json::from_slice(bytes).map_err(|error| {
            let why = "what is stored is not what onecommit writes: find out who wrote it, and set it anew";
            Error::new(ErrorKind::Refused, "read settings", why).caused_by(error)
        })?;
        if stored.version != VERSION {
            let why =
                "the settings were stored by another release: use one that understands this version of them";
            let error = Error::new(ErrorKind::Refused, "read settings", why);
            return Err(error.with("version", stored.version).with("understood", VERSION));
        }
        Ok(RunTimeSettings { values: stored.values })
    }

    /// What is stored. Fails where it is more than the store takes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let stored = Stored { version: VERSION, values: self.values.clone() };
        let bytes = serde_json::to_vec(&stored)
            .map_err(|error| Error::new(ErrorKind::Failed, OPERATION, "settings").caused_by(error))?;
        if bytes.len() > BYTES_MAX {
            let why = format!("all settings together have {} bytes, {BYTES_MAX} are allowed", bytes.len());
            return Err(Error::new(ErrorKind::Configuration, OPERATION, why));
        }
        Ok(bytes)
    }

    /// What is set for a key.
    pub fn get(&self, key: &RunTimeKey) -> Option<&str> {
        self.values.get(&key.to_string()).map(String::as_str)
    }

    /// The same with another value for a key; None takes it back.
    #[must_use]
    pub fn changed(&self, key: &RunTimeKey, value: Option<&str>) -> Self {
        let mut values = self.values.clone();
        match value {
            Some(value) => drop(values.insert(key.to_string(), value.to_string())),
            None => drop(values.remove(&key.to_string())),
        }
        RunTimeSettings { values }
    }

    /// What is other in `next`: each key with what it was and what it is, None where it is not set.
    pub fn differences<'a>(&'a self, next: &'a Self) -> Vec<(&'a str, Option<&'a str>, Option<&'a str>)> {
        let keys: std::collections::BTreeSet<&String> =
            self.values.keys().chain(next.values.keys()).collect();
        let pair = |key: &'a String| (self.values.get(key), next.values.get(key));
        keys.into_iter()
            .filter(|key| pair(key).0 != pair(key).1)
            .map(|key| (key.as_str(), pair(key).0.map(String::as_str), pair(key).1.map(String::as_str)))
            .collect()
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// It was set at run time.
    RunTime,
    /// This variable.
    Environment(String),
    /// The configuration file, at this place.
    File(String),
    /// Nobody gave one.
    Default,
}

/// One setting that may change at run time, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunTimeValue {
    /// Its name.
    pub key: String,
    /// As it would be given.
    pub value: String,
    /// Where it comes from.
    pub source: ValueSource,
}

/// The tables with such settings, as the file and the environment gave them. Two are equal whose values are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) relay: Section,
    pub(super) coordinator: Section,
    pub(super) topics: BTreeMap<String, Section>,
}

impl Given {
    /// With what is set at run time over it.
    fn overlaid(&self, settings: &RunTimeSettings) -> Result<(Self, Section)> {
        let (mut given, mut rest) = (self.clone(), Section::new(&RUN_TIME, "", None));
        for (name, value) in &settings.values {
            let key: RunTimeKey = name.parse()?;
            let section = match &key.topic {
                Some(topic) => given.topics.entry(topic.clone()).or_insert_with(|| topic_section(topic)),
                None if key.table.name == RELAY.name => &mut given.relay,
                None if key.table.name == COORDINATOR.name => &mut given.coordinator,
                None => &mut rest,
            };
            section.put_environment(key.setting, value, Origin::RunTime(name.clone()))?;
        }
        Ok((given, rest))
    }
}

fn topic_section(topic: &str) -> Section {
    Section::new(&TOPIC, format!("topics.{topic:?}"), None)
}

impl Config {
    /// This configuration with what is set at run time over it; an error where a key or a value is none that
    /// could be.
    pub fn with(&self, settings: &RunTimeSettings) -> Result<Config> {
        let (given, rest) = self.given.overlaid(settings)?;
        Ok(Config {
            relay: Relay::build(&given.relay)?,
            coordinator: Coordinator::build(&given.coordinator)?,
            topics: Topic::build_all(&given.topics)?,
            log_level: rest.given_text("log_level").map(|_| rest.parsed("log_level")).transpose()?,
            ..self.clone()
        })
    }

    /// Every setting that may change at run time, with what is set at run time over the configuration; of topics
    /// those that are named somewhere, and that of `also`.
    pub fn run_time_values(
        &self,
        settings: &RunTimeSettings,
        also: Option<&RunTimeKey>,
    ) -> Result<Vec<RunTimeValue>> {
        let (mut given, rest) = self.given.overlaid(settings)?;
        if let Some(topic) = also.and_then(|key| key.topic.as_ref()) {
            given.topics.entry(topic.clone()).or_insert_with(|| topic_section(topic));
        }
        let mut found = Vec::new();
        add_values(&mut found, &rest, None);
        add_values(&mut found, &given.relay, None);
        add_values(&mut found, &given.coordinator, None);
        given.topics.iter().for_each(|(topic, section)| add_values(&mut found, section, Some(topic)));
        Ok(found)
    }
}

fn add_values(found: &mut Vec<RunTimeValue>, section: &Section, topic: Option<&String>) {
    let table = section.table;
    for setting in table.settings.iter().filter(|setting| setting.at_run_time) {
        let key = RunTimeKey { table, setting, topic: topic.cloned() }.to_string();
        let (value, origin) = section.shown(setting);
        let source = match origin {
            None => ValueSource::Default,
            Some(Origin::RunTime(_)) => ValueSource::RunTime,
            Some(Origin::Environment(name)) => ValueSource::Environment(name.clone()),
            Some(Origin::File { file, line, column }) => ValueSource::File(format!("{file}:{line}:{column}")),
        };
        found.push(RunTimeValue { key, value, source });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[relay]\npoll_busy_ms = 7\n[topics.\"a.b\"]\non_poison = \"pass\"\n";

    fn config() -> Config {
        let env = [("ONECOMMIT_RELAY__BATCH_MESSAGES".to_string(), "70".to_string())];
        Config::from_toml(FILE, env).unwrap()
    }

    fn set(pairs: &[(&str, &str)]) -> RunTimeSettings {
        pairs.iter().fold(RunTimeSettings::default(), |settings, (key, value)| {
            settings.changed(&key.parse().unwrap(), Some(value))
        })
    }

    #[test]
    fn what_is_set_at_run_time_wins_over_the_environment_and_the_file() {
        let settings =
            set(&[("relay.batch_messages", "9"), ("topics.a.b.on_poison", "stop"), ("log_level", "debug")]);
        let changed = config().with(&settings).unwrap();
        assert_eq!((changed.relay.batch_messages, changed.relay.poll_busy_ms), (9, 7));
        assert_eq!(changed.topics["a.b"].on_poison, crate::config::OnPoison::Stop);
        assert_eq!(changed.log_level, Some(crate::config::LogLevel::Debug));
        assert_eq!(config().with(&RunTimeSettings::default()).unwrap(), config(), "and can be taken back");
        let found = config().run_time_values(&settings, None).unwrap();
        let of =
            |key: &str| found.iter().find(|one| one.key == key).map(|one| (one.value.as_str(), &one.source));
        assert_eq!(of("relay.batch_messages"), Some(("9", &ValueSource::RunTime)));
        assert_eq!(
            of("relay.poll_busy_ms"),
            Some(("7", &ValueSource::File("onecommit.toml:2:1".to_string())))
        );
        assert_eq!(of("relay.batch_bytes"), Some(("8388608", &ValueSource::Default)));
        assert_eq!(of("topics.\"a.b\".on_poison"), Some(("stop", &ValueSource::RunTime)));
        let before = config().run_time_values(&RunTimeSettings::default(), None).unwrap();
        let name = "ONECOMMIT_RELAY__BATCH_MESSAGES".to_string();
        let key = "relay.batch_messages".to_string();
        let given = RunTimeValue { key, value: "70".to_string(), source: ValueSource::Environment(name) };
        assert!(before.contains(&given), "{before:?}");
    }

    #[test]
    fn what_the_file_could_not_say_is_refused() {
        let cases = [
            (
                "relay.batch_messages",
                "0",
                "[relay] batch_messages: expected a whole number from 1 to 100000, found 0",
            ),
            ("relay.batch_messages", "many", "found \"many\""),
            ("relay.poll_idle_ms", "6", "7 is more than poll_idle_ms, which is 6"),
            ("topics.x.on_poison", "parc", "did you mean park?"),
            ("log_level", "loud", "is no level"),
        ];
        for (key, value, said) in cases {
            let error = config().with(&set(&[(key, value)])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn a_key_that_takes_a_restart_says_why_and_an_unknown_one_what_was_meant() {
        let cases = [
            ("relay.buffer_bytes", "takes a restart"),
            ("coordinator.in_flight_max", "takes a restart"),
            ("relay.lease_timeout_ms", "takes a restart"),
            ("namespace", "takes a restart"),
            ("participants.main.shards", "takes a restart"),
            ("zookeeper.servers", "takes a restart"),
            ("admin.listen", "takes a restart"),
            ("relay.batch_message", "did you mean relay.batch_messages?"),
            ("relays.batch_messages", "did you mean relay.batch_messages?"),
            ("topics.x.on_poisn", "is no setting"),
            ("topics.a b.on_poison", "a b"),
            ("kafka.acks", "is no setting"),
            ("", "is no setting"),
        ];
        for (key, said) in cases {
            let error = key.parse::<RunTimeKey>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
            assert!(error.to_string().contains(said), "{key}: {error}");
        }
    }

    #[test]
    fn what_is_stored_is_read_again_and_no_other_version() {
        let settings = set(&[("relay.batch_messages", "9"), ("topics.\"a.b\".on_poison", "stop")]);
        assert_eq!(RunTimeSettings::decode(&settings.encode().unwrap()).unwrap(), settings);
        for stored in ["", "{}", "{\"version\":2,\"values\":{}}", "[]"] {
            let error = RunTimeSettings::decode(stored.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        }
        let newer = "{\"version\":1,\"values\":{\"relay.colour\":\"red\"}}";
        let newer = RunTimeSettings::decode(newer.as_bytes()).unwrap();
        assert!(config().with(&newer).is_err(), "a key of a later release");
        let large = "x".repeat(BYTES_MAX);
        assert!(set(&[("log_level", &large)]).encode().is_err());
    }

    #[test]
    fn differences_name_what_was_and_what_is() {
        let (before, after) =
            (set(&[("log_level", "debug"), ("relay.batch_messages", "9")]), set(&[("log_level", "warn")]));
        let expected =
            [("log_level", Some("debug"), Some("warn")), ("relay.batch_messages", Some("9"), None)];
        assert_eq!(before.differences(&after), expected);
    }
}
