//! What waits in a shard, counted with a bounded effort: millions may wait, and more may be delivered
//! or dead and not gone yet. What a snapshot does not see is found by its transaction, where none of
//! those lies; what is left of an open window by its ids, a bounded number of them.

use tokio_postgres::types::Type;

use super::connection::Connection;
use super::reading::{begin, last_id_column, shard_expression};
use super::rows::get;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ShardIndex;
use crate::outbox::Backlog;
use crate::postgres::connect::Parameter;
use crate::protocol::snapshot::Snapshot;

/// Rows that are looked at for all shards together; for one shard between the two bounds.
const ROWS_ALL: u64 = 400_000;
const ROWS: (u64, u64) = (10_000, 200_000);
/// Ids that are walked over behind the last one delivered of an open window.
const WALK_IDS: i64 = 500_000;

/// Counts what a shard at a position has not delivered yet.
pub(super) async fn count(
    connection: &Connection,
    shards: u16,
    shard: ShardIndex,
    (prev, this, last): (&Snapshot, Option<&Snapshot>, i64),
) -> Result<Backlog> {
    let limit = (ROWS_ALL / u64::from(shards.max(1))).clamp(ROWS.0, ROWS.1);
    let seen = this.unwrap_or(prev);
    let sql = sql(&connection.schema, shards, shard, limit, this.is_some());
    let running: Vec<String> = seen.in_progress().iter().map(u64::to_string).collect();
    let (xmax, seen, prev) = (seen.xmax().to_string(), seen.to_string(), prev.to_string());
    let walk_up_to = last.saturating_add(WALK_IDS);
    let parameters: [Parameter<'_>; 6] = [
        (&xmax, Type::TEXT),
        (&running, Type::TEXT_ARRAY),
        (&last, Type::INT8),
        (&walk_up_to, Type::INT8),
        (&seen, Type::TEXT),
        (&prev, Type::TEXT),
    ];
    let given = if this.is_some() { &parameters[..] } else { &parameters[..2] };
    let counting = connection.client.query_typed(&sql, given);
    let rows = connection.alone("count backlog", &begin(connection), counting).await?;
    let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Failed, "count backlog", "no answer"))?;
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(Backlog { messages: unsigned(get(row, 0)?), oldest_ms: unsigned(get(row, 1)?), more: get(row, 2)? })
}

/// The age is that of the oldest one found. Where none of the shard's is among those looked at, they
/// are younger than all of these, and the youngest of these says how old they are at most.
fn sql(schema: &str, shards: u16, shard: ShardIndex, limit: u64, open: bool) -> String {
    let looked_at = format!(
        "select created_at, xid, {} = {shard} as mine from {schema}.outbox where",
        shard_expression(shards)
    );
    let (window, rest, cut) = if open {
        (
            format!(
                ", window_rows as materialized (
                   {looked_at} id > $3 and id <= $4 order by id limit {limit})"
            ),
            "union all select created_at, mine from window_rows
               where pg_visible_in_snapshot(xid, $5::text::pg_snapshot)
                 and not pg_visible_in_snapshot(xid, $6::text::pg_snapshot)",
            format!("or (select count(*) from window_rows) = {limit} or $4 < {}", last_id_column(schema)),
        )
    } else {
        (String::new(), "", String::new())
    };
    format!(
        "with unseen as materialized ({looked_at} xid >= $1::text::xid8 order by xid limit {limit}),
           late as materialized ({looked_at} xid = any($2::text[]::xid8[]) limit {limit}){window},
           waiting as (select created_at, mine from unseen union all select created_at, mine from late {rest}),
           bounds as (select (select count(*) from unseen) = {limit}
             or (select count(*) from late) = {limit} {cut} as more)
         select count(*) filter (where mine),
           coalesce((extract(epoch from clock_timestamp() - coalesce(
             min(created_at) filter (where mine),
             case when more then max(created_at) end)) * 1000)::bigint, 0), more
         from bounds left join waiting on true group by more"
    )
}
