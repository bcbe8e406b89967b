//! The two read paths. A small window is one statement whose own snapshot is the window; a backlog
//! is read in bounded pieces after a fresh snapshot. Which one is used is decided by the window's
//! size and not by the planner, which is told to walk the indexes in order: left alone it once took
//! 78 seconds for a piece.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::pin;

use futures_core::Stream as _;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::barrier;
use super::connection::Connection;
use super::glance::glance;
use super::reading::{begin, last_id_column, life_column, running, shard_expression};
use super::rows::{self, Rows, get};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BarrierId, Epoch, ShardIndex};
use crate::message::StoredMessage;
use crate::outbox::{Barrier, Barriers, Batch, READ_BYTES};
use crate::postgres::connect::Parameter;
use crate::protocol::slot::{shard_of, slot};
use crate::protocol::snapshot::Snapshot;
use crate::protocol::window::{Next, Piece, Windows};

/// What a message of the first piece is expected to take.
const ROW_BYTES: usize = 2048;

/// What bounds one read, and so the memory it takes; and from where on pruning goes another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A window with this many messages or more is a backlog, and is read in pieces.
    pub small_window_rows: usize,
    /// Messages in one piece of a backlog.
    pub piece_rows: usize,
    /// Bytes that one read returns, unless a single message has more.
    pub bytes: usize,
    /// Ids that one piece walks over, found or not. After a restart nothing says from which id on a
    /// window's messages are, and a statement over millions of delivered ones would outlive its limit.
    pub walk_ids: i64,
    /// A table of this many bytes is emptied at once where nothing in it is undelivered: below it rows
    /// are deleted as fast.
    pub truncate_bytes: u64,
    /// How long that may wait for the table's lock, while new writers wait behind it.
    pub truncate_lock_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            small_window_rows: 1000,
            piece_rows: 50_000,
            bytes: READ_BYTES,
            walk_ids: 500_000,
            truncate_bytes: 64 * 1024 * 1024,
            truncate_lock_ms: 20,
        }
    }
}

/// Reads for the shards that this connection's relay owns.
pub(super) struct Reader {
    windows: Windows<Barrier>,
    epochs: BTreeMap<ShardIndex, Epoch>,
    shards: u16,
    limits: Limits,
    /// What a message took in the last piece.
    row_bytes: usize,
    /// The last poll found nothing.
    quiet: bool,
}

/// What a piece brought.
struct Found {
    rows: Rows,
    /// The id behind which more may follow; None at the end.
    read_up_to: Option<i64>,
    /// How many ids were handed out behind that one.
    waiting: u64,
}

/// What a transaction that takes a window's snapshot reads first.
struct Begun {
    this: Snapshot,
    /// The last id handed out, read before the barrier draws its transaction number.
    last_id: i64,
}

impl Reader {
    pub(super) fn new(shards: u16, limits: Limits) -> Self {
        Reader {
            windows: Windows::new(shards),
            epochs: BTreeMap::new(),
            shards,
            limits,
            row_bytes: ROW_BYTES,
            quiet: false,
        }
    }

    pub(super) fn add(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        window: (Snapshot, Option<Snapshot>, i64),
        barrier: Barrier,
    ) {
        self.epochs.insert(shard, epoch);
        self.windows.add(shard, window, barrier);
    }

    pub(super) fn remove(&mut self, shard: ShardIndex) {
        self.epochs.remove(&shard);
        self.windows.remove(shard);
    }

    /// One bounded read.
    pub(super) async fn read(&mut self, connection: &Connection) -> Result<Batch> {
        match self.windows.next_read() {
            Next::Nothing => Ok(Batch::default()),
            Next::Poll { prev } => self.poll(connection, &prev).await,
            Next::Open => self.open(connection).await,
            Next::Piece(piece) => self.piece(connection, piece).await,
        }
    }

    /// The small window. The obvious single condition `xid >= … or xid in (…)` took 490 to 7,500 ms
    /// over a backlog; two branches with a limit each take 0.03 ms over any.
    async fn poll(&mut self, connection: &Connection, prev: &Snapshot) -> Result<Batch> {
        let limit = self.limits.small_window_rows;
        let (columns, schema, filter) =
            (rows::columns(), &connection.schema, self.filter(self.epochs.keys()));
        if self.quiet
            && let Some(this) = glance(connection, prev, &filter).await?
        {
            self.windows.polled(this, Vec::new(), &Barriers::new());
            let open = self.windows.has_open();
            return Ok(Batch { chunks: Vec::new(), more: open, backlog: open, waiting: 0 });
        }
        let sql = format!(
            "select {}, {} from (select 1) one left join lateral (
               (select {columns} from {schema}.outbox where xid >= $1::text::xid8 {filter}
                  order by xid limit {limit})
               union all
               (select {columns} from {schema}.outbox where xid = any($2::text[]::xid8[]) {filter}
                  limit {limit})) o on true",
            begun_columns(schema),
            rows::decoded_columns()
        );
        let (xmax, running) = (prev.xmax().to_string(), running(prev));
        let parameters: [Parameter<'_>; 2] = [(&xmax, Type::TEXT), (&running, Type::TEXT_ARRAY)];
        let answer = begin_and_query(connection, &sql, &parameters).await?;
        let begun = begun(connection, &answer)?;
        let found = present(answer, BEGUN_COLUMNS)?;
        let rows = self.decode(&found, BEGUN_COLUMNS)?;
        self.quiet = found.is_empty();
        if found.len() >= limit || rows.cut {
            connection.execute("end poll", "rollback").await?;
            return self.open(connection).await;
        }
        let messages = rows::complete(connection, rows).await?.messages;
        let barriers = self.end_poll(connection, &begun, &messages).await?;
        let chunks = self.windows.polled(begun.this, messages, &barriers);
        let open = self.windows.has_open();
        Ok(Batch { chunks, more: open, backlog: open, waiting: 0 })
    }

    /// Ends a poll's transaction with a barrier for each shard that found something. The others
    /// get none: an idle shard's progress never moves past its barriers, so that no prune would
    /// ever remove them.
    async fn end_poll(
        &mut self,
        connection: &Connection,
        begun: &Begun,
        messages: &[StoredMessage],
    ) -> Result<Barriers> {
        let owner = |row: &StoredMessage| shard_of(slot(row.message.key(), row.transaction), self.shards);
        let found: BTreeSet<ShardIndex> = messages.iter().map(owner).collect();
        let served = self.windows.waiting().into_iter().filter(|shard| found.contains(shard));
        let served: Vec<ShardIndex> = served.collect();
        if served.is_empty() {
            connection.execute("end poll", "commit").await?;
            return Ok(Barriers::new());
        }
        self.commit_barriers(connection, served, begun.last_id).await
    }

    /// Opens a window of a backlog: its snapshot and its barrier, no rows yet.
    async fn open(&mut self, connection: &Connection) -> Result<Batch> {
        let sql = format!("select {}", begun_columns(&connection.schema));
        let answer = begin_and_query(connection, &sql, &[]).await?;
        let begun = begun(connection, &answer)?;
        let waiting = self.windows.waiting();
        let barriers = self.commit_barriers(connection, waiting, begun.last_id).await?;
        self.windows.opened(&begun.this, &barriers);
        Ok(Batch { chunks: Vec::new(), more: true, backlog: true, waiting: 0 })
    }

    async fn commit_barriers(
        &mut self,
        connection: &Connection,
        shards: Vec<ShardIndex>,
        last_id: i64,
    ) -> Result<Barriers> {
        let epochs = shards.iter().filter_map(|shard| Some((*shard, *self.epochs.get(shard)?))).collect();
        let inserted = barrier::insert(connection, &epochs).await?;
        self.windows.note_floor(last_id, inserted.xid);
        barrier::commit(connection, inserted).await
    }

    /// A piece of an open window.
    async fn piece(&mut self, connection: &Connection, piece: Piece) -> Result<Batch> {
        let limit = self.piece_rows();
        let Found { rows, read_up_to, waiting } = match piece.old_up_to {
            Some(floor) => self.rows_up_to(connection, &piece, floor, limit).await?,
            None => self.rows_in_order(connection, &piece, "", limit).await?,
        };
        self.row_bytes = rows.mean_bytes().unwrap_or(self.row_bytes);
        let rows = rows::complete(connection, rows).await?;
        let chunks = self.windows.piece_read(rows.messages, read_up_to);
        let unused: Vec<BarrierId> =
            self.windows.take_unused().iter().filter_map(|barrier| barrier.id).collect();
        if !unused.is_empty() {
            barrier::remove(connection, &unused).await?;
        }
        Ok(Batch { chunks, more: true, backlog: true, waiting })
    }

    /// As many rows as fit, should they be like those before: what does not fit is read in vain.
    fn piece_rows(&self) -> usize {
        (self.limits.bytes / self.row_bytes).clamp(1, self.limits.piece_rows)
    }

    fn decode(&self, found: &[Row], first: usize) -> Result<Rows> {
        let mut rows = Rows::new(self.limits.bytes);
        found.iter().try_for_each(|row| rows.push(row, first))?;
        Ok(rows)
    }

    /// The rows of the window at or below its floor: those of transactions that were in progress
    /// at `prev`. They are few as a rule, and found by their transactions: a walk by id would pass
    /// over all the dead rows that the floor is there to avoid. Only where they are many they are
    /// walked to, so that a piece never sorts them all.
    async fn rows_up_to(
        &self,
        connection: &Connection,
        piece: &Piece,
        floor: i64,
        limit: usize,
    ) -> Result<Found> {
        let (columns, schema, filter) =
            (rows::columns(), &connection.schema, self.filter(&self.windows.served()));
        // `id + 0` can't be looked up, which leaves the index on xid.
        let sql = format!(
            "select {}, {} from (select 1) one left join lateral (
               select {columns} from {schema}.outbox where xid = any($1::text[]::xid8[])
                 and id + 0 > $2 and id + 0 <= $3 and pg_visible_in_snapshot(xid, $4::text::pg_snapshot)
                 {filter} limit {limit}) o on true",
            life_column(schema),
            rows::decoded_columns()
        );
        let (running, this) = (running(&piece.prev), piece.this.to_string());
        let parameters: [Parameter<'_>; 4] = [
            (&running, Type::TEXT_ARRAY),
            (&piece.after, Type::INT8),
            (&floor, Type::INT8),
            (&this, Type::TEXT),
        ];
        let found = query_alone(connection, &sql, &parameters).await?;
        if found.len() < limit {
            let rows = self.decode(&found, 1)?;
            let read_up_to = rows.last_id().filter(|_| rows.cut);
            return Ok(Found { rows, read_up_to, waiting: 0 });
        }
        let only = format!("and xid = any($4::text[]::xid8[]) and id <= {floor}");
        let found = self.rows_in_order(connection, piece, &only, limit).await?;
        Ok(Found { read_up_to: found.read_up_to.filter(|id| *id < floor), ..found })
    }

    /// Rows of the window by id. It filters by the window's snapshot and not by what is visible
    /// when it is read: a commit between two pieces was delivered twice.
    async fn rows_in_order(
        &self,
        connection: &Connection,
        piece: &Piece,
        only: &str,
        limit: usize,
    ) -> Result<Found> {
        let (columns, schema, filter) =
            (rows::columns(), &connection.schema, self.filter(&self.windows.served()));
        let walk_up_to = piece.after.saturating_add(self.limits.walk_ids);
        // The last id handed out is read after the window's snapshot was taken, which sees none above.
        let sql = format!(
            "select {}, {}, {} from (select 1) one left join lateral (
               select {columns} from {schema}.outbox where id > $1 and id <= $5
                 and pg_visible_in_snapshot(xid, $2::text::pg_snapshot)
                 and not pg_visible_in_snapshot(xid, $3::text::pg_snapshot)
                 {only} {filter}
                 order by id limit {limit}) o on true",
            life_column(schema),
            last_id_column(schema),
            rows::decoded_columns()
        );
        let running = running(&piece.prev);
        let (this, prev) = (piece.this.to_string(), piece.prev.to_string());
        let parameters: [Parameter<'_>; 5] = [
            (&piece.after, Type::INT8),
            (&this, Type::TEXT),
            (&prev, Type::TEXT),
            (&running, Type::TEXT_ARRAY),
            (&walk_up_to, Type::INT8),
        ];
        let mut rows = Rows::new(self.limits.bytes);
        let answer = decode_alone(connection, &sql, &parameters, &mut rows).await?;
        let read_up_to = if rows.cut || answer.rows >= limit {
            rows.last_id()
        } else {
            (walk_up_to < answer.last_id).then_some(walk_up_to)
        };
        let waiting = read_up_to.map_or(0, |read| answer.last_id.saturating_sub(read).max(0).unsigned_abs());
        Ok(Found { rows, read_up_to, waiting })
    }

    /// Leaves the rows of other shards in the database. Where there are none it costs nothing.
    fn filter<'a>(&self, shards: impl IntoIterator<Item = &'a ShardIndex>) -> String {
        let own: Vec<String> = shards.into_iter().map(ToString::to_string).collect();
        if own.len() == usize::from(self.shards) {
            return String::new();
        }
        format!("and {} = any('{{{}}}')", shard_expression(self.shards), own.join(","))
    }
}

/// How many columns [`begun_columns`] are.
const BEGUN_COLUMNS: usize = 3;

fn begun_columns(schema: &str) -> String {
    format!("{}, {}, pg_current_snapshot()::text", life_column(schema), last_id_column(schema))
}

fn begun(connection: &Connection, answer: &[Row]) -> Result<Begun> {
    let first = answer.first().ok_or_else(no_answer)?;
    connection.check_life(get(first, 0)?)?;
    Ok(Begun { last_id: get(first, 1)?, this: get::<String>(first, 2)?.parse()? })
}

/// Begins a transaction and runs its first query in the same round trip.
async fn begin_and_query(
    connection: &Connection,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>> {
    let client = &connection.client;
    let begin = begin(connection);
    let both =
        async { tokio::try_join!(biased; client.batch_execute(&begin), client.query_typed(sql, parameters)) };
    connection.request("read outbox", both).await.map(|(_, rows)| rows)
}

/// Runs a query in a transaction that ends with it: a piece is never held open while waiting for
/// Kafka, since that would hold back the vacuum of every table. The first column is the
/// server's life; returns the outbox's rows behind it, by id.
async fn query_alone(connection: &Connection, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
    let query = connection.client.query_typed(sql, parameters);
    let answer = connection.alone("read outbox", &begin(connection), query).await?;
    connection.check_life(get(answer.first().ok_or_else(no_answer)?, 0)?)?;
    present(answer, 1)
}

/// The same for rows that come in order: each is decoded as it comes, so that they are in memory
/// only once. The second column is the last id handed out.
async fn decode_alone(
    connection: &Connection,
    sql: &str,
    parameters: &[Parameter<'_>],
    rows: &mut Rows,
) -> Result<Answer> {
    let client = &connection.client;
    let mut found = None;
    let mut decoded = Ok(());
    let reading = async {
        let parameters = parameters.iter().map(|(value, kind)| (*value, kind.clone()));
        let mut answer = pin!(client.query_typed_raw(sql, parameters).await?);
        while let Some(row) = poll_fn(|context| answer.as_mut().poll_next(context)).await {
            let row = row?;
            if decoded.is_ok() {
                decoded = take(connection, &row, rows, &mut found);
            }
        }
        Ok(())
    };
    connection.alone("read outbox", &begin(connection), reading).await?;
    decoded?;
    found.ok_or_else(no_answer)
}

/// What [`decode_alone`] was answered.
struct Answer {
    rows: usize,
    last_id: i64,
}

fn take(connection: &Connection, row: &Row, rows: &mut Rows, found: &mut Option<Answer>) -> Result<()> {
    let found = match found {
        Some(found) => found,
        None => {
            connection.check_life(get(row, 0)?)?;
            found.insert(Answer { rows: 0, last_id: get(row, 1)? })
        }
    };
    if get::<Option<i64>>(row, 2)?.is_none() {
        return Ok(());
    }
    found.rows += 1;
    rows.push(row, 2)
}

/// The rows of a left join that found any, by id; the id is at column `first`.
fn present(answer: Vec<Row>, first: usize) -> Result<Vec<Row>> {
    let mut found = Vec::with_capacity(answer.len());
    for row in answer {
        if let Some(id) = get::<Option<i64>>(&row, first)? {
            found.push((id, row));
        }
    }
    found.sort_by_key(|(id, _)| *id);
    Ok(found.into_iter().map(|(_, row)| row).collect())
}

fn no_answer() -> Error {
    Error::new(ErrorKind::Failed, "read outbox", "PostgreSQL answered without a row")
}
