//! `onecommit settings`.

use std::convert::Infallible;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::interrupt::{until_ended, until_interrupted};
use super::output::Output;
use crate::config::{Config, RunTimeKey, RunTimeValue, ValueSource};
use crate::error::{ErrorKind, Result};
use crate::relay::Told;
use crate::service::{self, SettingChanged, SettingsChange, SettingsWatcher};

/// Between two attempts to follow while the store is away.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct SettingsArguments {
    #[command(subcommand)]
    command: Settings,
}

#[derive(Subcommand)]
enum Settings {
    /// Show one setting, or all that may change at run time, and where each value comes from.
    Get {
        /// As in `relay.batch_messages`, `topics.order.paid.on_poison`, `log_level`.
        key: Option<String>,
    },
    /// Set one for all processes of this installation, now: it is checked first.
    Set {
        /// Its name.
        key: String,
        /// As in the configuration file, without quotes.
        value: String,
    },
    /// Take back what was set: the environment and the file hold again.
    Unset {
        /// Its name.
        key: String,
    },
    /// Print each change as it comes, until Ctrl-C.
    Watch,
}

pub(super) fn run(config: &Config, arguments: &SettingsArguments, output: Output) -> Result<i32> {
    match &arguments.command {
        Settings::Get { key } => get(config, key.as_deref(), output),
        Settings::Set { key, value } => change(config, key, Some(value), output),
        Settings::Unset { key } => change(config, key, None, output),
        Settings::Watch => until_ended(follow(config, output)),
    }
}

fn get(config: &Config, key: Option<&str>, output: Output) -> Result<i32> {
    let key = key.map(str::parse::<RunTimeKey>).transpose()?;
    let mut view = match until_interrupted(service::settings(config, key.as_ref()))? {
        Ok(view) => view,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if let Some(key) = &key {
        let name = key.to_string();
        view.values.retain(|value| value.key == name);
    }
    if output.json {
        let values: Vec<Value> = view.values.iter().map(as_json).collect();
        output.object(&json!({"revision": view.revision, "settings": values}))?;
        return Ok(0);
    }
    view.values.iter().try_for_each(|value| output.line(&shown(value)))?;
    if key.is_none() {
        output.line(&format!("revision {}", view.revision))?;
    }
    Ok(0)
}

fn change(config: &Config, key: &str, value: Option<&str>, output: Output) -> Result<i32> {
    let key: RunTimeKey = key.parse()?;
    let changed = match until_interrupted(service::change_setting(config, &key, value))? {
        Ok(changed) => changed,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    let SettingChanged { revision, was, is } = changed;
    if output.json {
        output.object(&json!({"revision": revision, "was": as_json(&was), "is": as_json(&is)}))?;
    } else {
        output.line(&format!("{}; it was {}; revision {revision}", shown(&is), with_source(&was)))?;
    }
    Ok(0)
}

async fn follow(config: &Config, output: Output) -> Result<Infallible> {
    let mut watcher = SettingsWatcher::new(config).await?;
    show(&SettingsChange { revision: watcher.revision(), changes: Vec::new() }, output)?;
    let mut told = Told::default();
    loop {
        match watcher.next().await {
            Ok(change) => {
                told.clear();
                show(&change, output)?;
            }
            Err(error) if error.kind() == ErrorKind::Configuration => return Err(error),
            Err(error) => {
                if told.is_news(&error) {
                    tracing::warn!(%error, "the settings can't be followed now");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn show(SettingsChange { revision, changes }: &SettingsChange, output: Output) -> Result<()> {
    if output.json {
        let changes: Vec<Value> =
            changes.iter().map(|(key, was, is)| json!({"key": key, "was": was, "is": is})).collect();
        return output.object(&json!({"revision": revision, "changes": changes}));
    }
    if changes.is_empty() {
        return output.line(&format!("revision {revision}"));
    }
    let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "as configured".to_string());
    changes.iter().try_for_each(|(key, was, is)| {
        output.line(&format!("revision {revision}: {key} = {}; it was {}", word(is), word(was)))
    })
}

fn shown(value: &RunTimeValue) -> String {
    format!("{} = {}", value.key, with_source(value))
}

fn with_source(value: &RunTimeValue) -> String {
    let source = match &value.source {
        ValueSource::RunTime => "set at run time".to_string(),
        ValueSource::Environment(name) => format!("environment {name}"),
        ValueSource::File(place) => place.clone(),
        ValueSource::Default => "default".to_string(),
    };
    format!("{} ({source})", value.value)
}

fn as_json(value: &RunTimeValue) -> Value {
    let (source, at) = match &value.source {
        ValueSource::RunTime => ("run_time", None),
        ValueSource::Environment(name) => ("environment", Some(name)),
        ValueSource::File(place) => ("file", Some(place)),
        ValueSource::Default => ("default", None),
    };
    json!({"key": value.key, "value": value.value, "source": source, "at": at})
}
