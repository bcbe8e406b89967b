//! Empties the outbox's table at once where it is large and nothing in it is undelivered, as behind a
//! backlog that has drained. To delete a million rows takes PostgreSQL some seconds and leaves a
//! gigabyte of dead ones; this takes some milliseconds and gives the disk its space back.
//!
//! It rests on the table's lock. Whoever holds it alone knows that every transaction that wrote
//! into the table has ended, prepared ones too, so that a look that begins then sees all there will
//! ever be. What is undelivered is found by the same reasoning as a window, through the indexes and
//! however large the table is. Writers wait meanwhile, so the lock is waited for but a moment, and less
//! and less often where it is not to be had.

use std::time::{Duration, Instant};

use tokio_postgres::types::Type;

use super::connection::Connection;
use super::delivered::{self, OutboxShape};
use super::read::Limits;
use super::reading::running;
use super::rows::get;
use crate::error::{ErrorKind, Result};
use crate::failpoint;
use crate::outbox::Delivered;
use crate::postgres::connect::Parameter;
use crate::postgres::failure::is_conflict;
use crate::protocol::position::Position;
use crate::protocol::retry::Backoff;

/// Rows looked at, under the lock, that may be undelivered; with more it is not known whether any is.
const LOOKED_AT: usize = 1000;
const PAUSES: Backoff = Backoff { first: Duration::from_secs(1), limit: Duration::from_secs(60) };

/// When emptying may be tried.
pub(super) struct Truncation {
    limits: Limits,
    failures: u32,
    not_before: Instant,
}

impl Truncation {
    pub(super) fn new(limits: Limits) -> Self {
        Truncation { limits, failures: 0, not_before: Instant::now() }
    }

    /// Empties the table where that is worth it and loses nothing; about how many messages went, None
    /// where they have to be deleted. `delivered` speaks of every shard of the outbox that delivers.
    pub(super) async fn empty(
        &mut self,
        connection: &Connection,
        delivered: &[Delivered],
        outbox: OutboxShape,
    ) -> Result<Option<u64>> {
        if delivered.len() < usize::from(outbox.shards) || Instant::now() < self.not_before {
            return Ok(None);
        }
        let undelivered = undelivered(delivered, outbox, &connection.schema);
        let Some(messages) = self.worth(connection, &undelivered).await? else { return Ok(None) };
        let Err(error) = self.truncate(connection, delivered, &undelivered).await else {
            self.failures = 0;
            return Ok(Some(messages));
        };
        let is_answered = error.kind() != ErrorKind::Unreachable || is_conflict(&error);
        if !is_answered || error.kind() == ErrorKind::Fenced {
            return Err(error);
        }
        // A lock that was not to be had, a message that has come, somebody's foreign key: what can't be
        // emptied now can still be deleted.
        tracing::debug!(%error, "the outbox's table is not emptied at once");
        connection.execute("prune", "rollback").await?;
        self.failures += 1;
        self.not_before = Instant::now() + PAUSES.wait(self.failures, 1.0);
        Ok(None)
    }

    /// Looks without the lock whether the table is large, may be truncated by this user, and seems to
    /// hold nothing undelivered. Returns the number of its messages, as PostgreSQL's statistics have it.
    async fn worth(&self, connection: &Connection, undelivered: &str) -> Result<Option<u64>> {
        let table = format!("{}.outbox", connection.schema);
        let sql = "select case when pg_table_size(t) >= $2 and has_table_privilege(t, 'truncate')
                     then pg_stat_get_live_tuples(t) end
                   from (select $1::text::regclass as t) one";
        let worth = i64::try_from(self.limits.truncate_bytes).unwrap_or(i64::MAX);
        let parameters: [Parameter<'_>; 2] = [(&table, Type::TEXT), (&worth, Type::INT8)];
        let rows = connection.query("prune", sql, &parameters).await?;
        let Some(messages) = rows.first().map(|row| get::<Option<i64>>(row, 0)).transpose()?.flatten() else {
            return Ok(None);
        };
        let look = connection.client.query_typed(undelivered, &[]);
        let rows = connection.alone("prune", &delivered::begin(connection), look).await?;
        let there = rows.first().map(|row| get::<bool>(row, 0)).transpose()?;
        Ok((there == Some(false)).then_some(messages.unsigned_abs()))
    }

    /// From the lock to the commit it is one message to the server: a relay that dies, is paused, or is
    /// far away keeps no writer waiting. The division by zero ends it where anything is undelivered; its
    /// snapshot is younger than the lock, as it is a statement of its own.
    async fn truncate(
        &self,
        connection: &Connection,
        delivered: &[Delivered],
        undelivered: &str,
    ) -> Result<()> {
        connection.execute("prune", &delivered::begin(connection)).await?;
        delivered::check_epochs(connection, delivered).await?;
        delivered::delete_barriers(connection, delivered).await?;
        let truncate = format!(
            "set local lock_timeout = {}; lock table {schema}.outbox in access exclusive mode;
             select 1 / (not ({undelivered}))::int; truncate {schema}.outbox; commit",
            self.limits.truncate_lock_ms,
            schema = connection.schema
        );
        failpoint!("outbox.truncate.before_commit")?;
        connection.execute("prune", &truncate).await?;
        failpoint!("outbox.truncate.after_commit")
    }
}

/// The query whether anything is there that no committed position has passed: of a shard that stands at
/// a finished window, what its snapshot does not see; of one inside a window, also what comes behind its
/// last id there; and whatever is set aside.
fn undelivered(delivered: &[Delivered], outbox: OutboxShape, schema: &str) -> String {
    let (mut xmax, mut last) = (u64::MAX, i64::MAX);
    let mut in_progress = Vec::new();
    for shard in delivered {
        let Position::Snapshots { prev, this, last: up_to } = &shard.position else { continue };
        let seen = this.as_ref().unwrap_or(prev);
        xmax = xmax.min(seen.xmax());
        in_progress.extend(running(seen));
        if this.is_some() {
            last = last.min(*up_to);
        }
    }
    let set_aside = match outbox.has_set_aside {
        true => format!("or exists (select from {schema}.set_aside)"),
        false => String::new(),
    };
    let snapshots: Vec<String> = delivered.iter().flat_map(delivered::snapshots_of).collect();
    // Snapshots hold colons and commas, and nothing that a literal would have to escape.
    let array = format!("'{{\"{}\"}}'", snapshots.join("\",\""));
    let rows = format!("select id, xid, key from {schema}.outbox where");
    format!(
        "select count(*) filter (where ({}) is not true) > 0 or count(*) >= {LOOKED_AT} {set_aside}
         from (({rows} xid >= '{xmax}'::xid8 order by xid limit {LOOKED_AT})
           union all ({rows} xid = any('{{{}}}'::xid8[]) limit {LOOKED_AT})
           union all ({rows} id > {last} order by id limit {LOOKED_AT})) found",
        delivered::condition(delivered, outbox.shards, &array),
        in_progress.join(",")
    )
}
