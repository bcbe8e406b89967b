//! Where the demo plays: a folder of its own that goes with it.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use uuid::Uuid;

use super::folder::Folder;
use crate::config::{Config, Relay};
use crate::delivery::DeliveryScope;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Incarnation;
use crate::service;

/// The topic that the demo's messages go to.
pub(super) const TOPIC: &str = "account.changed";
/// How long a writer waits for SQLite's one write lock.
const BUSY_LIMIT: Duration = Duration::from_secs(120);
/// A killed relay's successor waits this long before it takes over.
const LEASE_TIMEOUT_MS: u64 = 500;

/// The demo's folder, with an installation in it.
pub(super) struct Stage {
    folder: Folder,
    pub(super) config: Config,
    pub(super) config_file: PathBuf,
    incarnation: Incarnation,
}

impl Stage {
    /// Makes the folder and runs `init` in it. The relay works with `settings`, or the usual ones.
    pub(super) fn set(runtime: &tokio::runtime::Runtime, settings: Option<Relay>) -> Result<Self> {
        let folder = Folder::make()?;
        let data_dir = folder.path().join("data");
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Failed, "demo", "the demo's folder can't be made")
                .with("folder", folder.path().display())
                .caused_by(error)
        };
        std::fs::create_dir_all(&data_dir).map_err(failed)?;
        let config_file = folder.path().join("onecommit.toml");
        let quoted = toml::Value::String(data_dir.display().to_string());
        let relay = relay_settings(settings)?;
        let text = format!("namespace = \"demo\"\ndata_dir = {quoted}\n[relay]\n{relay}");
        std::fs::write(&config_file, &text).map_err(failed)?;
        let config = Config::from_toml(&text, [])?;
        let mut stage = Stage { folder, config, config_file, incarnation: Incarnation(Uuid::nil()) };
        let made = runtime.block_on(service::init(&stage.config, &[], None, &|_| {}))?;
        stage.incarnation = made.incarnation;
        stage.database()?.execute_batch(LEDGER).map_err(failed_sql)?;
        Ok(stage)
    }

    /// A connection of the application's own.
    pub(super) fn database(&self) -> Result<Connection> {
        let open = || {
            let connection = Connection::open(self.config.data_dir.join("main.db"))?;
            connection.busy_timeout(BUSY_LIMIT)?;
            connection.execute_batch("pragma synchronous = normal")?;
            Ok(connection)
        };
        open().map_err(failed_sql)
    }

    /// The topic log's file.
    pub(super) fn topic_log(&self) -> PathBuf {
        self.config.data_dir.join("topics.db")
    }

    /// Under which name the relay keeps its progress there.
    pub(super) fn scope(&self) -> Result<DeliveryScope> {
        let (name, participant) = self
            .config
            .outboxes()
            .next()
            .ok_or_else(|| Error::new(ErrorKind::Failed, "demo", "the demo's participant is missing"))?;
        Ok(service::scope(&self.config, name, participant, self.incarnation))
    }

    /// Where a relay's own words go.
    pub(super) fn relay_log(&self) -> PathBuf {
        self.folder.path().join("relay.log")
    }
}

/// The lines of the configuration's `[relay]`: as they were given, or the demo's own.
pub(super) fn relay_settings(given: Option<Relay>) -> Result<String> {
    match given {
        Some(settings) => toml::to_string(&settings).map_err(|error| {
            Error::new(ErrorKind::Failed, "demo", "the relay's settings can't be passed on").caused_by(error)
        }),
        None => Ok(format!("lease_timeout_ms = {LEASE_TIMEOUT_MS}\n")),
    }
}

/// What a transaction of the demo changes beside publishing; the ledger's order is commit order.
const LEDGER: &str = "
    create table account (id integer primary key, changes integer not null);
    create table ledger (place integer primary key, key blob not null, message_id blob not null);
";

pub(super) fn failed_sql(error: rusqlite::Error) -> Error {
    Error::new(ErrorKind::Failed, "demo", "SQLite reported an error").caused_by(error)
}
