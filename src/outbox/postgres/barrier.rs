//! The barrier: a row committed in the very transaction that took a window's snapshot, before
//! Kafka is told of the window.
//!
//! PostgreSQL hands transaction numbers out again after a crash when their end was not yet flushed;
//! a relay that had delivered the snapshot `742:742:` saw the next three commits as delivered. The
//! barrier's number is at or above the snapshot's xmax, and its flush keeps the lower ones from
//! coming back. A row is always inserted under a fresh id, never updated.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::connection::Connection;
use super::rows::get;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{BarrierId, Epoch, ShardIndex};
use crate::outbox::{Barrier, BarrierOutcome, Barriers, Voucher};
use crate::postgres::connect::{Parameter, within};

/// The barriers of one window, inserted but not yet committed.
pub(super) struct Inserted {
    pub(super) barriers: Barriers,
    pub(super) xid: u64,
    outcomes: Vec<BarrierOutcome>,
}

impl Inserted {
    /// The barrier of the only shard, for one who commits it at once.
    pub(super) fn voucher(&self) -> Option<Voucher> {
        let id = self.barriers.values().next()?.id?;
        Some(Voucher { id, number: i64::try_from(self.xid).ok()? })
    }
}

/// Inserts a row for each shard, under its epoch, into the transaction that is open. Its counter is
/// the transaction's own number: that grows whoever inserts, so that a prune by an older progress
/// never takes a newer row for an older one, as it could with a count begun anew by each connection.
pub(super) async fn insert(
    connection: &Connection,
    shards: &BTreeMap<ShardIndex, Epoch>,
) -> Result<Inserted> {
    let numbers: Vec<i32> = shards.keys().map(|shard| i32::from(shard.0)).collect();
    let epochs: Vec<i64> = shards.values().map(|epoch| epoch.0).collect();
    let ids: Vec<Uuid> = shards.keys().map(|_| Uuid::new_v4()).collect();
    let schema = &connection.schema;
    let sql = format!(
        "with held as (
           select w.id, w.shard, w.epoch from {schema}.shard s
             join unnest($1, $2, $3) as w(shard, epoch, id) on w.shard = s.shard and w.epoch = s.epoch
             for share of s),
         inserted as (
           insert into {schema}.barrier (id, shard, epoch, counter)
             select id, shard, epoch, pg_current_xact_id()::text::bigint from held
             returning shard, counter)
         select shard, counter from inserted"
    );
    let parameters: [Parameter<'_>; 3] =
        [(&numbers, Type::INT4_ARRAY), (&epochs, Type::INT8_ARRAY), (&ids, Type::UUID_ARRAY)];
    let rows = connection.query("insert barrier", &sql, &parameters).await?;
    let Some(first) = rows.first().filter(|_| rows.len() == numbers.len()) else {
        let kept = rows.iter().map(|row| get::<i32>(row, 0)).collect::<Result<Vec<_>>>()?;
        let lost: Vec<String> =
            numbers.iter().filter(|shard| !kept.contains(shard)).map(ToString::to_string).collect();
        let why = "another relay has taken over";
        return Err(Error::new(ErrorKind::Fenced, "insert barrier", why).with("shards", lost.join(", ")));
    };
    let first_number = get::<i64>(first, 1)?;
    let xid = first_number as u64;
    let (barriers, outcomes) = shards
        .keys()
        .zip(ids)
        .map(|(shard, id)| {
            let (barrier, outcome) = Barrier::pending(BarrierId(id), first_number);
            ((*shard, barrier), outcome)
        })
        .unzip();
    Ok(Inserted { barriers, xid, outcomes })
}

/// Commits the open transaction in the background: the messages are produced meanwhile, and who
/// commits them to Kafka waits for the outcome first.
///
/// The commit is in the connection's queue when this returns. Sent any later, it could come behind
/// the next window's `begin`: that window's snapshot would then be older than its barrier's
/// transaction, or its barrier be committed on its own without waiting for the flush.
pub(super) async fn commit(connection: &Connection, inserted: Inserted) -> Result<Barriers> {
    failpoint!("outbox.barrier.before_commit")?;
    let client = Arc::clone(&connection.client);
    let limit = connection.request_limit();
    let mut committing =
        Box::pin(async move { within(limit, "commit barrier", client.batch_execute("commit")).await });
    let ended_at_once = tokio::select! {
        biased;
        outcome = &mut committing => Some(outcome),
        () = ready(()) => None,
    };
    let outcomes = inserted.outcomes;
    tokio::spawn(async move {
        let committed = match ended_at_once {
            Some(outcome) => outcome,
            None => committing.await,
        };
        let committed = committed.and_then(|()| failpoint!("outbox.barrier.after_commit"));
        let outcome = committed.map_err(Arc::new);
        for waiting in outcomes {
            waiting.send_replace(Some(outcome.clone()));
        }
    });
    Ok(inserted.barriers)
}

/// Removes barriers that no position names, those of shards for which a window had nothing: a shard
/// that stays idle while others have a backlog would gather one for each of their windows, and pruning
/// takes only what is older than the one that the shard's progress names.
pub(super) async fn remove(connection: &Connection, unused: &[BarrierId]) -> Result<()> {
    let ids: Vec<Uuid> = unused.iter().map(|barrier| barrier.0).collect();
    let schema = &connection.schema;
    let sql = format!(
        "with held as (
           select b.id from {schema}.shard s
             join {schema}.barrier b on b.shard = s.shard and b.epoch = s.epoch
             where b.id = any($1) for share of s)
         delete from {schema}.barrier b using held where b.id = held.id"
    );
    let parameters: [Parameter<'_>; 1] = [(&ids, Type::UUID_ARRAY)];
    let begin = format!("begin; {}; set local synchronous_commit = off", connection.limits());
    let removed = connection.client.execute_typed(&sql, &parameters);
    connection.alone("remove barriers", &begin, removed).await.map(drop)
}
