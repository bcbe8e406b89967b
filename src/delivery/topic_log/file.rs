//! The topic log's file: its tables, its id, and what is kept about a deliverer.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::protocol::progress::Progress;
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{OwnFile, open_own, open_own_existing};

/// How long an append waits for another one: far above the time that one takes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const OPERATION: &str = "open topic log";
const NOT_THERE: &str = "the topic log is not there: restore it, or go on without it: `onecommit adopt` with the \
                         participant's name";

const FILE: OwnFile = OwnFile {
    name: "topic log",
    application_id: i32::from_be_bytes(*b"octl"),
    version: 1,
    sql: include_str!("0001.sql"),
};

/// Opens the file, and makes it where it is missing: for `init` alone.
pub(super) fn open_or_make(path: &Path) -> Result<Connection> {
    open_own(path, &FILE, BUSY_TIMEOUT, OPERATION, |connection| {
        let id = Uuid::new_v4();
        connection.execute("insert into log (single, id) values (1, ?1)", [id.as_bytes().as_slice()])?;
        Ok(())
    })
}

/// Opens the file only where it is there: a new one would know nothing of what was delivered.
pub(super) fn open_existing(path: &Path) -> Result<Connection> {
    if let Some(connection) = open_own_existing(path, &FILE, BUSY_TIMEOUT, OPERATION)? {
        return Ok(connection);
    }
    // A file that was moved away, or whose disk is not there now, can come back.
    let (kind, why) = match path.parent().is_some_and(Path::exists) {
        true => (ErrorKind::Unreachable, NOT_THERE),
        false => (ErrorKind::Configuration, "there is no topic log here: run `onecommit init`"),
    };
    Err(Error::new(kind, OPERATION, why).with("file", path.display()))
}

pub(super) fn id(connection: &Connection, path: &Path) -> Result<String> {
    let failed = |error| from_sqlite("read topic log", error).with("file", path.display());
    let bytes: [u8; 16] = connection.query_row("select id from log", (), |row| row.get(0)).map_err(failed)?;
    Ok(Uuid::from_bytes(bytes).to_string())
}

/// The last committed progress of a deliverer, None where it never committed any.
pub(super) fn progress(connection: &Connection, deliverer: &str) -> Result<Option<Progress>> {
    let sql = "select progress from deliverer where name = ?1";
    let found = connection.query_row(sql, [deliverer], |row| row.get::<_, Option<Vec<u8>>>(0));
    let found = found.optional().map_err(|error| from_sqlite("read progress", error))?;
    found.flatten().map(|bytes| Progress::decode(&bytes)).transpose()
}
