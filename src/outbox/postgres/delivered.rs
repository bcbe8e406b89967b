//! What a committed progress covers, in SQL, and the transaction in which that may go: by visibility and
//! never by id alone, which deleted a late commit that was never delivered; and only while the shards'
//! epochs and the barriers that the progress names are those of this database.

use tokio_postgres::types::Type;

use super::connection::Connection;
use super::reading::shard_expression;
use crate::error::{Error, ErrorKind, Result};
use crate::outbox::Delivered;
use crate::postgres::connect::Parameter;
use crate::protocol::position::Position;

/// What a crash takes back of it is pruned again.
const BEGIN: &str = "begin isolation level read committed; \
    set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off; \
    set local jit = off; set local synchronous_commit = off";

/// What decides, beside the positions, which rows may go.
#[derive(Clone, Copy)]
pub(super) struct OutboxShape {
    pub(super) shards: u16,
    /// Whether there is a table of messages that are set aside, which stay.
    pub(super) has_set_aside: bool,
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
