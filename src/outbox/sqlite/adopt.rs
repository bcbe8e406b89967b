//! Makes the outbox fit for a position that has seen nothing, after the file became another one than
//! before.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::init::SHARD;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{Epoch, ShardIndex};
use crate::outbox::Contents;
use crate::protocol::position::Position;
use crate::protocol::progress::Progress;
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{begin, commit};

const OPERATION: &str = "adopt outbox";

/// Counts what the table holds. What is set aside stays so, and is not counted.
pub(super) fn contents(
    connection: &Connection,
    progress: Option<&Progress>,
    has_set_aside: bool,
) -> Result<Contents> {
    let last = match progress.map(|progress| &progress.position) {
        Some(Position::Sequence { last }) => *last,
        _ => 0,
    };
    let (barrier, epoch) = match progress {
        Some(progress) => (progress.barrier.map(|id| id.as_bytes().to_vec()), progress.epoch),
        None => (None, 0),
    };
    // A barrier says only under which epoch it was made: one of the same may be older or newer.
    let delivered_in_turn = match has_set_aside {
        true => "where id not in (select id from onecommit_set_aside)",
        false => "",
    };
    let sql = format!(
        "select count(*), count(*) filter (where id <= ?1), min(created_at_ms), max(created_at_ms),
           exists (select 1 from onecommit_barrier where id is not ?2 and epoch >= ?3)
         from onecommit_outbox {delivered_in_turn}"
    );
    let counted = connection.query_row(&sql, params![last, barrier, epoch], |row| {
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(Contents {
            messages: unsigned(row.get(0)?),
            covered: unsigned(row.get(1)?),
            foreign: 0,
            oldest_ms: row.get(2)?,
            newest_ms: row.get(3)?,
            is_ahead: row.get(4)?,
        })
    });
    counted.map_err(|error| from_sqlite("look at outbox", error))
}

/// Sets the counter of ids and the barriers right, for a position that will have seen nothing.
pub(super) fn prepare(
    connection: &mut Connection,
    claimed: &[(ShardIndex, Epoch)],
    anew: &[ShardIndex],
) -> Result<()> {
    let failed = |error| from_sqlite(OPERATION, error);
    let transaction = begin_held(connection, claimed)?;
    // A copy may lack the counter's row, too; without it nothing would be read.
    let sql =
        "insert into sqlite_sequence (name, seq) select 'onecommit_outbox', max(id) from onecommit_outbox
               where not exists (select 1 from sqlite_sequence where name = 'onecommit_outbox')
               having max(id) is not null";
    transaction.execute(sql, ()).map_err(failed)?;
    let sql = "update sqlite_sequence set seq = (select max(id) from onecommit_outbox)
               where name = 'onecommit_outbox' and seq < (select max(id) from onecommit_outbox)";
    transaction.execute(sql, ()).map_err(failed)?;
    if anew.contains(&SHARD) {
        // Without them a progress from before can't be believed any more, whoever brings it back.
        transaction.execute("delete from onecommit_barrier", ()).map_err(failed)?;
    }
    end(transaction)
}

/// Notes that the shard has been born again, if it is among `anew`, and whereto the outbox delivers.
pub(super) fn note(
    connection: &mut Connection,
    claimed: &[(ShardIndex, Epoch)],
    anew: &[ShardIndex],
    delivery_id: &str,
) -> Result<()> {
    let failed = |error| from_sqlite(OPERATION, error);
    let transaction = begin_held(connection, claimed)?;
    if anew.contains(&SHARD) {
        let sql =
            "update onecommit_shard set born = 1, pruned = 0, last_error = null, last_error_at_ms = null
                   where shard = ?1";
        transaction.execute(sql, [SHARD.0]).map_err(failed)?;
    }
    transaction
        .execute("update onecommit_installation set delivery_id = ?1", [delivery_id])
        .map_err(failed)?;
    end(transaction)
}

/// Who has taken the shard since keeps what it did.
fn begin_held<'a>(
    connection: &'a mut Connection,
    claimed: &[(ShardIndex, Epoch)],
) -> Result<Transaction<'a>> {
    let transaction = begin(connection, OPERATION)?;
    for (shard, epoch) in claimed {
        let sql = "select 1 from onecommit_shard where shard = ?1 and epoch = ?2";
        let held = transaction.query_row(sql, params![shard.0, epoch.0], |_| Ok(())).optional();
        if held.map_err(|error| from_sqlite(OPERATION, error))?.is_none() {
            return Err(Error::new(ErrorKind::Fenced, OPERATION, "a relay has taken a shard meanwhile"));
        }
    }
    Ok(transaction)
}

fn end(transaction: Transaction<'_>) -> Result<()> {
    failpoint!("outbox.adopt.before_commit")?;
    commit(transaction, OPERATION)?;
    failpoint!("outbox.adopt.after_commit")
}
