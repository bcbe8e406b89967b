//! The set-aside half of the outbox port on PostgreSQL, as a relay uses it. Each call is one
//! transaction, which locks the shard's row and checks the epoch before it writes.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::barrier;
use super::connection::Connection;
use super::rows::{self, Rows, get};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{BarrierId, Epoch, MessageId, ShardIndex};
use crate::message::StoredMessage;
use crate::outbox::{Asked, Due, HeldTopic, READ_BYTES, Recorded, Resumed, Voucher};
use crate::postgres::connect::{DURABLE, Parameter};
use crate::protocol::position::Position;
use crate::protocol::progress::Progress;
use crate::protocol::sieve::{Aside, DEAD_TOPIC, ParkedKey};

pub(super) async fn resume(
    connection: &Connection,
    shard: ShardIndex,
    epoch: Epoch,
    progress: &Progress,
) -> Result<Resumed> {
    const OPERATION: &str = "resume set-aside messages";
    begin(connection, OPERATION).await?;
    hold_shard(connection, OPERATION, shard, epoch).await?;
    remove(connection, OPERATION, shard, &progress.cleared).await?;
    bury(connection, OPERATION, shard).await?;
    let mut resumed = Resumed {
        recorded: not_passed(connection, OPERATION, shard, &progress.position).await?,
        parked: parked(connection, OPERATION, shard).await?,
        held: topics(connection, OPERATION, "held_topic where shard = $1", shard).await?,
        dead: topics(connection, OPERATION, "dead_topic where $1 is not null", shard).await?,
        ..Resumed::default()
    };
    let schema = &connection.schema;
    let sql = format!("select count(*) from {schema}.set_aside where shard = $1");
    resumed.count = number(connection, OPERATION, &sql, shard).await?;
    if let Some(named) = progress.barrier() {
        // The barrier of before would not vouch for what was just removed or read.
        let fresh = resumed.count > 0 || !progress.cleared.is_empty();
        let known = voucher_of(connection, OPERATION, named).await?;
        resumed.voucher = Some(if fresh { insert_barrier(connection, shard, epoch).await? } else { known });
    }
    failpoint!("outbox.resume.before_commit")?;
    connection.execute(OPERATION, "commit").await?;
    failpoint!("outbox.resume.after_commit")?;
    Ok(resumed)
}

pub(super) async fn set_aside(
    connection: &Connection,
    shard: ShardIndex,
    epoch: Epoch,
    asides: &[Aside],
    held: &[HeldTopic],
) -> Result<Recorded> {
    const OPERATION: &str = "set messages aside";
    begin(connection, OPERATION).await?;
    let voucher = insert_barrier(connection, shard, epoch).await?;
    let mut new = HashSet::new();
    if !asides.is_empty() {
        new = insert(connection, OPERATION, shard, asides).await?;
    }
    if !held.is_empty() {
        let schema = &connection.schema;
        let sql = format!(
            "insert into {schema}.held_topic (shard, topic, reason)
               select $1, topic, reason from unnest($2, $3) as h(topic, reason)
               on conflict (shard, topic) do update set reason = excluded.reason"
        );
        let topics: Vec<&str> = held.iter().map(|held| held.topic.as_str()).collect();
        let reasons: Vec<&str> = held.iter().map(|held| held.reason.as_str()).collect();
        let number = i32::from(shard.0);
        let parameters: [Parameter<'_>; 3] =
            [(&number, Type::INT4), (&topics, Type::TEXT_ARRAY), (&reasons, Type::TEXT_ARRAY)];
        connection.query(OPERATION, &sql, &parameters).await?;
    }
    failpoint!("outbox.set_aside.before_commit")?;
    connection.execute(OPERATION, "commit").await?;
    failpoint!("outbox.set_aside.after_commit")?;
    Ok(Recorded { new, voucher })
}

/// A verdict replaces what was there; who only waits changes nothing. It answers a retry: what somebody has asked
/// for since, to discard it, is still to be done.
async fn insert(
    connection: &Connection,
    operation: &'static str,
    shard: ShardIndex,
    asides: &[Aside],
) -> Result<HashSet<i64>> {
    let schema = &connection.schema;
    let sql = format!(
        "insert into {schema}.set_aside (id, shard, message_id, topic, parked_key, reason)
           select id, $1, message_id, topic, parked_key, reason
             from unnest($2, $3, $4, $5, $6) as a(id, message_id, topic, parked_key, reason)
           on conflict (id) do update
             set parked_key = excluded.parked_key, reason = excluded.reason,
               request = nullif({schema}.set_aside.request, 'retry')
             where excluded.reason is not null
           returning id, xmax = 0"
    );
    let number = i32::from(shard.0);
    let ids: Vec<i64> = asides.iter().map(|aside| aside.id).collect();
    let message_ids: Vec<Uuid> = asides.iter().map(|aside| aside.message_id.0).collect();
    let topics: Vec<&str> = asides.iter().map(|aside| aside.topic.as_str()).collect();
    let keys: Vec<Option<&[u8]>> =
        asides.iter().map(|aside| aside.parked_key.as_ref().map(|key| &key[..])).collect();
    let reasons: Vec<Option<&str>> = asides.iter().map(|aside| aside.reason.as_deref()).collect();
    let parameters: [Parameter<'_>; 6] = [
        (&number, Type::INT4),
        (&ids, Type::INT8_ARRAY),
        (&message_ids, Type::UUID_ARRAY),
        (&topics, Type::TEXT_ARRAY),
        (&keys, Type::BYTEA_ARRAY),
        (&reasons, Type::TEXT_ARRAY),
    ];
    let mut new = HashSet::new();
    for row in connection.query(operation, &sql, &parameters).await? {
        if get(&row, 1)? {
            new.insert(get(&row, 0)?);
        }
    }
    Ok(new)
}

pub(super) async fn asked(connection: &Connection, shard: ShardIndex) -> Result<Asked> {
    const OPERATION: &str = "look for requests";
    let schema = &connection.schema;
    let sql = format!(
        "select exists (select 1 from {schema}.set_aside where shard = $1 and request is not null),
           array(select topic from {schema}.dead_topic order by topic)"
    );
    let number = i32::from(shard.0);
    let parameters: [Parameter<'_>; 1] = [(&number, Type::INT4)];
    let rows = connection.query(OPERATION, &sql, &parameters).await?;
    let row = rows.first().ok_or_else(|| no_answer(OPERATION))?;
    Ok(Asked { anything: get(row, 0)?, dead: get(row, 1)? })
}

pub(super) async fn due(
    connection: &Connection,
    shard: ShardIndex,
    held: &[String],
    limit: u32,
) -> Result<Vec<Due>> {
    const OPERATION: &str = "read due messages";
    let schema = &connection.schema;
    let sql = format!(
        "select a.id, a.message_id, a.parked_key, a.request is not distinct from 'discard'
         from {schema}.set_aside a
         where a.shard = $1 and (a.request = 'discard' or a.topic <> all($2) and (
           a.request is not null or a.reason is null and not exists (
             select 1 from {schema}.set_aside d
               where d.shard = a.shard and d.parked_key = a.parked_key and d.id < a.id
                 and d.reason is not null and d.request is null)))
         order by a.id limit {limit}"
    );
    let number = i32::from(shard.0);
    let parameters: [Parameter<'_>; 2] = [(&number, Type::INT4), (&held, Type::TEXT_ARRAY)];
    let found = connection.query(OPERATION, &sql, &parameters).await?;
    let mut due = Vec::with_capacity(found.len());
    let mut wanted = Vec::new();
    for row in &found {
        let id: i64 = get(row, 0)?;
        if !get::<bool>(row, 3)? {
            wanted.push(id);
        }
        let message_id = MessageId(get(row, 1)?);
        due.push(Due { id, message_id, parked_key: key(get(row, 2)?)?, message: None });
    }
    let (mut messages, read_up_to) = read(connection, OPERATION, &wanted).await?;
    due.retain(|due| read_up_to.is_none_or(|last| due.id <= last));
    for due in &mut due {
        due.message = messages.remove(&due.id);
    }
    Ok(due)
}

/// The messages of these ids, ascending, as many as fit; where not all did, the last that was read.
pub(super) async fn read(
    connection: &Connection,
    operation: &'static str,
    ids: &[i64],
) -> Result<(HashMap<i64, StoredMessage>, Option<i64>)> {
    if ids.is_empty() {
        return Ok((HashMap::new(), None));
    }
    let sql = format!(
        "select {} from (select {} from {}.outbox where id = any($1)) o order by o.id",
        rows::decoded_columns(),
        rows::columns(),
        connection.schema
    );
    let parameters: [Parameter<'_>; 1] = [(&ids, Type::INT8_ARRAY)];
    let mut found = Rows::new(READ_BYTES);
    for row in connection.query(operation, &sql, &parameters).await? {
        found.push(&row, 0)?;
    }
    let found = rows::complete(connection, found).await?;
    let read_up_to = found.last_id().filter(|_| found.cut);
    Ok((found.messages.into_iter().map(|message| (message.id, message)).collect(), read_up_to))
}

pub(super) async fn clear(
    connection: &Connection,
    shard: ShardIndex,
    epoch: Epoch,
    cleared: &[MessageId],
    released: &[String],
) -> Result<Voucher> {
    const OPERATION: &str = "clear set-aside messages";
    begin(connection, OPERATION).await?;
    let voucher = insert_barrier(connection, shard, epoch).await?;
    let cleared: Vec<Uuid> = cleared.iter().map(|id| id.0).collect();
    remove(connection, OPERATION, shard, &cleared).await?;
    let schema = &connection.schema;
    let sql = format!("delete from {schema}.held_topic where shard = $1 and topic = any($2)");
    let number = i32::from(shard.0);
    let parameters: [Parameter<'_>; 2] = [(&number, Type::INT4), (&released, Type::TEXT_ARRAY)];
    connection.query(OPERATION, &sql, &parameters).await?;
    failpoint!("outbox.clear.before_commit")?;
    connection.execute(OPERATION, "commit").await?;
    failpoint!("outbox.clear.after_commit")?;
    Ok(voucher)
}

async fn begin(connection: &Connection, operation: &'static str) -> Result<()> {
    let begin = format!("begin isolation level read committed; {DURABLE}; {}", connection.limits());
    connection.execute(operation, &begin).await
}

/// Until the transaction ends no successor can claim the shard: a check alone would let what a zombie
/// writes land after its successor has delivered.
async fn hold_shard(
    connection: &Connection,
    operation: &'static str,
    shard: ShardIndex,
    epoch: Epoch,
) -> Result<()> {
    let schema = &connection.schema;
    let sql = format!("select 1 from {schema}.shard where shard = $1 and epoch = $2 for share");
    let number = i32::from(shard.0);
    let parameters: [Parameter<'_>; 2] = [(&number, Type::INT4), (&epoch.0, Type::INT8)];
    if connection.query(operation, &sql, &parameters).await?.is_empty() {
        let why = "another relay has taken over";
        return Err(Error::new(ErrorKind::Fenced, operation, why).with("shard", shard).with("epoch", epoch));
    }
    Ok(())
}

/// A barrier in the transaction that is open, which holds the shard's row from here on.
async fn insert_barrier(connection: &Connection, shard: ShardIndex, epoch: Epoch) -> Result<Voucher> {
    let inserted = barrier::insert(connection, &BTreeMap::from([(shard, epoch)])).await?;
    inserted.voucher().ok_or_else(|| no_answer("insert barrier"))
}

/// Removes records with their messages.
async fn remove(
    connection: &Connection,
    operation: &'static str,
    shard: ShardIndex,
    cleared: &[Uuid],
) -> Result<()> {
    if cleared.is_empty() {
        return Ok(());
    }
    let schema = &connection.schema;
    let sql = format!(
        "with gone as (
           delete from {schema}.set_aside where shard = $1 and message_id = any($2) returning id)
         delete from {schema}.outbox o using gone where o.id = gone.id"
    );
    let number = i32::from(shard.0);
    let parameters: [Parameter<'_>; 2] = [(&number, Type::INT4), (&cleared, Type::UUID_ARRAY)];
    connection.query(operation, &sql, &parameters).await.map(drop)
}

/// What waits for a topic that was declared dead becomes a dead letter.
async fn bury(connection: &Connection, operation: &'static str, shard: ShardIndex) -> Result<()> {
    let schema = &connection.schema;
    let sql = format!(
        "with dead as (
           delete from {schema}.held_topic h using {schema}.dead_topic d
             where h.shard = $1 and h.topic = d.topic)
         update {schema}.set_aside a set reason = $2, parked_key = null, request = null
           from {schema}.dead_topic d where a.shard = $1 and a.topic = d.topic and a.reason is null"
    );
    let number = i32::from(shard.0);
    let parameters: [Parameter<'_>; 2] = [(&number, Type::INT4), (&DEAD_TOPIC, Type::TEXT)];
    connection.query(operation, &sql, &parameters).await.map(drop)
}

async fn not_passed(
    connection: &Connection,
    operation: &'static str,
    shard: ShardIndex,
    position: &Position,
) -> Result<Vec<i64>> {
    let Position::Snapshots { prev, this, last } = position else {
        let why = "the progress was written for another kind of database";
        return Err(Error::new(ErrorKind::Refused, operation, why).with("shard", shard));
    };
    let schema = &connection.schema;
    let sql = format!(
        "select o.id from {schema}.set_aside a join {schema}.outbox o on o.id = a.id
           where a.shard = $1 and not pg_visible_in_snapshot(o.xid, $2::text::pg_snapshot)
             and not (o.id <= $4 and pg_visible_in_snapshot(o.xid, $3::text::pg_snapshot))"
    );
    let number = i32::from(shard.0);
    let last = this.as_ref().map_or(-1, |_| *last);
    let (prev, this) = (prev.to_string(), this.as_ref().unwrap_or(prev).to_string());
    let parameters: [Parameter<'_>; 4] =
        [(&number, Type::INT4), (&prev, Type::TEXT), (&this, Type::TEXT), (&last, Type::INT8)];
    connection.query(operation, &sql, &parameters).await?.iter().map(|row| get(row, 0)).collect()
}

async fn parked(
    connection: &Connection,
    operation: &'static str,
    shard: ShardIndex,
) -> Result<Vec<(ParkedKey, u32)>> {
    let schema = &connection.schema;
    let sql = format!(
        "select parked_key, count(*) from {schema}.set_aside
           where shard = $1 and parked_key is not null group by parked_key"
    );
    let shard = i32::from(shard.0);
    let parameters: [Parameter<'_>; 1] = [(&shard, Type::INT4)];
    let mut parked = Vec::new();
    for row in connection.query(operation, &sql, &parameters).await? {
        let count = u32::try_from(get::<i64>(&row, 1)?).unwrap_or(u32::MAX);
        parked.extend(key(get(&row, 0)?)?.map(|key| (key, count)));
    }
    Ok(parked)
}

async fn topics(
    connection: &Connection,
    operation: &'static str,
    from: &str,
    shard: ShardIndex,
) -> Result<Vec<String>> {
    let sql = format!("select topic from {}.{from}", connection.schema);
    let shard = i32::from(shard.0);
    let parameters: [Parameter<'_>; 1] = [(&shard, Type::INT4)];
    connection.query(operation, &sql, &parameters).await?.iter().map(|row| get(row, 0)).collect()
}

async fn number(
    connection: &Connection,
    operation: &'static str,
    sql: &str,
    shard: ShardIndex,
) -> Result<u64> {
    let shard = i32::from(shard.0);
    let parameters: [Parameter<'_>; 1] = [(&shard, Type::INT4)];
    let rows = connection.query(operation, sql, &parameters).await?;
    let row = rows.first().ok_or_else(|| no_answer(operation))?;
    Ok(u64::try_from(get::<i64>(row, 0)?).unwrap_or(0))
}

pub(super) async fn voucher_of(
    connection: &Connection,
    operation: &'static str,
    named: BarrierId,
) -> Result<Voucher> {
    let sql = format!("select counter from {}.barrier where id = $1", connection.schema);
    let parameters: [Parameter<'_>; 1] = [(&named.0, Type::UUID)];
    let rows = connection.query(operation, &sql, &parameters).await?;
    let row = rows.first().ok_or_else(|| {
        let why = "the barrier row of the progress vanished while the shard was taken";
        Error::new(ErrorKind::Unclear, operation, why).with("barrier", named)
    })?;
    Ok(Voucher { id: named, number: get(row, 0)? })
}

pub(super) fn key(bytes: Option<Vec<u8>>) -> Result<Option<ParkedKey>> {
    let damaged = |_| {
        let why = "a parked_key of set_aside has not 32 bytes: it was changed by hand";
        Error::new(ErrorKind::Refused, "read set-aside messages", why)
    };
    bytes.map(|bytes| bytes.try_into().map_err(damaged)).transpose()
}

fn no_answer(operation: &'static str) -> Error {
    Error::new(ErrorKind::Failed, operation, "PostgreSQL answered without a row")
}
