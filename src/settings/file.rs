//! Settings in a SQLite file, for processes of one machine that share a folder. It is SQLite for the same reason
//! as with leases: a change is whole and durable, and who writes has seen what he replaces.
//!
//! Who follows looks again and again, which in a file of this machine costs some microseconds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{SettingsStore, StoredSettings};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{Blocking, OwnFile, Place, begin, commit, open_own};

const FILE: OwnFile = OwnFile {
    name: "file of settings",
    application_id: i32::from_be_bytes(*b"ocst"),
    version: 1,
    sql: "create table settings (\
            id integer primary key check (id = 1), revision integer not null, bytes blob not null) strict",
};
const BUSY: Duration = Duration::from_secs(10);
/// Pause between two looks of one who follows.
const PAUSE: Duration = Duration::from_millis(500);

/// The settings in a file.
pub struct FileSettingsStore {
    rows: Blocking<Rows>,
}

struct Rows {
    path: PathBuf,
    /// None until the file is needed: whoever only looks does not make it.
    opened: Option<(Connection, Place)>,
}

impl FileSettingsStore {
    /// The file `path` is made by the first change.
    pub fn new(path: impl AsRef<Path>) -> Self {
        FileSettingsStore { rows: Blocking::new(Rows { path: path.as_ref().to_path_buf(), opened: None }) }
    }
}

#[async_trait]
impl SettingsStore for FileSettingsStore {
    async fn read(&mut self) -> Result<StoredSettings> {
        self.rows.call("read settings", Rows::read).await
    }

    async fn write(&mut self, seen: u64, bytes: &[u8]) -> Result<u64> {
        let bytes = bytes.to_vec();
        self.rows.call("store settings", move |rows| rows.write(seen, &bytes)).await
    }

    async fn changed(&mut self, seen: u64) -> Result<StoredSettings> {
        loop {
            let stored = self.read().await?;
            if stored.revision != seen {
                return Ok(stored);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Rows {
    fn open(&mut self, operation: &'static str) -> Result<&mut Connection> {
        let kept =
            self.opened.take().filter(|(_, place)| place.check(ErrorKind::Unreachable, operation).is_ok());
        let opened = match kept {
            Some(opened) => opened,
            None => {
                // Made first, so that there is a file to be known again.
                drop(open_own(&self.path, &FILE, BUSY, operation, |_| Ok(()))?);
                let place = Place::of(&self.path);
                (open_own(&self.path, &FILE, BUSY, operation, |_| Ok(()))?, place)
            }
        };
        Ok(&mut self.opened.insert(opened).0)
    }

    fn read(&mut self) -> Result<StoredSettings> {
        const OPERATION: &str = "read settings";
        if !self.path.exists() {
            self.opened = None;
            return Ok(StoredSettings::default());
        }
        let path = self.path.clone();
        let found = stored(self.open(OPERATION)?, OPERATION);
        found.map_err(|error| error.with("file", path.display()))
    }

    fn write(&mut self, seen: u64, bytes: &[u8]) -> Result<u64> {
        const OPERATION: &str = "store settings";
        let path = self.path.clone();
        let named = |error: Error| error.with("file", path.display());
        let transaction = begin(self.open(OPERATION)?, OPERATION).map_err(named)?;
        if stored(&transaction, OPERATION).map_err(named)?.revision != seen {
            let why = "somebody else has changed the settings meanwhile: look at them, and run this again";
            return Err(named(Error::new(ErrorKind::Conflict, OPERATION, why)));
        }
        let sql = "insert or replace into settings (id, revision, bytes) values (1, ?1, ?2)";
        let row = params![(seen + 1).cast_signed(), bytes];
        transaction.execute(sql, row).map_err(|error| named(from_sqlite(OPERATION, error)))?;
        failpoint!("file_settings.write.before_commit")?;
        commit(transaction, OPERATION).map_err(named)?;
        failpoint!("file_settings.write.after_commit")?;
        Ok(seen + 1)
    }
}

fn stored(connection: &Connection, operation: &'static str) -> Result<StoredSettings> {
    let sql = "select revision, bytes from settings where id = 1";
    let row = |row: &rusqlite::Row<'_>| {
        Ok(StoredSettings { revision: row.get::<_, i64>(0)?.cast_unsigned(), bytes: row.get(1)? })
    };
    let found = connection.query_row(sql, (), row).optional();
    found.map(Option::unwrap_or_default).map_err(|error| from_sqlite(operation, error))
}
