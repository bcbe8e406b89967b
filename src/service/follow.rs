//! Follows the settings that change at run time, for as long as anything in this process uses them. What can't be
//! understood, or would not be accepted in the file, is refused and told, and what held before goes on to hold;
//! while the store is away, too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::build;
use super::limits::{coordinator_settings, relay_settings};
use crate::config::{Config, Followed, LogLevel, RunTimeSettings};
use crate::coordinator::CoordinatorSettings;
use crate::error::{Error, Result};
use crate::protocol::retry::Backoff;
use crate::relay::{RelaySettings, Told};
use crate::settings::{SettingsStore, StoredSettings};

const RETRY: Backoff = Backoff { first: Duration::from_millis(100), limit: Duration::from_secs(5) };

/// Which settings this process follows, for whoever shows it.
#[derive(Debug, Default)]
pub struct Following {
    revision: AtomicU64,
    refused: Mutex<Option<String>>,
}

impl Following {
    /// The revision of what it works with; 0 where nothing was ever set.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Why it does not work with what is stored now; None where it does.
    pub fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, refused: Option<String>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }
}

/// What changes at run time.
#[derive(Clone)]
pub(super) struct Changing {
    pub(super) relay: Followed<RelaySettings>,
    pub(super) coordinator: Followed<CoordinatorSettings>,
}

/// Has what it gave out change. It ends by itself when nobody uses that any more.
pub(super) struct Follower {
    config: Config,
    store: Box<dyn SettingsStore>,
    relay: watch::Sender<RelaySettings>,
    coordinator: watch::Sender<CoordinatorSettings>,
    following: Arc<Following>,
    seen: StoredSettings,
    /// What holds now.
    settings: RunTimeSettings,
    log_level: Option<LogLevel>,
    told: Told,
}

impl Follower {
    /// Nothing is read yet: until then the file and the environment hold.
    pub(super) fn new(config: &Config, following: Arc<Following>) -> Result<(Self, Changing)> {
        let (relay, relays) = Followed::new(relay_settings(config));
        let (coordinator, coordinators) = Followed::new(coordinator_settings(config));
        let follower = Follower {
            config: config.clone(),
            store: build::settings_store(config)?,
            relay,
            coordinator,
            following,
            seen: StoredSettings::default(),
            settings: RunTimeSettings::default(),
            log_level: None,
            told: Told::default(),
        };
        Ok((follower, Changing { relay: relays, coordinator: coordinators }))
    }

    /// Reads once, so that nothing begins with other settings than are stored; where they can't be read, that is
    /// told.
    pub(super) async fn begin(&mut self) {
        let read = self.store.read().await;
        self.take(read);
    }

    pub(super) async fn run(mut self) {
        let mut failures = 0;
        loop {
            let changed = tokio::select! {
                changed = self.store.changed(self.seen.revision) => changed,
                () = unused(&self.relay, &self.coordinator) => return,
            };
            failures = if changed.is_ok() { 0 } else { failures + 1 };
            self.take(changed);
            if failures > 0 {
                tokio::select! {
                    () = tokio::time::sleep(RETRY.wait(failures, 0.5)) => {}
                    () = unused(&self.relay, &self.coordinator) => return,
                }
            }
        }
    }

    fn take(&mut self, read: Result<StoredSettings>) {
        match read {
            Ok(stored) => {
                if self.told.clear() {
                    tracing::info!("settings are followed again");
                }
                if stored != self.seen {
                    self.seen = stored;
                    self.apply();
                }
            }
            Err(error) if self.told.is_news(&error) => {
                tracing::warn!(%error, "settings can't be followed now: those of before hold");
            }
            Err(_) => {}
        }
    }

    fn apply(&mut self) {
        let revision = self.seen.revision;
        let (next, config) = match understood(&self.config, &self.seen) {
            Ok(understood) => understood,
            Err(error) => {
                tracing::error!(%error, revision, "settings are refused: those of before hold");
                return self.following.note(Some(error.to_string()));
            }
        };
        self.relay.send_replace(relay_settings(&config));
        self.coordinator.send_replace(coordinator_settings(&config));
        // Who reads this may count on it.
        for (key, was, is) in self.settings.differences(&next) {
            let (was, is) = (was.unwrap_or("as configured"), is.unwrap_or("as configured"));
            tracing::info!(key, was, is, revision, "a setting has changed");
        }
        if config.log_level != self.log_level {
            LogLevel::apply(config.log_level);
            self.log_level = config.log_level;
        }
        self.settings = next;
        self.following.revision.store(revision, Ordering::Relaxed);
        self.following.note(None);
    }
}

/// What is stored, and the configuration with it.
pub(super) fn understood(config: &Config, stored: &StoredSettings) -> Result<(RunTimeSettings, Config)> {
    let settings = decoded(stored)?;
    let config = config.with(&settings).map_err(|error: Error| error.with("revision", stored.revision))?;
    Ok((settings, config))
}

/// What is stored; nothing where nothing ever was.
pub(super) fn decoded(stored: &StoredSettings) -> Result<RunTimeSettings> {
    if stored.revision == 0 { Ok(RunTimeSettings::default()) } else { RunTimeSettings::decode(&stored.bytes) }
}

async fn unused(relay: &watch::Sender<RelaySettings>, coordinator: &watch::Sender<CoordinatorSettings>) {
    relay.closed().await;
    coordinator.closed().await;
}
