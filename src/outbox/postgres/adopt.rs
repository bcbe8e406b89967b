//! Makes the table fit for a position that has seen nothing, after the database became another one
//! than before.
//!
//! A dump that was loaded, or a logical copy, brings rows with the transaction numbers of another
//! server. Those that this one has yet to hand out are in no snapshot's sight; those of transactions
//! that run now come later than they should. Both kinds get the number of a transaction of ours, so
//! that the first window has all that is there, in the order of ids.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::connection::Connection;
use super::delivered::OutboxShape;
use super::reading::{last_id_column, shard_expression};
use super::rows::get;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{Epoch, ShardIndex};
use crate::outbox::Contents;
use crate::postgres::connect::{DURABLE, Parameter};
use crate::protocol::position::Position;
use crate::protocol::progress::Progress;
use crate::protocol::snapshot::Snapshot;

const OPERATION: &str = "adopt outbox";
/// One transaction looks at this many rows.
const PIECE_ROWS: u32 = 50_000;

/// Counts what the table holds of a shard. What is set aside stays so, and is not counted.
pub(super) async fn contents(
    connection: &Connection,
    outbox: OutboxShape,
    shard: ShardIndex,
    progress: Option<&Progress>,
) -> Result<Contents> {
    let (schema, none) = (&connection.schema, Snapshot::empty());
    let (prev, this, last) = match progress.map(|progress| &progress.position) {
        Some(Position::Snapshots { prev, this, last }) => {
            (prev, this.as_ref().unwrap_or(prev), this.as_ref().map_or(-1, |_| *last))
        }
        _ => (&none, &none, -1),
    };
    let delivered_in_turn = match outbox.has_set_aside {
        true => format!("and not exists (select from {schema}.set_aside a where a.id = o.id)"),
        false => String::new(),
    };
    let sql = format!(
        "select count(*),
           count(*) filter (where pg_visible_in_snapshot(xid, $1::text::pg_snapshot)
             or (id <= $3 and pg_visible_in_snapshot(xid, $2::text::pg_snapshot))),
           count(*) filter (where xid >= pg_snapshot_xmax(pg_current_snapshot())),
           (extract(epoch from min(created_at)) * 1000)::bigint,
           (extract(epoch from max(created_at)) * 1000)::bigint,
           exists (select from {schema}.barrier
             where shard = {shard} and id is distinct from $4 and counter >= $5)
         from {schema}.outbox o where {} = {shard} {delivered_in_turn}",
        shard_expression(outbox.shards)
    );
    let (prev, seen_up_to) = (prev.to_string(), i64::try_from(this.xmax()).unwrap_or(i64::MAX));
    let (this, barrier) = (this.to_string(), progress.and_then(|progress| progress.barrier));
    let parameters: [Parameter<'_>; 5] = [
        (&prev, Type::TEXT),
        (&this, Type::TEXT),
        (&last, Type::INT8),
        (&barrier, Type::UUID),
        (&seen_up_to, Type::INT8),
    ];
    let rows = connection.query("look at outbox", &sql, &parameters).await?;
    let row = first(&rows)?;
    let unsigned = |index| get::<i64>(row, index).map(|number| u64::try_from(number).unwrap_or(0));
    Ok(Contents {
        messages: unsigned(0)?,
        covered: unsigned(1)?,
        foreign: unsigned(2)?,
        oldest_ms: get(row, 3)?,
        newest_ms: get(row, 4)?,
        is_ahead: get(row, 5)?,
    })
}

/// Sets the sequence, the transaction numbers and the barriers right for the shards `anew`, whose
/// position will have seen nothing. Each step stays true on its own, and may be done again.
pub(super) async fn prepare(
    connection: &Connection,
    shards: u16,
    claimed: &[(ShardIndex, Epoch)],
    anew: &[ShardIndex],
) -> Result<()> {
    let schema = &connection.schema;
    raise_sequence(connection, claimed).await?;
    let sql = format!(
        "select pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text, (select max(id) from {schema}.outbox)
         from pg_current_snapshot() s"
    );
    let rows = connection.query(OPERATION, &sql, &[]).await?;
    let bounds = (get::<String>(first(&rows)?, 0)?, get::<String>(first(&rows)?, 1)?);
    let last_id = get::<Option<i64>>(first(&rows)?, 2)?.unwrap_or(0);
    let mut after = i64::MIN;
    while after < last_id {
        let piece = renumber(connection, shards, claimed, anew, &bounds, after).await?;
        let Some(read_up_to) = piece else { break };
        after = read_up_to;
    }
    // Without them a progress from before can't be believed any more, whoever brings it back.
    let numbers = numbers(anew);
    let sql = format!("delete from {schema}.barrier where shard = any($1)");
    begin(connection, claimed).await?;
    let parameters: [Parameter<'_>; 1] = [(&numbers, Type::INT4_ARRAY)];
    connection.query(OPERATION, &sql, &parameters).await?;
    commit(connection).await
}

/// One piece of the table, behind the id `after`; the id up to which it went, None at the end.
async fn renumber(
    connection: &Connection,
    shards: u16,
    claimed: &[(ShardIndex, Epoch)],
    anew: &[ShardIndex],
    (xmin, xmax): &(String, String),
    after: i64,
) -> Result<Option<i64>> {
    let sql = format!(
        "with piece as (
           select id, xid, key from {0}.outbox where id > $1 order by id limit {PIECE_ROWS}),
         changed as (
           update {0}.outbox o set xid = pg_current_xact_id() from piece p
             where o.id = p.id and (o.xid >= $3::text::xid8
               or (o.xid >= $2::text::xid8 and (select {1} from (select p.key, p.xid) r) = any($4))))
         select max(id) from piece",
        connection.schema,
        shard_expression(shards)
    );
    let numbers = numbers(anew);
    let parameters: [Parameter<'_>; 4] =
        [(&after, Type::INT8), (xmin, Type::TEXT), (xmax, Type::TEXT), (&numbers, Type::INT4_ARRAY)];
    begin(connection, claimed).await?;
    let rows = connection.query(OPERATION, &sql, &parameters).await?;
    commit(connection).await?;
    get(first(&rows)?, 0)
}

/// Sets a sequence that stands below ids in the table to the highest of them.
async fn raise_sequence(connection: &Connection, claimed: &[(ShardIndex, Epoch)]) -> Result<()> {
    let schema = &connection.schema;
    let highest = format!("(select max(id) from {schema}.outbox)");
    let stands_below = format!("{highest} > {}", last_id_column(schema));
    let rows = connection.query(OPERATION, &format!("select {stands_below}"), &[]).await?;
    if get::<Option<bool>>(first(&rows)?, 0)? != Some(true) {
        return Ok(());
    }
    begin(connection, claimed).await?;
    // Nobody publishes meanwhile: a number that was just handed out must not come again.
    connection.execute(OPERATION, &format!("lock table {schema}.outbox in share row exclusive mode")).await?;
    let raise = format!("select setval($1::text::regclass, {highest}) where {stands_below}");
    let sequence = format!("{schema}.outbox_id_seq");
    let parameters: [Parameter<'_>; 1] = [(&sequence, Type::TEXT)];
    connection.query(OPERATION, &raise, &parameters).await?;
    commit(connection).await
}

/// Notes, all at once, that the shards `anew` have been born again and whereto the outbox delivers.
pub(super) async fn note(
    connection: &Connection,
    claimed: &[(ShardIndex, Epoch)],
    anew: &[ShardIndex],
    delivery_id: &str,
) -> Result<()> {
    let (schema, numbers) = (&connection.schema, numbers(anew));
    let sql = format!(
        "with shards as (
           update {schema}.shard set born = true, pruned = false, last_error = null, last_error_at = null
             where shard = any($1))
         update {schema}.installation set delivery_id = $2"
    );
    begin(connection, claimed).await?;
    let parameters: [Parameter<'_>; 2] = [(&numbers, Type::INT4_ARRAY), (&delivery_id, Type::TEXT)];
    connection.query(OPERATION, &sql, &parameters).await?;
    commit(connection).await
}

/// Begins a transaction that holds the shards' rows: who has taken over since keeps what it did.
async fn begin(connection: &Connection, claimed: &[(ShardIndex, Epoch)]) -> Result<()> {
    let schema = &connection.schema;
    let begin = format!("begin isolation level read committed; {}; {DURABLE}", connection.limits());
    connection.execute(OPERATION, &begin).await?;
    let shards: Vec<i32> = claimed.iter().map(|(shard, _)| i32::from(shard.0)).collect();
    let epochs: Vec<i64> = claimed.iter().map(|(_, epoch)| epoch.0).collect();
    let sql = format!(
        "select s.shard from {schema}.shard s
           join unnest($1, $2) as w(shard, epoch) on w.shard = s.shard and w.epoch = s.epoch for update of s"
    );
    let parameters: [Parameter<'_>; 2] = [(&shards, Type::INT4_ARRAY), (&epochs, Type::INT8_ARRAY)];
    if connection.query(OPERATION, &sql, &parameters).await?.len() == claimed.len() {
        return Ok(());
    }
    connection.execute(OPERATION, "rollback").await?;
    Err(Error::new(ErrorKind::Fenced, OPERATION, "a relay has taken a shard meanwhile"))
}

async fn commit(connection: &Connection) -> Result<()> {
    failpoint!("outbox.adopt.before_commit")?;
    connection.execute(OPERATION, "commit").await?;
    failpoint!("outbox.adopt.after_commit")
}

fn numbers(shards: &[ShardIndex]) -> Vec<i32> {
    shards.iter().map(|shard| i32::from(shard.0)).collect()
}

fn first(rows: &[Row]) -> Result<&Row> {
    rows.first().ok_or_else(|| Error::new(ErrorKind::Failed, OPERATION, "PostgreSQL answered without a row"))
}
