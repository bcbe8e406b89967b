//! Dead letters as the people see them who run a relay: lists, and what they ask the shards' owners
//! to do. Nothing here is fenced: a request is only a wish, and the owner fulfils it.

use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::init::SHARD;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::MessageId;
use crate::outbox::{AsideCounts, DeadLetter, HeldTopic, Request, Selection};
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{begin, commit};

/// Which records of `a` are chosen: by topic (?1), by hexadecimal ids as JSON (?2), or all.
const CHOSEN: &str = "(?1 is null or a.topic = ?1)
    and (?2 is null or hex(a.message_id) in (select value from json_each(?2)))";

pub(super) fn list(connection: &Connection, selection: &Selection, limit: u32) -> Result<Vec<DeadLetter>> {
    let failed = |error| from_sqlite("list dead letters", error);
    let sql = format!(
        "select a.message_id, a.topic, o.key, a.reason, a.request, a.set_aside_at_ms,
           (select count(*) from onecommit_set_aside w where w.shard = a.shard
              and w.parked_key = a.parked_key and w.reason is null)
         from onecommit_set_aside a left join onecommit_outbox o on o.id = a.id
         where a.reason is not null and {CHOSEN} order by a.id limit ?3"
    );
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let (topic, ids) = chosen(selection)?;
    let found = statement.query_map(params![topic, ids, limit], decode);
    found.and_then(Iterator::collect).map_err(failed)
}

fn decode(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let request: Option<String> = row.get(4)?;
    Ok(DeadLetter {
        shard: SHARD,
        message_id: MessageId(Uuid::from_bytes(row.get(0)?)),
        topic: row.get(1)?,
        key: row.get(2)?,
        reason: row.get(3)?,
        request: request.map(|text| if text == "retry" { Request::Retry } else { Request::Discard }),
        set_aside_at_ms: row.get(5)?,
        waiting: u64::try_from(row.get::<_, i64>(6)?).unwrap_or(0),
    })
}

pub(super) fn ask(connection: &mut Connection, selection: &Selection, request: Request) -> Result<u64> {
    const OPERATION: &str = "ask for dead letters";
    let request = match request {
        Request::Retry => "retry",
        Request::Discard => "discard",
    };
    let transaction = begin(connection, OPERATION)?;
    let sql =
        format!("update onecommit_set_aside as a set request = ?3 where reason is not null and {CHOSEN}");
    let (topic, ids) = chosen(selection)?;
    let asked = transaction.execute(&sql, params![topic, ids, request]);
    let asked = asked.map_err(|error| from_sqlite(OPERATION, error))?;
    failpoint!("outbox.ask.before_commit")?;
    commit(transaction, OPERATION)?;
    failpoint!("outbox.ask.after_commit")?;
    Ok(asked as u64)
}

pub(super) fn declare_topic(connection: &mut Connection, topic: &str, dead: bool) -> Result<bool> {
    const OPERATION: &str = "declare topic dead";
    let transaction = begin(connection, OPERATION)?;
    let sql = match dead {
        true => "insert into onecommit_dead_topic (topic) values (?1) on conflict do nothing",
        false => "delete from onecommit_dead_topic where topic = ?1",
    };
    let changed = transaction.execute(sql, [topic]).map_err(|error| from_sqlite(OPERATION, error))?;
    failpoint!("outbox.declare_topic.before_commit")?;
    commit(transaction, OPERATION)?;
    failpoint!("outbox.declare_topic.after_commit")?;
    Ok(changed == 1)
}

pub(super) fn count(connection: &Connection) -> Result<AsideCounts> {
    let failed = |error| from_sqlite("count dead letters", error);
    let sql = "select count(*) filter (where reason is not null), count(*) filter (where reason is null)
               from onecommit_set_aside";
    let counts: (i64, i64) =
        connection.query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
    let sql = "select topic, reason from onecommit_held_topic order by topic";
    let mut statement = connection.prepare(sql).map_err(failed)?;
    let held = statement.query_map((), |row| Ok(HeldTopic { topic: row.get(0)?, reason: row.get(1)? }));
    Ok(AsideCounts {
        dead_letters: u64::try_from(counts.0).unwrap_or(0),
        waiting: u64::try_from(counts.1).unwrap_or(0),
        held: held.and_then(Iterator::collect).map_err(failed)?,
    })
}

/// The parameters of [`CHOSEN`].
fn chosen(selection: &Selection) -> Result<(Option<&str>, Option<String>)> {
    match selection {
        Selection::All => Ok((None, None)),
        Selection::Topic(topic) => Ok((Some(topic), None)),
        Selection::Messages(ids) => {
            let hexadecimal: Vec<String> = ids.iter().map(|id| format!("{:X}", id.0.simple())).collect();
            let json = serde_json::to_string(&hexadecimal).map_err(|error| {
                Error::new(ErrorKind::Failed, "choose dead letters", "no JSON").caused_by(error)
            })?;
            Ok((None, Some(json)))
        }
    }
}
