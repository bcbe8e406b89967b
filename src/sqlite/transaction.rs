//! How our own transactions begin and end.

use rusqlite::ffi::ErrorCode;
use rusqlite::{Connection, Error as SqliteError, Transaction, TransactionBehavior};

use super::failure::{from_commit, from_sqlite};
use crate::error::{Error, Result};

/// Begins a transaction that holds the write lock from its start: what it reads can't change until
/// it commits, and it never has to give up half-way for another writer.
pub(crate) fn begin<'a>(connection: &'a mut Connection, operation: &'static str) -> Result<Transaction<'a>> {
    let connection: &'a Connection = connection;
    let begun = Transaction::new_unchecked(connection, TransactionBehavior::Immediate);
    begun.map_err(|error| not_begun(connection, operation, error))
}

/// With how long the lock was waited for.
fn not_begun(connection: &Connection, operation: &'static str, error: SqliteError) -> Error {
    let was_locked = error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy);
    let error = from_sqlite(operation, error);
    let waited = || connection.query_row("pragma busy_timeout", (), |row| row.get::<_, i64>(0)).ok();
    match was_locked.then(waited).flatten() {
        Some(waited) => error.with("waited_ms", waited),
        None => error,
    }
}

/// Commits. A disk that fails at this moment leaves it open whether the transaction took effect.
pub(crate) fn commit(transaction: Transaction<'_>, operation: &'static str) -> Result<()> {
    transaction.commit().map_err(|error| from_commit(operation, error))
}
