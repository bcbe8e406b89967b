//! The file: TOML into sections, every key of them known. What a value means is not decided here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::settings::{ADMIN, COORDINATOR, PARTICIPANT, RELAY, ROOT, TOPIC, ZOOKEEPER};
use super::value::{Origin, Section, describe, suggest};
use crate::error::{Error, Result};
use crate::id::ParticipantName;
use crate::message::illegal_topic;

/// The tables a file can have.
pub(super) const TABLES: [&str; 7] =
    ["participants", "kafka", "zookeeper", "relay", "coordinator", "topics", "admin"];

/// Kafka's properties as they were given, before any is looked at.
pub(super) struct GivenProperties {
    pub origin: Origin,
    pub values: BTreeMap<String, (String, Origin)>,
}

/// Everything given, by table.
pub(super) struct Document {
    pub root: Section,
    pub participants: BTreeMap<ParticipantName, Section>,
    pub kafka: Option<GivenProperties>,
    pub zookeeper: Option<Section>,
    pub relay: Section,
    pub coordinator: Section,
    pub topics: BTreeMap<String, Section>,
    pub admin: Section,
}

impl Document {
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let source = Source { file: file.into(), text };
        // The TOML error is not kept as the source: it shows the line, which may hold a password.
        let top = DeTable::parse(text).map_err(|error| {
            let why = format!("not valid TOML: {}", error.message());
            source.origin(error.span().unwrap_or_default()).error(why)
        })?;
        let mut document = Document {
            root: Section::new(&ROOT, "", None),
            participants: BTreeMap::new(),
            kafka: None,
            zookeeper: None,
            relay: Section::new(&RELAY, RELAY.name, None),
            coordinator: Section::new(&COORDINATOR, COORDINATOR.name, None),
            topics: BTreeMap::new(),
            admin: Section::new(&ADMIN, ADMIN.name, None),
        };
        for (key, value) in top.get_ref() {
            document.read_top(&source, key, value)?;
        }
        Ok(document)
    }

    fn read_top(&mut self, source: &Source<'_>, key: &Key<'_>, value: &Given<'_>) -> Result<()> {
        let (name, origin) = (key.get_ref().as_ref(), source.origin(key.span()));
        if let Some(setting) = ROOT.setting(name) {
            return self.root.put_toml(setting, value.get_ref(), origin);
        }
        if !TABLES.contains(&name) {
            let known = suggest(name, ROOT.keys().chain(TABLES));
            return Err(origin.error(format!("unknown key {name:?} above all tables: {known}")));
        }
        let table = source.table(name, value, &origin)?;
        match name {
            "participants" => {
                for (key, value) in table {
                    self.read_participant(source, key, value)?;
                }
            }
            "topics" => {
                for (key, value) in table {
                    self.read_topic(source, key, value)?;
                }
            }
            "kafka" => {
                let mut given = GivenProperties { origin, values: BTreeMap::new() };
                read_properties(source, "", table, &mut given)?;
                self.kafka = Some(given);
            }
            "zookeeper" => {
                let mut section = Section::new(&ZOOKEEPER, name, Some(origin));
                read_section(source, &mut section, table)?;
                self.zookeeper = Some(section);
            }
            "relay" => read_section(source, &mut self.relay, table)?,
            "coordinator" => read_section(source, &mut self.coordinator, table)?,
            _ => read_section(source, &mut self.admin, table)?,
        }
        Ok(())
    }

    fn read_participant(&mut self, source: &Source<'_>, key: &Key<'_>, value: &Given<'_>) -> Result<()> {
        let (name, origin) = (key.get_ref().as_ref(), source.origin(key.span()));
        let table = source.table(&format!("participants.{name}"), value, &origin)?;
        let section = self.participant(name, origin)?;
        read_section(source, section, table)
    }

    fn read_topic(&mut self, source: &Source<'_>, key: &Key<'_>, value: &Given<'_>) -> Result<()> {
        let (name, origin) = (key.get_ref().as_ref(), source.origin(key.span()));
        let table = source.table(&format!("topics.{name:?}"), value, &origin)?;
        if let Some(why) = illegal_topic(name) {
            return Err(origin.error(format!("[topics.{name:?}]: {why}")));
        }
        if table.values().any(|value| matches!(value.get_ref(), DeValue::Table(_))) {
            let why =
                format!("[topics.{name}.…]: a topic's name with a dot stands in quotes: [topics.\"a.b\"]");
            return Err(origin.error(why));
        }
        let mut section = Section::new(&TOPIC, format!("topics.{name:?}"), Some(origin));
        read_section(source, &mut section, table)?;
        self.topics.insert(name.to_string(), section);
        Ok(())
    }

    /// The participant's section, made where it is not there yet.
    pub fn participant(&mut self, name: &str, origin: Origin) -> Result<&mut Section> {
        let parsed: ParticipantName = name.parse().map_err(|error: Error| {
            origin.error(format!("[participants.{name}]: {}", error.message())).with("participant", name)
        })?;
        let make = || Section::new(&PARTICIPANT, format!("participants.{name}"), Some(origin));
        Ok(self.participants.entry(parsed).or_insert_with(make))
    }
}

type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;
type Given<'i> = Spanned<DeValue<'i>>;

struct Source<'i> {
    file: Arc<str>,
    text: &'i str,
}

impl Source<'_> {
    fn origin(&self, span: Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Origin::File {
            file: self.file.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    fn table<'v, 'i>(&self, name: &str, value: &'v Given<'i>, origin: &Origin) -> Result<&'v DeTable<'i>> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(table),
            other => {
                let found = describe(other);
                Err(origin.error(format!("{name}: expected a table [{name}], found {found}")))
            }
        }
    }
}

fn read_section(source: &Source<'_>, section: &mut Section, table: &DeTable<'_>) -> Result<()> {
    for (key, value) in table {
        let (name, origin) = (key.get_ref().as_ref(), source.origin(key.span()));
        let Some(setting) = section.table.setting(name) else {
            let why = format!("unknown key: {}", suggest(name, section.table.keys()));
            return Err(section.refuse(name, &why, &origin));
        };
        section.put_toml(setting, value.get_ref(), origin)?;
    }
    Ok(())
}

/// Kafka's names have dots, and TOML reads those outside of quotes as tables inside of tables:
/// both ways to write a property mean the same.
fn read_properties(
    source: &Source<'_>,
    prefix: &str,
    table: &DeTable<'_>,
    given: &mut GivenProperties,
) -> Result<()> {
    for (key, value) in table {
        let (name, origin) = (format!("{prefix}{}", key.get_ref()), source.origin(key.span()));
        let text = match value.get_ref() {
            DeValue::Table(inner) => {
                read_properties(source, &format!("{name}."), inner, given)?;
                continue;
            }
            DeValue::String(text) => text.to_string(),
            DeValue::Boolean(flag) => flag.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Integer(number) => decimal(number).unwrap_or_else(|| number.to_string()),
            other => {
                let found = describe(other);
                let why = format!("[kafka] {name}: expected a text, a number, true or false, found {found}");
                return Err(origin.error(why));
            }
        };
        if given.values.insert(name.clone(), (text, origin.clone())).is_some() {
            return Err(origin.error(format!("[kafka] {name}: given twice, with and without quotes")));
        }
    }
    Ok(())
}

/// librdkafka reads decimal numbers only.
fn decimal(number: &DeInteger<'_>) -> Option<String> {
    i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
}
