//! Opens SQLite files: an application's, in which the outbox is a guest, and our own.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::ffi::ErrorCode;
use rusqlite::{Connection, OpenFlags};

use super::failure::from_sqlite;
use super::local_disk;
use super::transaction::{begin, commit};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::process;

/// Statements kept prepared on one connection.
const STATEMENTS: usize = 32;
/// Between two attempts to enter WAL mode.
const WAL_PAUSE: Duration = Duration::from_millis(5);

/// Opens a file that is there; `Configuration` where it is not.
pub(crate) fn open_existing(path: &Path, busy: Duration, operation: &'static str) -> Result<Connection> {
    open(path, busy, operation, OpenFlags::empty())
}

/// Opens a file, and makes it where it is missing.
pub(crate) fn open_or_create(path: &Path, busy: Duration, operation: &'static str) -> Result<Connection> {
    open(path, busy, operation, OpenFlags::SQLITE_OPEN_CREATE)
}

fn open(path: &Path, busy: Duration, operation: &'static str, more: OpenFlags) -> Result<Connection> {
    process::opens(operation).map_err(|error| error.with("file", path.display()))?;
    local_disk::check(path, operation)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let failed = |error| from_sqlite(operation, error).with("file", path.display());
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(busy).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.execute_batch("pragma synchronous = full").map_err(failed)?;
    Ok(connection)
}

/// Puts the file into WAL mode, which it keeps. Fails where the file system can't do it.
pub(crate) fn enter_wal(
    connection: &Connection,
    path: &Path,
    busy: Duration,
    operation: &'static str,
) -> Result<()> {
    let mode = switch_to_wal(connection, busy);
    let mode = mode.map_err(|error| from_sqlite(operation, error).with("file", path.display()))?;
    if mode == "wal" {
        return Ok(());
    }
    let why = "the file can't be put into WAL mode (journal_mode = wal): it must be on a local disk, \
               not on a network file system";
    Err(Error::new(ErrorKind::Configuration, operation, why)
        .with("file", path.display())
        .with("journal_mode", mode))
}

/// Waits by itself: SQLite's busy timeout does not hold for this switch, and processes that make
/// the same file at the same time found it locked.
fn switch_to_wal(connection: &Connection, busy: Duration) -> rusqlite::Result<String> {
    let started = Instant::now();
    loop {
        let switched = connection.query_row("pragma journal_mode = wal", (), |row| row.get(0));
        let locked = matches!(&switched, Err(error)
            if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy));
        if !locked || started.elapsed() >= busy {
            return switched;
        }
        std::thread::sleep(WAL_PAUSE);
    }
}

/// A kind of file that is ours alone.
pub(crate) struct OwnFile {
    /// What people call it.
    pub(crate) name: &'static str,
    /// SQLite's `application_id`: tells our kinds of files from each other and from all others.
    pub(crate) application_id: i32,
    /// SQLite's `user_version`: the version of the tables.
    pub(crate) version: i32,
    /// Makes the tables.
    pub(crate) sql: &'static str,
}

/// Opens a file of ours; makes it, and its directory, where it is missing. `born` writes what a new
/// file begins with, in the transaction that makes its tables.
pub(crate) fn open_own(
    path: &Path,
    kind: &OwnFile,
    busy: Duration,
    operation: &'static str,
    born: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<Connection> {
    local_disk::check(path, operation)?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|error| {
            let why = "its directory can't be made: check data_dir, and this user's rights";
            Error::new(ErrorKind::Configuration, operation, why).with("file", path.display()).caused_by(error)
        })?;
    }
    let mut connection = open_or_create(path, busy, operation)?;
    let failed = |error| from_sqlite(operation, error).with("file", path.display());
    if !kind.is_made(look(&connection).map_err(failed)?) {
        enter_own(&mut connection, path, kind, operation, born)?;
    }
    enter_wal(&connection, path, busy, operation)?;
    Ok(connection)
}

/// Opens a file of ours, and makes nothing: None where it is not there, or nothing is in it.
pub(crate) fn open_own_existing(
    path: &Path,
    kind: &OwnFile,
    busy: Duration,
    operation: &'static str,
) -> Result<Option<Connection>> {
    let connection = match open_existing(path, busy, operation) {
        // Looked at behind the opening: in front of it the file may be moved away meanwhile.
        Err(_) if !path.exists() => return Ok(None),
        opened => opened?,
    };
    let found = look(&connection);
    let found = found.map_err(|error| from_sqlite(operation, error).with("file", path.display()))?;
    if found == EMPTY {
        return Ok(None);
    }
    if !kind.is_made(found) {
        return Err(foreign(path, kind, operation, found));
    }
    enter_wal(&connection, path, busy, operation)?;
    Ok(Some(connection))
}

/// Makes the tables in a file that is still empty; refuses one that has something else in it.
fn enter_own(
    connection: &mut Connection,
    path: &Path,
    kind: &OwnFile,
    operation: &'static str,
    born: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<()> {
    let failed = |error| from_sqlite(operation, error).with("file", path.display());
    let transaction = begin(connection, operation).map_err(|error| error.with("file", path.display()))?;
    let found = look(&transaction).map_err(failed)?;
    if kind.is_made(found) {
        // Another process made it meanwhile.
        return Ok(());
    }
    if found != EMPTY {
        return Err(foreign(path, kind, operation, found));
    }
    transaction.execute_batch(kind.sql).and_then(|()| born(&transaction)).map_err(failed)?;
    transaction.pragma_update(None, "application_id", kind.application_id).map_err(failed)?;
    transaction.pragma_update(None, "user_version", kind.version).map_err(failed)?;
    failpoint!("sqlite.birth.before_commit")?;
    commit(transaction, operation).map_err(|error| error.with("file", path.display()))?;
    failpoint!("sqlite.birth.after_commit")
}

/// What is in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Contents {
    application_id: i32,
    version: i32,
    objects: i64,
}

const EMPTY: Contents = Contents { application_id: 0, version: 0, objects: 0 };

impl OwnFile {
    fn is_made(&self, found: Contents) -> bool {
        (found.application_id, found.version) == (self.application_id, self.version)
    }
}

/// All of it at one moment: another process may be making it.
fn look(connection: &Connection) -> rusqlite::Result<Contents> {
    let sql = "select application_id, user_version, (select count(*) from sqlite_master)
                 from pragma_application_id, pragma_user_version";
    connection.query_row(sql, (), |row| {
        Ok(Contents { application_id: row.get(0)?, version: row.get(1)?, objects: row.get(2)? })
    })
}

fn foreign(path: &Path, kind: &OwnFile, operation: &'static str, found: Contents) -> Error {
    let why = if found.application_id == kind.application_id {
        format!(
            "the {} has version {}, this release reads {}: run the release of onecommit that wrote it",
            kind.name, found.version, kind.version
        )
    } else {
        format!("the file is a SQLite database, but not a {}: check its path", kind.name)
    };
    Error::new(ErrorKind::Refused, operation, why).with("file", path.display())
}
