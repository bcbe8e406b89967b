//! Settings that change at run time, for the person who looks at them and changes them.

use super::build;
use super::follow::{decoded, understood};
use crate::config::{Config, RunTimeKey, RunTimeSettings, RunTimeValue};
use crate::error::{Error, ErrorKind, Result};
use crate::settings::SettingsStore;

const OPERATION: &str = "change settings";
/// How often a change is made again where others change something at the same time.
const TRIES: u32 = 10;

/// What there is.
#[derive(Clone, Debug)]
pub struct SettingsView {
    /// Grows with each change; 0 where nothing was ever set.
    pub revision: u64,
    /// Every setting that may change, with its value and where that comes from.
    pub values: Vec<RunTimeValue>,
}

/// What one change did.
#[derive(Clone, Debug)]
pub struct SettingChanged {
    /// The revision in which it is so.
    pub revision: u64,
    /// What held before.
    pub was: RunTimeValue,
    /// What holds now.
    pub is: RunTimeValue,
}

/// What others did.
#[derive(Clone, Debug)]
pub struct SettingsChange {
    /// The revision that is stored now.
    pub revision: u64,
    /// Each key with what was set for it and what is.
    pub changes: Vec<(String, Option<String>, Option<String>)>,
}

/// Looks at all of them, and at `key` if it is a topic's that is not named anywhere.
pub async fn settings(config: &Config, key: Option<&RunTimeKey>) -> Result<SettingsView> {
    let stored = build::settings_store(config)?.read().await?;
    let (settings, _) = understood(config, &stored)?;
    Ok(SettingsView { revision: stored.revision, values: config.run_time_values(&settings, key)? })
}

/// Sets one, or takes it back where `value` is None. It is checked together with all others as the file would be,
/// and nothing that somebody else has set meanwhile is lost.
pub async fn change_setting(
    config: &Config,
    key: &RunTimeKey,
    value: Option<&str>,
) -> Result<SettingChanged> {
    let mut store = build::settings_store(config)?;
    let mut tried = 0;
    loop {
        tried += 1;
        match change(config, &mut *store, key, value).await {
            Err(error)
                if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unclear) && tried < TRIES => {}
            changed => return changed,
        }
    }
}

async fn change(
    config: &Config,
    store: &mut dyn SettingsStore,
    key: &RunTimeKey,
    value: Option<&str>,
) -> Result<SettingChanged> {
    let stored = store.read().await?;
    // What can't be decoded is a later release's: it must not be overwritten.
    let before = decoded(&stored)?;
    let wanted = before.changed(key, value);
    config.with(&wanted)?;
    let revision = match wanted == before {
        true => stored.revision,
        false => store.write(stored.revision, &wanted.encode()?).await?,
    };
    let of = |settings: &RunTimeSettings| {
        let name = key.to_string();
        let found = config.run_time_values(settings, Some(key))?.into_iter().find(|one| one.key == name);
        found.ok_or_else(|| {
            Error::new(ErrorKind::Failed, OPERATION, "the key has no value").with("key", &name)
        })
    };
    Ok(SettingChanged { revision, was: of(&before)?, is: of(&wanted)? })
}

/// One who is told of each change.
pub struct SettingsWatcher {
    store: Box<dyn SettingsStore>,
    revision: u64,
    known: RunTimeSettings,
}

impl SettingsWatcher {
    /// Begins with what is stored now.
    pub async fn new(config: &Config) -> Result<Self> {
        let mut store = build::settings_store(config)?;
        let stored = store.read().await?;
        let (revision, known) = (stored.revision, decoded(&stored)?);
        Ok(SettingsWatcher { store, revision, known })
    }

    /// What was stored when it was last looked at.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Waits for the next change, for as long as it takes. May be called again after an error.
    pub async fn next(&mut self) -> Result<SettingsChange> {
        let stored = self.store.changed(self.revision).await?;
        // Also where it is not understood: the next one may be.
        self.revision = stored.revision;
        let next = decoded(&stored)?;
        let owned = |text: Option<&str>| text.map(str::to_string);
        let changes = self.known.differences(&next).into_iter();
        let changes = changes.map(|(key, was, is)| (key.to_string(), owned(was), owned(is))).collect();
        self.known = next;
        Ok(SettingsChange { revision: self.revision, changes })
    }
}
