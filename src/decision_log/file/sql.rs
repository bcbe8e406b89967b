//! What each statement does; what belongs together is one transaction of [`Rows`](super::rows::Rows).

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::decision_log::Fence;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, TransactionId};
use crate::protocol::decision::{Decision, Outcome, Record, decode_batch};
use crate::sqlite::failure::from_sqlite;

/// A coordinator's record and its decisions.
pub(super) type Contents = (Record, BTreeMap<u64, Vec<Decision>>);

pub(super) fn fence_of(
    connection: &Connection,
    coordinator: CoordinatorId,
    operation: &'static str,
) -> Result<Option<i64>> {
    let sql = "select fence from coordinator where id = ?1";
    let found = connection.query_row(sql, [bytes(&coordinator)], |row| row.get(0)).optional();
    found.map_err(|error| from_sqlite(operation, error))
}

pub(super) fn expect_fence(connection: &Connection, fence: Fence, operation: &'static str) -> Result<()> {
    if fence_of(connection, fence.coordinator, operation)? == Some(fence.number) {
        return Ok(());
    }
    Err(fenced(operation, fence.coordinator))
}

pub(super) fn fenced(operation: &'static str, coordinator: CoordinatorId) -> Error {
    let why =
        "somebody else is alive for this coordinator: nothing more is decided or settled under this right";
    Error::new(ErrorKind::Fenced, operation, why).with("coordinator", coordinator)
}

pub(super) fn insert(
    connection: &Connection,
    coordinator: CoordinatorId,
    record: &Record,
    fence: i64,
    operation: &'static str,
) -> Result<()> {
    let sql = "insert into coordinator (id, record, fence) values (?1, ?2, ?3)";
    let inserted = connection.execute(sql, params![bytes(&coordinator), record.encode(), fence]);
    inserted.map(|_| ()).map_err(|error| from_sqlite(operation, error))
}

pub(super) fn update(
    connection: &Connection,
    coordinator: CoordinatorId,
    record: &Record,
    operation: &'static str,
) -> Result<()> {
    let sql = "update coordinator set record = ?2 where id = ?1";
    let updated = connection.execute(sql, params![bytes(&coordinator), record.encode()]);
    updated.map(|_| ()).map_err(|error| from_sqlite(operation, error))
}

pub(super) fn keep(
    connection: &Connection,
    outcomes: &[(TransactionId, Outcome)],
    operation: &'static str,
) -> Result<()> {
    let sql = "insert or ignore into outcome (coordinator, number, outcome) values (?1, ?2, ?3)";
    for (transaction, outcome) in outcomes {
        let outcome = match outcome {
            Outcome::Committed => "committed",
            Outcome::RolledBack => "rolled_back",
        };
        let row = params![bytes(&transaction.coordinator), stored(transaction.number), outcome];
        connection.execute(sql, row).map_err(|error| from_sqlite(operation, error))?;
    }
    Ok(())
}

/// The numbers of a coordinator's batches.
pub(super) fn batches(
    connection: &Connection,
    coordinator: CoordinatorId,
    operation: &'static str,
) -> Result<Vec<u64>> {
    let failed = |error| from_sqlite(operation, error);
    let sql = "select batch from decision where coordinator = ?1 order by batch";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let batches = statement.query_map([bytes(&coordinator)], |row| row.get(0).map(i64::cast_unsigned));
    batches.and_then(Iterator::collect).map_err(failed)
}

/// None where there is no record.
pub(super) fn contents(
    connection: &Connection,
    coordinator: CoordinatorId,
    operation: &'static str,
) -> Result<Option<Contents>> {
    let failed = |error| from_sqlite(operation, error);
    let id = bytes(&coordinator);
    let sql = "select record from coordinator where id = ?1";
    let record: Option<Vec<u8>> =
        connection.query_row(sql, [id], |row| row.get(0)).optional().map_err(failed)?;
    let Some(record) = record else { return Ok(None) };
    let named = |error: Error| error.with("coordinator", coordinator);
    let record = Record::decode(&record).map_err(named)?;
    let mut decisions = BTreeMap::new();
    let sql = "select bytes from decision where coordinator = ?1 and batch = ?2";
    for batch in batches(connection, coordinator, operation)? {
        let found = connection.query_row(sql, params![id, stored(batch)], |row| row.get(0));
        let found: Vec<u8> = found.map_err(failed)?;
        decisions.insert(batch, decode_batch(&found).map_err(|error| named(error).with("batch", batch))?);
    }
    Ok(Some((record, decisions)))
}

pub(super) fn bytes(coordinator: &CoordinatorId) -> &[u8] {
    coordinator.0.as_bytes()
}

/// SQLite's numbers have a sign; every number comes back as it was.
pub(super) fn stored(number: u64) -> i64 {
    number.cast_signed()
}
