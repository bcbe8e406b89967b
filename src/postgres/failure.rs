//! What an error of PostgreSQL means to the caller.

use tokio_postgres::error::SqlState;

use crate::error::{Error, ErrorKind};

/// Serialization failure, deadlock, lock timeout.
const CONFLICTS: [&str; 3] = ["40001", "40P01", "55P03"];

/// Turns a driver's error into ours; `operation` says what was being done.
pub(crate) fn from_postgres(operation: &'static str, error: tokio_postgres::Error) -> Error {
    let (kind, what) = match error.code() {
        None => (ErrorKind::Unreachable, "the connection to PostgreSQL failed"),
        Some(code) => meaning(code),
    };
    Error::new(kind, operation, what).caused_by(error)
}

/// Whether `error` says that PostgreSQL rolled the statement back for another transaction's sake: then
/// it surely changed nothing. Not so of a shutdown or a cancellation, which may come behind a commit.
#[cfg(feature = "relay")]
pub(crate) fn is_conflict(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    let answer = source.and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
    answer.and_then(|answer| answer.code()).is_some_and(|code| CONFLICTS.contains(&code.code()))
}

fn meaning(code: &SqlState) -> (ErrorKind, &'static str) {
    match code.code() {
        "42P01" | "3F000" | "42703" | "42883" => {
            (ErrorKind::Configuration, "the outbox's tables are not in this database: run `onecommit init`")
        }
        "28P01" | "28000" => (ErrorKind::Configuration, "PostgreSQL refused the user or the password"),
        "3D000" => (ErrorKind::Configuration, "there is no such database"),
        "42501" => (ErrorKind::Configuration, "this user lacks a right"),
        // Not refused for good: in a failover the address may lead here before the promotion.
        "25006" => (
            ErrorKind::Unreachable,
            "this PostgreSQL is read-only, a standby perhaps: give the primary's address",
        ),
        // Crashed, shutting down or starting up; too many connections; disk full.
        "57P01" | "57P02" | "57P03" | "53200" | "53300" => {
            (ErrorKind::Unreachable, "PostgreSQL is not available now")
        }
        "53100" => (ErrorKind::Unreachable, "PostgreSQL's disk is full"),
        // Cancelled by a limit of ours, or its connection ended by one.
        "57014" | "25P03" => (ErrorKind::Unreachable, "it took longer than the relay's limits allow"),
        conflict if CONFLICTS.contains(&conflict) => {
            (ErrorKind::Unreachable, "a conflict with other transactions")
        }
        class if class.starts_with("08") => (ErrorKind::Unreachable, "the connection to PostgreSQL failed"),
        _ => (ErrorKind::Failed, "PostgreSQL reported an error"),
    }
}
