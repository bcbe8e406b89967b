//! What an error of SQLite means to the caller.

use rusqlite::Error as SqliteError;
use rusqlite::ffi::ErrorCode;

use crate::error::{Error, ErrorKind};

/// Turns SQLite's error into ours; `operation` says what was being done.
pub(crate) fn from_sqlite(operation: &'static str, error: SqliteError) -> Error {
    let (kind, what) = meaning(&error);
    Error::new(kind, operation, what).caused_by(error)
}

/// The same for a failed commit: only where SQLite says that it did nothing is that believed.
#[cfg(feature = "relay")]
pub(crate) fn from_commit(operation: &'static str, error: SqliteError) -> Error {
    match code(&error) {
        Some(ErrorCode::DatabaseBusy | ErrorCode::ConstraintViolation) => from_sqlite(operation, error),
        _ => {
            let what = "it is not known whether the commit took effect: look at the disk, whether it \
                        is full or failing";
            Error::new(ErrorKind::Unclear, operation, what).caused_by(error)
        }
    }
}

fn code(error: &SqliteError) -> Option<ErrorCode> {
    match error {
        SqliteError::SqliteFailure(failure, _) => Some(failure.code),
        SqliteError::SqlInputError { error: failure, .. } => Some(failure.code),
        _ => None,
    }
}

fn meaning(error: &SqliteError) -> (ErrorKind, &'static str) {
    let text = error.to_string();
    if text.contains("no such table: onecommit_") || text.contains("has no column named") {
        let what = "the outbox's tables are not in this database: run `onecommit init`";
        return (ErrorKind::Configuration, what);
    }
    match code(error) {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            ErrorKind::Unreachable,
            "the file is locked: another process holds its write lock, look for a long transaction, and for a \
             process that is stopped in the middle of one",
        ),
        Some(ErrorCode::DiskFull) => (ErrorKind::Unreachable, "the disk is full: make room"),
        Some(ErrorCode::SystemIoFailure) => (ErrorKind::Unreachable, "the disk reported an error"),
        Some(ErrorCode::CannotOpen) => (
            ErrorKind::Configuration,
            "the file can't be opened: check that it is there, that this user may read and write it \
             and its directory, and that its file system is not read-only",
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => (
            ErrorKind::Configuration,
            "the file can't be written: check that this user may write it and its directory, and that its \
             file system is not read-only",
        ),
        Some(ErrorCode::NotADatabase) => {
            (ErrorKind::Refused, "the file is not a SQLite database, or is encrypted: check its path")
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            (ErrorKind::Refused, "the file is damaged: restore it, or look at `pragma integrity_check`")
        }
        _ => (ErrorKind::Failed, "SQLite reported an error"),
    }
}
