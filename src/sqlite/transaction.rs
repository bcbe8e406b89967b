//! How our own transactions begin and end.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::failure::{from_commit, from_sqlite};
use crate::error::Result;

/// Begins a transaction that holds the write lock from its start: what it reads can't change until
/// it commits, and it never has to give up half-way for another writer.
pub(crate) fn begin<'a>(connection: &'a mut Connection, operation: &'static str) -> Result<Transaction<'a>> {
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    begun.map_err(|error| from_sqlite(operation, error))
}

/// Commits. A disk that fails at this moment leaves it open whether the transaction took effect.
pub(crate) fn commit(transaction: Transaction<'_>, operation: &'static str) -> Result<()> {
    transaction.commit().map_err(|error| from_commit(operation, error))
}
