//! The set-aside half of the outbox port on SQLite, as a relay uses it. Each call that writes is one
//! transaction, which holds the file's write lock and checks the epoch first.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::init::SHARD;
use super::read::{insert_barrier, message_of, messages_of};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{BarrierId, Epoch, MessageId};
use crate::message::StoredMessage;
use crate::outbox::{Asked, Due, HeldTopic, Recorded, Resumed, Voucher};
use crate::protocol::progress::Progress;
use crate::protocol::sieve::{Aside, DEAD_TOPIC, ParkedKey};
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{begin, commit};

pub(super) fn resume(
    connection: &mut Connection,
    epoch: Epoch,
    progress: &Progress,
    last: i64,
) -> Result<Resumed> {
    const OPERATION: &str = "resume set-aside messages";
    let failed = |error| from_sqlite(OPERATION, error);
    let transaction = begin(connection, OPERATION)?;
    hold_shard(&transaction, OPERATION, epoch)?;
    let cleared: Vec<MessageId> = progress.cleared.iter().copied().map(MessageId).collect();
    remove(&transaction, &cleared).map_err(failed)?;
    bury(&transaction).map_err(failed)?;
    let sql = "select id from onecommit_set_aside where id > ?1";
    let mut resumed =
        Resumed { recorded: column(&transaction, sql, [last]).map_err(failed)?, ..Resumed::default() };
    let sql = "select parked_key, count(*) from onecommit_set_aside where parked_key is not null
               group by parked_key";
    let counted = |row: &Row<'_>| Ok((row.get::<_, ParkedKey>(0)?, row.get::<_, u32>(1)?));
    let mut statement = transaction.prepare(sql).map_err(failed)?;
    resumed.parked = statement.query_map((), counted).and_then(Iterator::collect).map_err(failed)?;
    drop(statement);
    resumed.held = column(&transaction, "select topic from onecommit_held_topic", ()).map_err(failed)?;
    resumed.dead = column(&transaction, "select topic from onecommit_dead_topic", ()).map_err(failed)?;
    let sql = "select count(*) from onecommit_set_aside";
    let count: i64 = transaction.query_row(sql, (), |row| row.get(0)).map_err(failed)?;
    resumed.count = u64::try_from(count).unwrap_or(0);
    if let Some(named) = progress.barrier() {
        // The barrier of before would not vouch for what was just removed or read.
        let fresh = resumed.count > 0 || !progress.cleared.is_empty();
        let known = voucher_of(&transaction, OPERATION, named)?;
        resumed.voucher = Some(if fresh { insert_barrier(&transaction, epoch)? } else { known });
    }
    failpoint!("outbox.resume.before_commit")?;
    commit(transaction, OPERATION)?;
    failpoint!("outbox.resume.after_commit")?;
    Ok(resumed)
}

pub(super) fn set_aside(
    connection: &mut Connection,
    epoch: Epoch,
    asides: &[Aside],
    held: &[HeldTopic],
) -> Result<Recorded> {
    const OPERATION: &str = "set messages aside";
    let failed = |error| from_sqlite(OPERATION, error);
    let transaction = begin(connection, OPERATION)?;
    let voucher = insert_barrier(&transaction, epoch)?;
    let mut new = HashSet::new();
    for aside in asides {
        let id = aside.message_id.0.as_bytes().as_slice();
        let sql = "insert into onecommit_set_aside (id, shard, message_id, topic, parked_key, reason)
                   values (?1, ?2, ?3, ?4, ?5, ?6) on conflict (id) do nothing";
        let key = aside.parked_key.as_ref().map(|key| &key[..]);
        let row = params![aside.id, SHARD.0, id, aside.topic, key, aside.reason];
        if transaction.execute(sql, row).map_err(failed)? == 1 {
            new.insert(aside.id);
        } else if aside.reason.is_some() {
            // A verdict replaces what was there; who only waits changes nothing. It answers a retry: what somebody
            // has asked for since, to discard it, is still to be done.
            let sql = "update onecommit_set_aside set parked_key = ?2, reason = ?3, request = nullif(request, 'retry')
                       where id = ?1";
            transaction.execute(sql, params![aside.id, key, aside.reason]).map_err(failed)?;
        }
    }
    for held in held {
        let sql = "insert into onecommit_held_topic (shard, topic, reason) values (?1, ?2, ?3)
                   on conflict (shard, topic) do update set reason = excluded.reason";
        transaction.execute(sql, params![SHARD.0, held.topic, held.reason]).map_err(failed)?;
    }
    failpoint!("outbox.set_aside.before_commit")?;
    commit(transaction, OPERATION)?;
    failpoint!("outbox.set_aside.after_commit")?;
    Ok(Recorded { new, voucher })
}

pub(super) fn asked(connection: &Connection) -> Result<Asked> {
    let failed = |error| from_sqlite("look for requests", error);
    let sql = "select exists (select 1 from onecommit_set_aside where request is not null)";
    let anything = connection.query_row(sql, (), |row| row.get(0)).map_err(failed)?;
    let sql = "select topic from onecommit_dead_topic order by topic";
    Ok(Asked { anything, dead: column(connection, sql, ()).map_err(failed)? })
}

pub(super) fn due(connection: &Connection, held: &[String], limit: u32) -> Result<Vec<Due>> {
    const OPERATION: &str = "read due messages";
    let failed = |error| from_sqlite(OPERATION, error);
    // A list has no parameter's form in SQLite: it comes as JSON.
    let held = serde_json::to_string(held)
        .map_err(|error| Error::new(ErrorKind::Failed, OPERATION, "no JSON").caused_by(error))?;
    let sql = "select a.id, a.message_id, a.parked_key, a.request is 'discard'
               from onecommit_set_aside a
               where a.request is 'discard' or a.topic not in (select value from json_each(?1)) and (
                 a.request is not null or a.reason is null and not exists (
                   select 1 from onecommit_set_aside d
                     where d.shard = a.shard and d.parked_key = a.parked_key and d.id < a.id
                       and d.reason is not null and d.request is null))
               order by a.id limit ?2";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let found = statement.query_map(params![held, limit], |row| {
        let message_id = MessageId(Uuid::from_bytes(row.get(1)?));
        Ok((Due { id: row.get(0)?, message_id, parked_key: row.get(2)?, message: None }, row.get(3)?))
    });
    let mut found: Vec<(Due, bool)> = found.and_then(Iterator::collect).map_err(failed)?;
    let wanted: Vec<i64> = found.iter().filter(|(_, discard)| !discard).map(|(due, _)| due.id).collect();
    let (mut messages, read_up_to) = messages_of(connection, &wanted)?;
    found.retain(|(due, _)| read_up_to.is_none_or(|last| due.id <= last));
    let with_message = |(mut due, _): (Due, bool)| {
        due.message = messages.remove(&due.id);
        due
    };
    Ok(found.into_iter().map(with_message).collect())
}

pub(super) fn clear(
    connection: &mut Connection,
    epoch: Epoch,
    cleared: &[MessageId],
    released: &[String],
) -> Result<Voucher> {
    const OPERATION: &str = "clear set-aside messages";
    let failed = |error| from_sqlite(OPERATION, error);
    let transaction = begin(connection, OPERATION)?;
    let voucher = insert_barrier(&transaction, epoch)?;
    remove(&transaction, cleared).map_err(failed)?;
    for topic in released {
        let sql = "delete from onecommit_held_topic where topic = ?1";
        transaction.execute(sql, [topic]).map_err(failed)?;
    }
    failpoint!("outbox.clear.before_commit")?;
    commit(transaction, OPERATION)?;
    failpoint!("outbox.clear.after_commit")?;
    Ok(voucher)
}

/// The message of a record, None where there is none.
pub(super) fn message(connection: &Connection, message_id: MessageId) -> Result<Option<StoredMessage>> {
    let sql = "select id from onecommit_set_aside where message_id = ?1";
    let bytes = message_id.0.as_bytes().as_slice();
    let found = connection.query_row(sql, [bytes], |row| row.get(0)).optional();
    match found.map_err(|error| from_sqlite("read dead letter", error))? {
        Some(id) => message_of(connection, id),
        None => Ok(None),
    }
}

fn hold_shard(connection: &Connection, operation: &'static str, epoch: Epoch) -> Result<()> {
    let sql = "select 1 from onecommit_shard where shard = ?1 and epoch = ?2";
    let held = connection.query_row(sql, params![SHARD.0, epoch.0], |_| Ok(())).optional();
    held.map_err(|error| from_sqlite(operation, error))?.ok_or_else(|| {
        let why = "another relay has taken over";
        Error::new(ErrorKind::Fenced, operation, why).with("shard", SHARD).with("epoch", epoch)
    })
}

/// Removes records with their messages.
fn remove(connection: &Connection, cleared: &[MessageId]) -> rusqlite::Result<()> {
    for message_id in cleared {
        let sql = "delete from onecommit_set_aside where message_id = ?1 returning id";
        let bytes = message_id.0.as_bytes().as_slice();
        let id: Option<i64> = connection.query_row(sql, [bytes], |row| row.get(0)).optional()?;
        if let Some(id) = id {
            connection.execute("delete from onecommit_outbox where id = ?1", [id])?;
        }
    }
    Ok(())
}

/// What waits for a topic that was declared dead becomes a dead letter.
fn bury(connection: &Connection) -> rusqlite::Result<()> {
    let dead = "topic in (select topic from onecommit_dead_topic)";
    connection.execute(&format!("delete from onecommit_held_topic where {dead}"), ())?;
    let sql = format!(
        "update onecommit_set_aside set reason = ?1, parked_key = null, request = null
         where reason is null and {dead}"
    );
    connection.execute(&sql, [DEAD_TOPIC]).map(drop)
}

pub(super) fn voucher_of(
    connection: &Connection,
    operation: &'static str,
    named: BarrierId,
) -> Result<Voucher> {
    let sql = "select counter from onecommit_barrier where id = ?1";
    let number = connection.query_row(sql, [named.0.as_bytes().as_slice()], |row| row.get(0)).optional();
    let number = number.map_err(|error| from_sqlite(operation, error))?.ok_or_else(|| {
        let why = "the barrier row of the progress vanished while the shard was taken";
        Error::new(ErrorKind::Unclear, operation, why).with("barrier", named)
    })?;
    Ok(Voucher { id: named, number })
}

fn column<T: rusqlite::types::FromSql>(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare_cached(sql)?.query_map(parameters, |row| row.get(0))?.collect()
}
