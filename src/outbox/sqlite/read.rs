//! Reads what waits, and makes it durable before it is delivered.
//!
//! A writer with `synchronous = normal` or `off` commits without a flush: after a power failure its
//! messages are gone, delivered or not, and their ids come again for others, which would count as
//! delivered. The barrier row is committed with a flush, behind everything that the read saw in the
//! same WAL file: once it is there after a crash, so is all that came before it.

use std::collections::HashMap;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::init::SHARD;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{BarrierId, Epoch, MessageId};
use crate::message::{Message, StoredMessage};
use crate::outbox::{READ_BYTES, Voucher};
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::headers::decode;
use crate::sqlite::{begin, commit};

const OPERATION: &str = "read outbox";
/// One read takes at most this many rows.
const READ_ROWS: usize = 2_000;

/// What [`stored`] decodes. The sizes come first and are known without reading the contents.
const COLUMNS: &str = "id, coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0)
    + coalesce(octet_length(headers), 0), message_id, topic, key, value, partition, headers, created_at_ms";

/// What one read found; never empty.
pub(super) struct Rows {
    pub(super) messages: Vec<StoredMessage>,
    /// Whether a limit ended the read, so that more may wait.
    pub(super) more: bool,
    /// How many ids were handed out behind the last of them.
    pub(super) waiting: u64,
    pub(super) barrier: Voucher,
}

/// Reads behind the id `last` and commits the barrier; None where nothing waits.
pub(super) fn read(connection: &mut Connection, last: i64, epoch: Epoch) -> Result<Option<Rows>> {
    let highest = highest_id(connection, last)?;
    if highest == last {
        return Ok(None);
    }
    let (messages, more) = rows_behind(connection, last)?;
    let Some(newest) = messages.last() else { return Ok(None) };
    let barrier = commit_barrier(connection, newest, epoch)?;
    let waiting = highest.saturating_sub(newest.id).max(0).unsigned_abs();
    Ok(Some(Rows { messages, more, waiting, barrier }))
}

/// The highest id ever handed out, which is found in the same time at any backlog; not below `last`.
fn highest_id(connection: &Connection, last: i64) -> Result<i64> {
    let sql = "select seq from sqlite_sequence where name = 'onecommit_outbox'";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let highest: Option<i64> = statement.query_row((), |row| row.get(0)).optional().map_err(failed)?;
    let highest = highest.unwrap_or(0);
    if highest < last {
        let why = "ids behind the position are handed out again, their messages would count as delivered: \
                   the file was restored or its sqlite_sequence was changed. Restore what was there; or `onecommit \
                   adopt` with the participant's name";
        return Err(Error::new(ErrorKind::Refused, OPERATION, why)
            .with("position", last)
            .with("highest_id", highest));
    }
    Ok(highest)
}

fn rows_behind(connection: &Connection, last: i64) -> Result<(Vec<StoredMessage>, bool)> {
    let sql = format!("select {COLUMNS} from onecommit_outbox where id > ?1 order by id limit ?2");
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let mut rows = statement.query(params![last, READ_ROWS as i64]).map_err(failed)?;
    let mut messages = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next().map_err(failed)? {
        bytes += row.get::<_, i64>(1).map_err(failed)?;
        if bytes > READ_BYTES as i64 && !messages.is_empty() {
            return Ok((messages, true));
        }
        messages.push(stored(row)?);
    }
    let more = messages.len() == READ_ROWS;
    Ok((messages, more))
}

fn stored(row: &Row<'_>) -> Result<StoredMessage> {
    let id: i64 = row.get(0).map_err(failed)?;
    let damaged = |what: String| {
        let why =
            format!("a row of onecommit_outbox can't be read, {what}: correct or delete it, then it goes on");
        Error::new(ErrorKind::Failed, OPERATION, why).with("id", id)
    };
    let wrong = |error: rusqlite::Error| damaged(error.to_string());
    let message_id = Uuid::from_slice(bytes(row, 2).map_err(wrong)?.unwrap_or_default());
    let headers = decode(bytes(row, 7).map_err(wrong)?).map_err(|what| damaged(what.to_string()))?;
    let (key, value) = (bytes(row, 4).map_err(wrong)?, bytes(row, 5).map_err(wrong)?);
    let message = Message::stored(
        row.get::<_, String>(3).map_err(wrong)?,
        key.map(Bytes::copy_from_slice),
        value.map(Bytes::copy_from_slice),
        headers,
        row.get(6).map_err(wrong)?,
    );
    Ok(StoredMessage {
        id,
        message_id: MessageId(message_id.map_err(|_| damaged("its message_id has not 16 bytes".into()))?),
        // SQLite numbers no transactions.
        transaction: id as u64,
        created_at_ms: row.get(8).map_err(wrong)?,
        message,
    })
}

fn bytes<'a>(row: &'a Row<'_>, index: usize) -> rusqlite::Result<Option<&'a [u8]>> {
    match row.get_ref(index)? {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(bytes) => Ok(Some(bytes)),
        other => {
            let name = row.as_ref().column_name(index)?.to_string();
            Err(rusqlite::Error::InvalidColumnType(index, name, other.data_type()))
        }
    }
}

fn commit_barrier(connection: &mut Connection, newest: &StoredMessage, epoch: Epoch) -> Result<Voucher> {
    const OPERATION: &str = "insert barrier";
    let failed = |error| from_sqlite(OPERATION, error);
    let transaction = begin(connection, OPERATION)?;
    // Rows that went since they were read (a backup copied over the file) have nobody to vouch for.
    let sql = "select exists (select 1 from onecommit_outbox where id = ?1 and message_id = ?2)";
    let newest_id = newest.message_id.0.as_bytes().as_slice();
    let still_there: bool =
        transaction.query_row(sql, params![newest.id, newest_id], |row| row.get(0)).map_err(failed)?;
    if !still_there {
        let why = "a message vanished while it was read";
        return Err(Error::new(ErrorKind::Unclear, OPERATION, why).with("id", newest.id));
    }
    let barrier = insert_barrier(&transaction, epoch)?;
    failpoint!("outbox.barrier.before_commit")?;
    commit(transaction, OPERATION)?;
    failpoint!("outbox.barrier.after_commit")?;
    Ok(barrier)
}

/// Inserts a barrier into the transaction that is open, above every other in the file: a number used
/// twice under one epoch would let pruning remove a newer barrier as an older one.
pub(super) fn insert_barrier(transaction: &Connection, epoch: Epoch) -> Result<Voucher> {
    const OPERATION: &str = "insert barrier";
    let id = BarrierId::random();
    let sql = "insert into onecommit_barrier (id, shard, epoch, counter)
               select ?1, shard, epoch, (select coalesce(max(counter), 0) + 1 from onecommit_barrier)
               from onecommit_shard where shard = ?2 and epoch = ?3 returning counter";
    let row = params![id.0.as_bytes().as_slice(), SHARD.0, epoch.0];
    let number = transaction.query_row(sql, row, |row| row.get(0)).optional();
    let number = number.map_err(|error| from_sqlite(OPERATION, error))?.ok_or_else(|| {
        let why = "another relay has taken over";
        Error::new(ErrorKind::Fenced, OPERATION, why).with("shards", SHARD).with("epoch", epoch)
    })?;
    Ok(Voucher { id, number })
}

/// The messages of these ids, as many as fit; where not all did, the last that was read.
pub(super) fn messages_of(
    connection: &Connection,
    ids: &[i64],
) -> Result<(HashMap<i64, StoredMessage>, Option<i64>)> {
    let mut messages = HashMap::new();
    let mut bytes = 0;
    for id in ids {
        if let Some(message) = message_of(connection, *id)? {
            bytes += message.message.size();
            messages.insert(*id, message);
        }
        if bytes > READ_BYTES {
            return Ok((messages, Some(*id)));
        }
    }
    Ok((messages, None))
}

/// One message, None where it is not there.
pub(super) fn message_of(connection: &Connection, id: i64) -> Result<Option<StoredMessage>> {
    let sql = format!("select {COLUMNS} from onecommit_outbox where id = ?1");
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let mut rows = statement.query([id]).map_err(failed)?;
    rows.next().map_err(failed)?.map(stored).transpose()
}

fn failed(error: rusqlite::Error) -> Error {
    from_sqlite(OPERATION, error)
}
