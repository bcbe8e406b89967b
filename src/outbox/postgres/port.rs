//! The outbox port on PostgreSQL.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::types::Type;

use super::connection::Connection;
use super::init;
use super::prune::Walk;
use super::read::{ReadLimits, Reader, last_id_column, shard_expression};
use super::rows::get;
use crate::config::PostgresUrl;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{BarrierId, Epoch, ShardIndex};
use crate::outbox::{
    Backlog, Barrier, Batch, Delivered, Installation, Outbox, OutboxSource, Pruned, ShardRow,
};
use crate::postgres::connect::{Parameter, limited};
use crate::postgres::quoted;
use crate::protocol::position::Position;
use crate::protocol::progress::DatabaseIdentity;

/// Connects to the outbox in one PostgreSQL database.
#[derive(Clone)]
pub struct PostgresSource {
    /// `postgresql://user@host:port/database`.
    pub url: PostgresUrl,
    /// The schema's name, `onecommit` unless configured.
    pub schema: String,
    /// How long any one request may take.
    pub request_limit: Duration,
}

impl PostgresSource {
    /// A fresh connection that reads with other limits than the default.
    pub async fn connect_with(&self, limits: ReadLimits) -> Result<Box<dyn Outbox>> {
        let connection = Connection::open(&self.url, &quoted(&self.schema), self.request_limit).await?;
        let read = init::read(&**connection.client, &self.schema);
        let found = limited(self.request_limit, "open outbox", read).await?.ok_or_else(not_initialized)?;
        check_columns(&connection).await?;
        check_sequence(&connection).await?;
        Ok(Box::new(PostgresOutbox {
            reader: Reader::new(found.shards, limits),
            connection,
            schema: self.schema.clone(),
            shards: found.shards,
            walk: Walk::new(),
            unfinished: false,
        }))
    }
}

impl fmt::Debug for PostgresSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PostgresSource");
        shown.field("url", &self.url).field("schema", &self.schema);
        shown.field("request_limit", &self.request_limit).finish()
    }
}

#[async_trait]
impl OutboxSource for PostgresSource {
    async fn connect(&self) -> Result<Box<dyn Outbox>> {
        self.connect_with(ReadLimits::default()).await
    }

    async fn init(&self, wanted: &Installation) -> Result<Installation> {
        let init = init::init(&self.url, &self.schema, wanted, self.request_limit);
        limited(self.request_limit, "init outbox", init).await
    }

    async fn found(&self) -> Result<Option<Installation>> {
        let found = init::found(&self.url, &self.schema, self.request_limit);
        limited(self.request_limit, "open outbox", found).await
    }
}

struct PostgresOutbox {
    connection: Connection,
    reader: Reader,
    schema: String,
    shards: u16,
    walk: Walk,
    /// A read or a prune has begun, and not ended well: the transaction it left open could give
    /// the next window a barrier older than its snapshot.
    unfinished: bool,
}

#[async_trait]
impl Outbox for PostgresOutbox {
    async fn identity(&mut self) -> Result<DatabaseIdentity> {
        self.connection.identity().await
    }

    async fn installation(&mut self) -> Result<Installation> {
        let read = init::read(&**self.connection.client, &self.schema);
        let found = limited(self.connection.request_limit(), "open outbox", read).await?;
        found.ok_or_else(not_initialized)
    }

    async fn shard(&mut self, shard: ShardIndex) -> Result<ShardRow> {
        let sql = format!(
            "select epoch, born, pruned, last_error,
               (extract(epoch from last_error_at) * 1000)::bigint from {}.shard where shard = $1",
            self.connection.schema
        );
        let number = i32::from(shard.0);
        let parameters: &[Parameter<'_>] = &[(&number, Type::INT4)];
        let rows = self.connection.query("read shard", &sql, parameters).await?;
        let row = rows.first().ok_or_else(|| {
            let why = "the outbox has no row for this shard: its number of shards was changed by hand";
            Error::new(ErrorKind::Refused, "read shard", why).with("shard", shard)
        })?;
        let error = get::<Option<String>>(row, 3)?.zip(get::<Option<i64>>(row, 4)?);
        Ok(ShardRow {
            epoch: Epoch(get(row, 0)?),
            born: get(row, 1)?,
            pruned: get(row, 2)?,
            last_error: error,
        })
    }

    async fn claim(&mut self, shard: ShardIndex, epoch: Epoch) -> Result<()> {
        failpoint!("outbox.claim.before_commit")?;
        self.write_shard("claim shard", "epoch = $2", "epoch <= $2", shard, epoch, None).await?;
        failpoint!("outbox.claim.after_commit")
    }

    async fn note_birth(&mut self, shard: ShardIndex, epoch: Epoch) -> Result<()> {
        failpoint!("outbox.birth.before_commit")?;
        self.write_shard("note birth", "born = true", "epoch = $2", shard, epoch, None).await?;
        failpoint!("outbox.birth.after_commit")
    }

    async fn note_error(&mut self, shard: ShardIndex, epoch: Epoch, error: Option<&str>) -> Result<()> {
        let set = "last_error = $3, last_error_at = case when $3 is not null then clock_timestamp() end";
        failpoint!("outbox.note_error.before_commit")?;
        self.write_shard("note error", set, "epoch = $2", shard, epoch, error).await?;
        failpoint!("outbox.note_error.after_commit")
    }

    async fn has_barrier(&mut self, shard: ShardIndex, barrier: BarrierId) -> Result<bool> {
        let sql = format!("select 1 from {}.barrier where id = $1 and shard = $2", self.connection.schema);
        let number = i32::from(shard.0);
        let parameters: [Parameter<'_>; 2] = [(&barrier.0, Type::UUID), (&number, Type::INT4)];
        let parameters = &parameters;
        Ok(!self.connection.query("read barrier", &sql, parameters).await?.is_empty())
    }

    fn origin(&self) -> Position {
        Position::before_any_snapshot()
    }

    fn add(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        position: &Position,
        barrier: Option<BarrierId>,
    ) -> Result<()> {
        let Position::Snapshots { prev, this, last } = position else {
            return Err(wrong_position(shard));
        };
        let window = (prev.clone(), this.clone(), *last);
        self.reader.add(shard, epoch, window, Barrier::durable(barrier));
        Ok(())
    }

    fn remove(&mut self, shard: ShardIndex) {
        self.reader.remove(shard);
    }

    async fn read(&mut self) -> Result<Batch> {
        self.begin("read outbox")?;
        let batch = self.reader.read(&self.connection).await?;
        self.unfinished = false;
        Ok(batch)
    }

    async fn prune(&mut self, delivered: &[Delivered], limit: u32) -> Result<Pruned> {
        let ready: Vec<Delivered> =
            delivered.iter().filter(|shard| shard.barrier.is_some()).cloned().collect();
        if ready.is_empty() {
            return Ok(Pruned { messages: 0, all: true });
        }
        if let Some(wrong) = ready.iter().find(|one| !matches!(one.position, Position::Snapshots { .. })) {
            return Err(wrong_position(wrong.shard));
        }
        self.begin("prune")?;
        let pruned = self.walk.prune(&self.connection, &ready, self.shards, limit).await?;
        self.unfinished = false;
        Ok(pruned)
    }

    async fn backlog(&mut self, shard: ShardIndex, position: &Position) -> Result<Backlog> {
        let Position::Snapshots { prev, this, last } = position else {
            return Err(wrong_position(shard));
        };
        let sql = format!(
            "select count(*), coalesce((extract(epoch from clock_timestamp() - min(created_at)) * 1000)::bigint, 0)
             from {}.outbox where not pg_visible_in_snapshot(xid, $1::text::pg_snapshot)
               and not (id <= $3 and pg_visible_in_snapshot(xid, $2::text::pg_snapshot))
               and {} = {shard}",
            self.connection.schema,
            shard_expression(self.shards)
        );
        let (prev, this, last) = (
            prev.to_string(),
            this.as_ref().unwrap_or(prev).to_string(),
            this.as_ref().map_or(-1, |_| *last),
        );
        let parameters: [Parameter<'_>; 3] = [(&prev, Type::TEXT), (&this, Type::TEXT), (&last, Type::INT8)];
        let parameters = &parameters;
        let rows = self.connection.query("count backlog", &sql, parameters).await?;
        let row = rows.first().ok_or_else(|| Error::new(ErrorKind::Failed, "count backlog", "no answer"))?;
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(Backlog { messages: unsigned(get(row, 0)?), oldest_ms: unsigned(get(row, 1)?) })
    }
}

impl PostgresOutbox {
    fn begin(&mut self, operation: &'static str) -> Result<()> {
        if std::mem::replace(&mut self.unfinished, true) {
            let why = "an earlier read or prune on this connection failed or was given up: open another";
            return Err(Error::new(ErrorKind::Unclear, operation, why));
        }
        Ok(())
    }

    /// Writes the shard's row where `condition` holds; `Fenced` where it does not. `$2` is the
    /// epoch, `$3` a text.
    async fn write_shard(
        &self,
        operation: &'static str,
        set: &str,
        condition: &str,
        shard: ShardIndex,
        epoch: Epoch,
        text: Option<&str>,
    ) -> Result<()> {
        let sql =
            format!("update {}.shard set {set} where shard = $1 and {condition}", self.connection.schema);
        let number = i32::from(shard.0);
        let parameters: [Parameter<'_>; 3] =
            [(&number, Type::INT4), (&epoch.0, Type::INT8), (&text, Type::TEXT)];
        let begin = format!("begin; {}", self.connection.limits());
        let written = self.connection.client.execute_typed(&sql, &parameters);
        if self.connection.alone(operation, &begin, written).await? == 1 {
            return Ok(());
        }
        let why = "another relay has taken over";
        Err(Error::new(ErrorKind::Fenced, operation, why).with("shard", shard).with("epoch", epoch))
    }
}

/// Checks what the reader relies on: xid drawn before id, and ids handed out one by one (with a
/// cache of 32 ids were out of order even among writers that excluded each other).
async fn check_columns(connection: &Connection) -> Result<()> {
    let sql = "select s.seqcache = 1 and x.attnum < i.attnum
         and pg_get_expr(d.adbin, d.adrelid) = 'pg_current_xact_id()'
       from pg_attribute x
       join pg_attribute i on i.attrelid = x.attrelid and i.attname = 'id'
       join pg_attrdef d on d.adrelid = x.attrelid and d.adnum = x.attnum
       join pg_sequence s on s.seqrelid = pg_get_serial_sequence($1, 'id')::regclass
       where x.attrelid = $1::text::regclass and x.attname = 'xid'";
    let table = format!("{}.outbox", connection.schema);
    let parameters: &[Parameter<'_>] = &[(&table, Type::TEXT)];
    if holds(connection, sql, parameters).await? {
        return Ok(());
    }
    let why = "the outbox's table was changed by hand: its column xid must stand before id, with \
               pg_current_xact_id() as default, and the sequence of id must have CACHE 1; \
               otherwise messages would be lost or reordered";
    Err(Error::new(ErrorKind::Refused, "check outbox", why).with("table", table))
}

/// Checks that no id will come again, nor one below those that were read. Only what lies above the
/// sequence is looked for: the highest id of all was searched among dead rows, at each connection.
async fn check_sequence(connection: &Connection) -> Result<()> {
    let schema = &connection.schema;
    let sql =
        format!("select (select max(id) from {schema}.outbox where id > {}) is null", last_id_column(schema));
    if holds(connection, &sql, &[]).await? {
        return Ok(());
    }
    let why = "the outbox's sequence was changed by hand: it stands below ids that are in the table, \
               so that messages would be lost; set it to the highest id in the table or above";
    Err(Error::new(ErrorKind::Refused, "check outbox", why)
        .with("sequence", format!("{schema}.outbox_id_seq")))
}

async fn holds(connection: &Connection, sql: &str, parameters: &[Parameter<'_>]) -> Result<bool> {
    let rows = connection.query("check outbox", sql, parameters).await?;
    Ok(rows.first().map(|row| get::<bool>(row, 0)).transpose()? == Some(true))
}

fn not_initialized() -> Error {
    let why = "the outbox is not set up in this database: run `onecommit init`";
    Error::new(ErrorKind::Configuration, "open outbox", why)
}

fn wrong_position(shard: ShardIndex) -> Error {
    let why = "the progress was written for another kind of database";
    Error::new(ErrorKind::Refused, "read outbox", why).with("shard", shard)
}
