//! Removes delivered messages, in bounded pieces, in the background.
//!
//! What may go is decided by the last progress known to be committed and never by a position in
//! memory, and by visibility and never by id alone: pruning by id deleted a late commit that was
//! never delivered.

use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use super::connection::Connection;
use super::read::shard_expression;
use super::rows::get;
use super::truncate::Truncation;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::outbox::{Delivered, Pruned};
use crate::postgres::connect::Parameter;
use crate::protocol::position::Position;

/// A step looks at no more rows than this for each that it may remove: behind a shard that waits,
/// millions may stand that can't go yet, and a statement over all of them would outlive its limit.
const WALKED_FOR_ONE: u64 = 10;

/// What a crash takes back of it is pruned again.
const BEGIN: &str = "begin isolation level read committed; \
    set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off; \
    set local jit = off; set local synchronous_commit = off";

/// The next walk from the bottom of the table waits for this long for each row that the last one
/// passed over in vain, at most for a minute: behind a shard that waits a walk takes about a
/// millionth of a second a row, and it would be walked all the time.
const PAUSE_FOR_ONE: Duration = Duration::from_micros(20);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What decides, beside the positions, which rows may go.
#[derive(Clone, Copy)]
pub(super) struct OutboxShape {
    pub(super) shards: u16,
    /// Whether there is a table of messages that are set aside, which stay.
    pub(super) has_set_aside: bool,
}

/// Where pruning goes on. What one shard has delivered may stand below what another's has passed,
/// and late commits come in there, too: only a walk that begins at the bottom looks at everything.
pub(super) struct Walk {
    /// Rows up to this id were passed; None where no walk has begun.
    after: Option<i64>,
    /// The highest id that was removed: a walk from here on finds what has come since.
    highest: i64,
    from_bottom_at: Instant,
    truncation: Truncation,
}

impl Walk {
    pub(super) fn new(truncation: Truncation) -> Self {
        Walk { after: None, highest: 0, from_bottom_at: Instant::now(), truncation }
    }

    /// Prunes at most `limit` messages, in as many steps as that takes; or all there are.
    pub(super) async fn prune(
        &mut self,
        connection: &Connection,
        delivered: &[Delivered],
        outbox: OutboxShape,
        limit: u32,
    ) -> Result<Pruned> {
        if let Some(messages) = self.truncation.empty(connection, delivered, outbox).await? {
            self.after = None;
            return Ok(Pruned { messages, all: true });
        }
        let limit = u64::from(limit);
        let due = Instant::now() >= self.from_bottom_at;
        let mut after = self.after.unwrap_or(if due { 0 } else { self.highest });
        let (mut messages, mut passed_over) = (0, 0);
        let mut from_bottom = after == 0;
        loop {
            let step = prune(connection, delivered, outbox, after, limit - messages).await?;
            messages += step.gone;
            passed_over += step.passed_over;
            self.highest = self.highest.max(step.highest);
            self.after = step.next;
            if messages == limit {
                return Ok(Pruned { messages, all: false });
            }
            match step.next {
                Some(next) => after = next,
                None if from_bottom => {
                    let pause = PAUSE_FOR_ONE.saturating_mul(u32::try_from(passed_over).unwrap_or(u32::MAX));
                    self.from_bottom_at = Instant::now() + pause.min(PAUSE_MAX);
                    return Ok(Pruned { messages, all: true });
                }
                None if !due => return Ok(Pruned { messages, all: false }),
                None => (after, passed_over, from_bottom) = (0, 0, true),
            }
        }
    }
}

/// What one transaction did.
struct Step {
    gone: u64,
    /// The highest id that went, 0 where none did.
    highest: i64,
    /// Rows that were looked at and had to stay.
    passed_over: u64,
    /// The id behind which the next step goes on; None where nothing is left above.
    next: Option<i64>,
}

/// Prunes at most `limit` messages whose id is above `after`.
async fn prune(
    connection: &Connection,
    delivered: &[Delivered],
    outbox: OutboxShape,
    after: i64,
    limit: u64,
) -> Result<Step> {
    connection.execute("prune", &begin(connection)).await?;
    check_epochs(connection, delivered).await?;
    let step = delete_messages(connection, delivered, outbox, after, limit).await?;
    delete_barriers(connection, delivered).await?;
    failpoint!("outbox.prune.before_commit")?;
    connection.execute("prune", "commit").await?;
    failpoint!("outbox.prune.after_commit")?;
    Ok(step)
}

pub(super) fn begin(connection: &Connection) -> String {
    format!("{BEGIN}; {}", connection.limits())
}

/// Locks the shards' rows until the transaction ends: after a takeover nothing of an older epoch
/// may land, not even between the check and the commit. And this must be the database that the
/// progress speaks of: the pruner's own connection may lead to a server that was promoted or
/// restored without the barrier, where the position's snapshots see transactions that were never
/// delivered.
pub(super) async fn check_epochs(connection: &Connection, delivered: &[Delivered]) -> Result<()> {
    let numbers: Vec<i32> = delivered.iter().map(|shard| i32::from(shard.shard.0)).collect();
    let epochs: Vec<i64> = delivered.iter().map(|shard| shard.epoch.0).collect();
    let barriers: Vec<_> = delivered.iter().map(|shard| shard.barrier.map(|barrier| barrier.0)).collect();
    let schema = &connection.schema;
    let sql = format!(
        "select s.shard from {schema}.shard s
           join unnest($1, $2, $3) as w(shard, epoch, barrier) on w.shard = s.shard and w.epoch = s.epoch
           join {schema}.barrier b on b.id = w.barrier and b.shard = s.shard
           for share of s"
    );
    let parameters: [Parameter<'_>; 3] =
        [(&numbers, Type::INT4_ARRAY), (&epochs, Type::INT8_ARRAY), (&barriers, Type::UUID_ARRAY)];
    let held = connection.query("prune", &sql, &parameters).await?;
    if held.len() == delivered.len() {
        return Ok(());
    }
    connection.execute("prune", "rollback").await?;
    let why = "another relay has taken over, or the database lacks the barrier row of the progress";
    Err(Error::new(ErrorKind::Fenced, "prune", why))
}

async fn delete_messages(
    connection: &Connection,
    delivered: &[Delivered],
    outbox: OutboxShape,
    after: i64,
    limit: u64,
) -> Result<Step> {
    let schema = &connection.schema;
    let snapshots: Vec<String> = delivered.iter().flat_map(snapshots_of).collect();
    let mut condition = condition(delivered, outbox.shards, "$2");
    if outbox.has_set_aside {
        let set_aside = format!("select 1 from {schema}.set_aside a where a.id = walked.id");
        condition = format!("({condition}) and not exists ({set_aside})");
    }
    // `walked` is read no further than is asked for: it comes by id already, so it is not sorted,
    // and it is counted only where too few may go. Walking all of it each time took 13 times as long.
    let sql = format!(
        "with walked as materialized (
           select ctid, id, xid, key from {schema}.outbox where id > $1 order by id limit {walk}),
         gone as (
           delete from {schema}.outbox where ctid = any(array(
             select ctid from walked where {condition} limit {limit}))
           returning id)
         select g.count, g.last, case when g.count < {limit} then (select count(*) from walked) end,
           case when g.count < {limit} then (select max(id) from walked) end
         from (select count(*), max(id) as last from gone) g",
        walk = limit * WALKED_FOR_ONE
    );
    let parameters: [Parameter<'_>; 2] = [(&after, Type::INT8), (&snapshots, Type::TEXT_ARRAY)];
    let rows = connection.query("prune", &sql, &parameters).await?;
    let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Failed, "prune", "no answer"))?;
    let gone = get::<i64>(row, 0)? as u64;
    let highest = get::<Option<i64>>(row, 1)?.unwrap_or(0);
    let walked = get::<Option<i64>>(row, 2)?.unwrap_or(0) as u64;
    let next = if gone == limit {
        Some(highest)
    } else if walked == limit * WALKED_FOR_ONE {
        get(row, 3)?
    } else {
        None
    };
    Ok(Step { gone, highest, passed_over: walked.saturating_sub(gone), next })
}

/// The two snapshots of a shard's position, at places 2n + 1 and 2n + 2 of the array.
pub(super) fn snapshots_of(shard: &Delivered) -> [String; 2] {
    match &shard.position {
        Position::Snapshots { prev, this, .. } => {
            [prev.to_string(), this.as_ref().unwrap_or(prev).to_string()]
        }
        Position::Sequence { .. } => [String::new(), String::new()],
    }
}

/// Whether a row is delivered, by the position of its own shard; the key is hashed once a row.
/// `snapshots` is the array of [`snapshots_of`] in SQL.
pub(super) fn condition(delivered: &[Delivered], shards: u16, snapshots: &str) -> String {
    let mut cases = String::new();
    for (index, shard) in delivered.iter().enumerate() {
        let Position::Snapshots { this, last, .. } = &shard.position else { continue };
        let seen = |place: usize| {
            format!("pg_visible_in_snapshot(xid, ({snapshots}::text[])[{place}]::pg_snapshot)")
        };
        let mut passed = seen(2 * index + 1);
        if this.is_some() {
            passed = format!("({passed} or (id <= {last} and {}))", seen(2 * index + 2));
        }
        if shards == 1 {
            return passed;
        }
        cases.push_str(&format!(" when {} then {passed}", shard.shard));
    }
    format!("case {}{cases} end", shard_expression(shards))
}

/// Barrier rows older than the one that the progress names go with the messages: whoever finds an
/// older progress later does not find its barrier, and stops instead of passing over what is gone.
pub(super) async fn delete_barriers(connection: &Connection, delivered: &[Delivered]) -> Result<()> {
    let schema = &connection.schema;
    let named: Vec<_> = delivered.iter().filter_map(|shard| shard.barrier.map(|barrier| barrier.0)).collect();
    let sql = format!(
        "with named as (select shard, epoch, counter from {schema}.barrier where id = any($1)),
         old as (
           delete from {schema}.barrier b using named n
             where b.shard = n.shard and (b.epoch, b.counter) < (n.epoch, n.counter))
         update {schema}.shard s set pruned = true from named n where s.shard = n.shard and not s.pruned"
    );
    let parameters: [Parameter<'_>; 1] = [(&named, Type::UUID_ARRAY)];
    connection.request("prune", connection.client.execute_typed(&sql, &parameters)).await?;
    Ok(())
}
