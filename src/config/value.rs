//! Values as they were given, each with the place it came from, checked against its setting: what
//! a table of the file and the environment together say, before a typed configuration is built.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use toml::de::DeValue;

use super::configuration;
use super::settings::{DefaultValue, Kind, Setting, Table};
use crate::error::{Error, Result};

/// Where a value came from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    File {
        file: Arc<str>,
        line: usize,
        column: usize,
    },
    Environment(String),
    /// Set at run time, under this key.
    RunTime(String),
}

impl Origin {
    /// A configuration error at this place.
    pub fn error(&self, message: impl Into<String>) -> Error {
        match self {
            Origin::File { file, line, column } => {
                configuration(message).with("at", format!("{file}:{line}:{column}"))
            }
            Origin::Environment(name) => configuration(message).with("environment", name),
            Origin::RunTime(key) => configuration(message).with("set_at_run_time", key),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Text => f.write_str("a text in quotes"),
            Kind::Flag => f.write_str("true or false"),
            Kind::Number { min, max } => write!(f, "a whole number from {min} to {max}"),
        }
    }
}

impl Kind {
    fn read_toml(self, value: &DeValue<'_>) -> Result<Value, String> {
        let found = match (self, value) {
            (Kind::Text, DeValue::String(text)) => return Ok(Value::Text(text.to_string())),
            (Kind::Flag, DeValue::Boolean(flag)) => return Ok(Value::Flag(*flag)),
            (Kind::Number { .. }, DeValue::Integer(digits)) => {
                match u64::from_str_radix(digits.as_str(), digits.radix()) {
                    Ok(number) => return self.bounded(number),
                    Err(_) => digits.to_string(),
                }
            }
            (_, other) => describe(other).to_string(),
        };
        Err(format!("expected {self}, found {found}"))
    }

    fn read_environment(self, text: &str) -> Result<Value, String> {
        match self {
            Kind::Text => return Ok(Value::Text(text.to_string())),
            Kind::Flag if text == "true" => return Ok(Value::Flag(true)),
            Kind::Flag if text == "false" => return Ok(Value::Flag(false)),
            Kind::Flag => {}
            Kind::Number { .. } => {
                if let Ok(number) = text.parse() {
                    return self.bounded(number);
                }
            }
        }
        Err(format!("expected {self}, found {text:?}"))
    }

    fn bounded(self, number: u64) -> Result<Value, String> {
        match self {
            Kind::Number { min, max } if !(min..=max).contains(&number) => {
                Err(format!("expected {self}, found {number}"))
            }
            _ => Ok(Value::Number(number)),
        }
    }
}

/// What a TOML value is, for errors: its type and never itself, which may be a secret.
pub(super) fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// One table of the file, as the file and the environment together give it.
#[derive(Clone)]
pub(super) struct Section {
    pub table: &'static Table,
    /// As the user writes it: `participants.orders`.
    name: String,
    /// What made it come to be; None where nothing did.
    origin: Option<Origin>,
    values: BTreeMap<&'static str, (Value, Origin)>,
}

/// What was given, without the places.
impl PartialEq for Section {
    fn eq(&self, other: &Self) -> bool {
        let values = |section: &Self| {
            section.values.iter().map(|(key, (value, _))| (*key, value.clone())).collect::<Vec<_>>()
        };
        self.name == other.name && values(self) == values(other)
    }
}

impl Eq for Section {}

/// Never a value, which may be a secret.
impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Section").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Section {
    pub fn new(table: &'static Table, name: impl Into<String>, origin: Option<Origin>) -> Self {
        Section { table, name: name.into(), origin, values: BTreeMap::new() }
    }

    pub fn put_toml(&mut self, setting: &'static Setting, value: &DeValue<'_>, origin: Origin) -> Result<()> {
        self.put(setting, setting.kind.read_toml(value), origin)
    }

    pub fn put_environment(&mut self, setting: &'static Setting, text: &str, origin: Origin) -> Result<()> {
        self.put(setting, setting.kind.read_environment(text), origin)
    }

    fn put(&mut self, setting: &'static Setting, value: Result<Value, String>, origin: Origin) -> Result<()> {
        let value = value.map_err(|why| self.refuse(setting.key, &why, &origin))?;
        self.values.insert(setting.key, (value, origin));
        Ok(())
    }

    /// An error about one of the section's keys.
    pub fn refuse(&self, key: &str, why: &str, origin: &Origin) -> Error {
        origin.error(format!("{}: {why}", self.path(key)))
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_string() } else { format!("[{}] {key}", self.name) }
    }

    /// A number with a default.
    pub fn number(&self, key: &str) -> u64 {
        match (self.given_number(key), &self.setting(key).default) {
            (Some((number, _)), _) => number,
            (None, DefaultValue::Number(number)) => *number,
            _ => unreachable!("{key} is not a number with a default"),
        }
    }

    /// A number, if it was given.
    pub fn given_number(&self, key: &str) -> Option<(u64, &Origin)> {
        match self.values.get(self.setting(key).key) {
            Some((Value::Number(number), origin)) => Some((*number, origin)),
            _ => None,
        }
    }

    /// Fails where one number is above another that it belongs below.
    pub fn check_order(&self, low: &str, high: &str) -> Result<()> {
        let (least, most) = (self.number(low), self.number(high));
        let given = self.given_number(low).or(self.given_number(high));
        match given {
            Some((_, origin)) if least > most => {
                Err(self.refuse(low, &format!("{least} is more than {high}, which is {most}"), origin))
            }
            _ => Ok(()),
        }
    }

    pub fn flag(&self, key: &str) -> bool {
        match (self.values.get(key), &self.setting(key).default) {
            (Some((Value::Flag(flag), _)), _) | (None, DefaultValue::Flag(flag)) => *flag,
            _ => unreachable!("{key} is not a flag"),
        }
    }

    /// A value as a person would give it, and where it was given; its default where it was not.
    pub fn shown(&self, setting: &Setting) -> (String, Option<&Origin>) {
        match (self.values.get(setting.key), &setting.default) {
            (Some((Value::Text(text), origin)), _) => (text.clone(), Some(origin)),
            (Some((Value::Flag(flag), origin)), _) => (flag.to_string(), Some(origin)),
            (Some((Value::Number(number), origin)), _) => (number.to_string(), Some(origin)),
            (None, DefaultValue::Text(text) | DefaultValue::Words(text)) => (text.to_string(), None),
            (None, DefaultValue::Flag(flag)) => (flag.to_string(), None),
            (None, DefaultValue::Number(number)) => (number.to_string(), None),
        }
    }

    /// Where a key was given, if it was.
    pub fn given_at(&self, key: &str) -> Option<&Origin> {
        self.values.get(self.setting(key).key).map(|(_, origin)| origin)
    }

    /// A text, if it was given, with its place.
    pub fn given_text(&self, key: &str) -> Option<(&str, &Origin)> {
        match self.values.get(self.setting(key).key) {
            Some((Value::Text(text), origin)) => Some((text, origin)),
            _ => None,
        }
    }

    /// A text that `check` accepts, if it was given.
    pub fn optional_text(
        &self,
        key: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Option<&str>> {
        let Some((text, origin)) = self.given_text(key) else { return Ok(None) };
        check(text).map_err(|why| self.refuse(key, &why, origin))?;
        Ok(Some(text))
    }

    /// A text that `check` accepts, or its default; an error where it has none.
    pub fn checked_text(&self, key: &str, check: impl Fn(&str) -> Result<(), String>) -> Result<&str> {
        match (self.optional_text(key, check)?, &self.setting(key).default) {
            (Some(text), _) => Ok(text),
            (None, DefaultValue::Text(text)) => Ok(text),
            _ => Err(self.missing(key)),
        }
    }

    /// A text parsed into a type of ours, or its default.
    pub fn parsed<T: FromStr<Err = Error>>(&self, key: &str) -> Result<T> {
        let text = self.checked_text(key, |text| {
            text.parse::<T>().map(drop).map_err(|error| error.message().to_string())
        })?;
        text.parse()
    }

    fn missing(&self, key: &str) -> Error {
        let why = format!("{} is missing: it has no default", self.path(key));
        match &self.origin {
            Some(origin) => origin.error(why),
            None => configuration(why),
        }
    }

    fn setting(&self, key: &str) -> &'static Setting {
        match self.table.setting(key) {
            Some(setting) => setting,
            None => unreachable!("{key} is not in the table of settings"),
        }
    }
}

/// The end of an error about a name that is not known: the one that was probably meant, or all.
pub(super) fn suggest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let distance = |name: &str| strsim::damerau_levenshtein(unknown, name);
    match known.iter().min_by_key(|name| distance(name)) {
        Some(nearest) if distance(nearest) <= (nearest.len() / 3).max(2) => {
            format!("did you mean {nearest}?")
        }
        _ => format!("known are {}", known.join(", ")),
    }
}
