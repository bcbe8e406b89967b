//! Removes delivered messages, in bounded pieces, in the background.
//!
//! What may go (see `delivered`) is decided by the last progress known to be committed and never by a
//! position in memory.

use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use super::connection::Connection;
use super::delivered::{OutboxShape, begin, check_epochs, condition, delete_barriers, snapshots_of};
use super::rows::get;
use super::truncate::Truncation;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::outbox::{Delivered, Pruned};
use crate::postgres::connect::{Parameter, within};

/// A step looks at no more rows than this for each that it may remove: behind a shard that waits,
/// millions may stand that can't go yet, and a statement over all of them would outlive its limit.
const WALKED_FOR_ONE: u64 = 10;

/// The next walk from the bottom of the table waits for this long for each row that the last one
/// passed over in vain, at most for a minute: behind a shard that waits a walk takes about a
/// millionth of a second a row, and it would be walked all the time.
const PAUSE_FOR_ONE: Duration = Duration::from_micros(20);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// So many dead rows are worth a vacuum, and a part of those that live: it walks through all indexes.
const VACUUM_ROWS: u64 = 20_000;
const VACUUM_PART: u64 = 8;
/// A vacuum that takes longer is given up.
const VACUUM_LIMIT: Duration = Duration::from_secs(300);

/// Where pruning goes on. What one shard has delivered may stand below what another's has passed,
/// and late commits come in there, too: only a walk that begins at the bottom looks at everything.
pub(super) struct Walk {
    /// Rows up to this id were passed; None where no walk has begun.
    after: Option<i64>,
    /// The highest id that was removed: a walk from here on finds what has come since.
    highest: i64,
    from_bottom_at: Instant,
    truncation: Truncation,
    /// Rows above it stay; None: none.
    held_above: Option<i64>,
    /// Rows deleted since the last vacuum.
    dead: u64,
}

impl Walk {
    pub(super) fn new(truncation: Truncation) -> Self {
        Walk {
            after: None,
            highest: 0,
            from_bottom_at: Instant::now(),
            truncation,
            held_above: None,
            dead: 0,
        }
    }

    /// See [`Outbox::hold`](crate::outbox::Outbox::hold).
    pub(super) fn hold(&mut self, above: Option<i64>) {
        if above.is_none() && self.held_above.is_some() {
            self.from_bottom_at = Instant::now();
        }
        self.held_above = above;
    }

    /// Prunes at most `limit` messages, in as many steps as that takes; or all there are.
    pub(super) async fn prune(
        &mut self,
        connection: &Connection,
        delivered: &[Delivered],
        outbox: OutboxShape,
        limit: u32,
    ) -> Result<Pruned> {
        let emptied = match self.held_above {
            None => self.truncation.empty(connection, delivered, outbox).await?,
            Some(_) => None,
        };
        if let Some(messages) = emptied {
            (self.after, self.dead) = (None, 0);
            return Ok(Pruned { messages, all: true });
        }
        let pruned = self.delete(connection, delivered, outbox, limit).await?;
        self.dead += pruned.messages;
        if self.dead >= VACUUM_ROWS {
            self.vacuum(connection).await?;
        }
        Ok(pruned)
    }

    /// Autovacuum looks once a minute unless PostgreSQL is configured otherwise, and millions of rows
    /// die in a minute: the table would keep the size that they take. A user that may not do it is only
    /// warned, and autovacuum is left to it.
    async fn vacuum(&mut self, connection: &Connection) -> Result<()> {
        let table = format!("{}.outbox", connection.schema);
        let sql = "select greatest(reltuples, 0)::bigint from pg_class where oid = $1::text::regclass";
        let rows = connection.query("prune", sql, &[(&table, Type::TEXT)]).await?;
        let live = rows.first().map_or(Ok(0), |row| get::<i64>(row, 0))?.unsigned_abs();
        if self.dead < VACUUM_ROWS + live / VACUUM_PART {
            return Ok(());
        }
        self.dead = 0;
        // No lock that others wait for: neither another vacuum's, nor the one by which the file's end is
        // cut off.
        let sql = format!("vacuum (skip_locked, truncate false) {table}");
        within(VACUUM_LIMIT, "vacuum outbox", connection.client.batch_execute(&sql)).await
    }

    async fn delete(
        &mut self,
        connection: &Connection,
        delivered: &[Delivered],
        outbox: OutboxShape,
        limit: u32,
    ) -> Result<Pruned> {
        let limit = u64::from(limit);
        let due = Instant::now() >= self.from_bottom_at;
        let mut after = self.after.unwrap_or(if due { 0 } else { self.highest });
        let (mut messages, mut passed_over) = (0, 0);
        let mut from_bottom = after == 0;
        loop {
            let ids = (after, self.held_above.unwrap_or(i64::MAX));
            let step = prune(connection, delivered, outbox, ids, limit - messages).await?;
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

/// Prunes at most `limit` messages with ids above the first of `ids`, up to the last.
async fn prune(
    connection: &Connection,
    delivered: &[Delivered],
    outbox: OutboxShape,
    ids: (i64, i64),
    limit: u64,
) -> Result<Step> {
    connection.execute("prune", &begin(connection)).await?;
    check_epochs(connection, delivered).await?;
    let step = delete_messages(connection, delivered, outbox, ids, limit).await?;
    delete_barriers(connection, delivered).await?;
    failpoint!("outbox.prune.before_commit")?;
    connection.execute("prune", "commit").await?;
    failpoint!("outbox.prune.after_commit")?;
    Ok(step)
}

async fn delete_messages(
    connection: &Connection,
    delivered: &[Delivered],
    outbox: OutboxShape,
    (after, last): (i64, i64),
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
           select ctid, id, xid, key from {schema}.outbox where id > $1 and id <= $3 order by id limit {walk}),
         gone as (
           delete from {schema}.outbox where ctid = any(array(
             select ctid from walked where {condition} limit {limit}))
           returning id)
         select g.count, g.last, case when g.count < {limit} then (select count(*) from walked) end,
           case when g.count < {limit} then (select max(id) from walked) end
         from (select count(*), max(id) as last from gone) g",
        walk = limit * WALKED_FOR_ONE
    );
    let parameters: [Parameter<'_>; 3] =
        [(&after, Type::INT8), (&snapshots, Type::TEXT_ARRAY), (&last, Type::INT8)];
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

/// So many of the youngest rows are looked at for those of transactions, a page at a time; with more of that
/// age it is not known.
const PROOFS_PAGE: usize = 10_000;
const PROOFS_PAGES: usize = 100;

/// See [`Outbox::has_proofs`](crate::outbox::Outbox::has_proofs).
pub(super) async fn has_proofs(connection: &Connection, within: Duration) -> Result<bool> {
    let (seconds, mut below) = (within.as_secs_f64(), i64::MAX);
    // The row at a page's end says whether all below are older: ids are drawn in the order of time.
    let sql = format!(
        "select coalesce(bool_or(is_young and is_of_transaction), false), min(id) filter (where is_young), count(*)
         from (select id, created_at > clock_timestamp() - make_interval(secs => $1) as is_young,
                 get_byte(uuid_send(message_id), 6) >> 4 = 8 as is_of_transaction
               from {}.outbox where id < $2 order by id desc limit {PROOFS_PAGE}) page",
        connection.schema
    );
    for _ in 0..PROOFS_PAGES {
        let parameters: [Parameter<'_>; 2] = [(&seconds, Type::FLOAT8), (&below, Type::INT8)];
        let rows = connection.query("prune", &sql, &parameters).await?;
        let Some(row) = rows.first() else { return Ok(true) };
        if get(row, 0)? {
            return Ok(true);
        }
        match get::<Option<i64>>(row, 1)? {
            Some(youngest_end) if get::<i64>(row, 2)? as usize == PROOFS_PAGE => below = youngest_end,
            _ => return Ok(false),
        }
    }
    Ok(true)
}
