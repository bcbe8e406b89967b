//! An error on the caller's own connection, whatever driver it has.

use crate::error::{Error, ErrorKind};
use crate::postgres::failure::CONFLICTS;

/// See the module.
#[derive(Debug)]
pub struct Failure {
    /// The SQLSTATE; None where the connection is lost.
    pub code: Option<String>,
    /// The driver's error.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl Failure {
    /// Whether the server has said that the statement took no effect. A shutdown, a crash or a
    /// cancellation may be told behind a commit.
    pub(super) fn is_final(&self) -> bool {
        let code = self.code.as_deref();
        code.is_some_and(|code| !["57", "58", "08", "XX"].iter().any(|class| code.starts_with(class)))
    }

    /// What it means to the caller.
    pub(super) fn meaning(self, operation: &'static str) -> Error {
        let (kind, what) = match self.code.as_deref() {
            None => (ErrorKind::Unreachable, "the connection to PostgreSQL is lost"),
            Some(code) if CONFLICTS.contains(&code) => {
                (ErrorKind::Conflict, "a conflict with another transaction: run it again")
            }
            Some("25P02") => (ErrorKind::Failed, "a statement of this branch has failed before"),
            Some("25001") => (
                ErrorKind::Invalid,
                "the connection has a transaction open already: end it before, or give another one",
            ),
            Some("55000") => (
                ErrorKind::Configuration,
                "PostgreSQL does not prepare transactions: set max_prepared_transactions there, to the most \
                 transactions that are in flight at the same time, and restart it",
            ),
            Some("53200" | "53400") => (
                ErrorKind::Unreachable,
                "no prepared transaction is free: raise max_prepared_transactions, or look for those left behind \
                 (`onecommit doctor`)",
            ),
            Some("0A000") => (
                ErrorKind::Invalid,
                "this branch can't be prepared: PostgreSQL does not prepare what used temporary tables, LISTEN or \
                 NOTIFY, WITH HOLD cursors or exported snapshots",
            ),
            Some(code) if code.starts_with("57") || code.starts_with("08") => {
                (ErrorKind::Unreachable, "PostgreSQL has ended the connection")
            }
            Some(_) => (ErrorKind::Failed, "PostgreSQL reported an error"),
        };
        Error::new(kind, operation, what).caused_by(self.source)
    }
}
