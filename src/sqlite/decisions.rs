//! The file `decisions.db`, in which the decision log and the locks of one machine are kept together: who takes
//! a lock for a transaction has its coordinator's fence checked by the very write that takes it. Promises that
//! no other incarnation's file is used.

use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::failure::from_sqlite;
use super::open::{OwnFile, open_own};
use super::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Incarnation;

/// Its name in `data_dir`.
pub(crate) const DECISIONS_FILE: &str = "decisions.db";
const FILE: OwnFile = OwnFile {
    name: "decision log",
    application_id: i32::from_be_bytes(*b"ocdl"),
    version: 1,
    sql: include_str!("decisions.sql"),
};
/// A commit holds the write lock for a few milliseconds.
const BUSY: Duration = Duration::from_secs(10);

/// Opens it; makes it for this incarnation where it is missing.
pub(crate) fn open_decisions(
    file: &Path,
    incarnation: Incarnation,
    operation: &'static str,
) -> Result<(Connection, Place)> {
    let open = || {
        open_own(file, &FILE, BUSY, operation, |connection| {
            let sql = "insert into installation (incarnation) values (?1)";
            connection.execute(sql, [incarnation.to_string()]).map(|_| ())
        })
    };
    // Made first, so that there is a file to be known again.
    drop(open()?);
    let place = Place::of(file);
    let connection = open()?;
    let found = connection.query_row("select incarnation from installation", (), |row| row.get(0));
    let found: String = found.map_err(|error| from_sqlite(operation, error))?;
    if found != incarnation.to_string() {
        let why = "the decision log belongs to another incarnation: give the data_dir of this installation, or \
                   move the file away if nothing of that other one is needed any more";
        let error = Error::new(ErrorKind::Refused, operation, why);
        return Err(error.with("found", found).with("expected", incarnation));
    }
    Ok((connection, place))
}

/// What came of removing a part of it; no error where it was not there.
pub(crate) fn removed(operation: &'static str, path: &Path, result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let why = "it can't be removed: check that this user may write in data_dir";
            let error = Error::new(ErrorKind::Configuration, operation, why).caused_by(error);
            Err(error.with("path", path.display()))
        }
        _ => Ok(()),
    }
}
