//! The outbox port on PostgreSQL.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::types::Type;

use super::connection::Connection;
use super::delivered::OutboxShape;
use super::prune::{self, Walk};
use super::read::{Limits, Reader};
use super::reading::last_id_column;
use super::rows::get;
use super::truncate::Truncation;
use super::{adopt, backlog, init, remove};
use super::{dead_letters, set_aside};
use crate::config::PostgresUrl;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{BarrierId, Epoch, MessageId, ParticipantName, ShardIndex};
use crate::message::StoredMessage;
use crate::outbox::{
    AsideCounts, Asked, Backlog, Barrier, Batch, Contents, DeadLetter, Delivered, Due, HeldTopic,
    Installation, Outbox, OutboxSource, Pruned, Recorded, Request, Resumed, SET_ASIDE_SINCE, Selection,
    SetAside, ShardRow, Voucher, tables_too_old,
};
use crate::postgres::connect::{Parameter, limited};
use crate::postgres::quoted;
use crate::protocol::position::Position;
use crate::protocol::progress::{DatabaseIdentity, Progress};
use crate::protocol::sieve::Aside;

/// Connects to the outbox in one PostgreSQL database.
#[derive(Clone)]
pub struct PostgresSource {
    /// `postgresql://user@host:port/database`.
    pub url: PostgresUrl,
    /// The schema's name, `onecommit` unless configured.
    pub schema: String,
    /// How long any one request may take.
    pub request_limit: Duration,
    /// What bounds a read, and when pruning empties the table.
    pub limits: Limits,
}

impl PostgresSource {
    async fn open(&self) -> Result<(PostgresOutbox, ParticipantName)> {
        let connection = Connection::open(&self.url, &quoted(&self.schema), self.request_limit).await?;
        let read = init::read(&**connection.client, &self.schema);
        let found = limited(self.request_limit, "open outbox", read).await?.ok_or_else(not_initialized)?;
        let shards = found.installation.shards;
        check_columns(&connection).await?;
        let outbox = PostgresOutbox {
            reader: Reader::new(shards, self.limits),
            connection,
            schema: self.schema.clone(),
            version: found.version,
            shards,
            walk: Walk::new(Truncation::new(self.limits)),
            unfinished: false,
        };
        Ok((outbox, found.installation.participant))
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
        let (outbox, participant) = self.open().await?;
        check_sequence(&outbox.connection, &participant).await?;
        check_numbers(&outbox.connection, &participant).await?;
        Ok(Box::new(outbox))
    }

    async fn connect_to_adopt(&self) -> Result<Box<dyn Outbox>> {
        Ok(Box::new(self.open().await?.0))
    }

    async fn init(&self, wanted: &Installation) -> Result<Installation> {
        let init = init::init(&self.url, &self.schema, wanted, self.request_limit);
        limited(self.request_limit, "init outbox", init).await
    }

    async fn remove(&self) -> Result<()> {
        let removed = remove::remove(&self.url, &self.schema, self.request_limit);
        limited(self.request_limit, "remove outbox", removed).await
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
    /// Of the tables, when the connection was opened.
    version: i32,
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
        Ok(found.ok_or_else(not_initialized)?.installation)
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
        self.reader.add(shard, epoch, window, Barrier::inherited(barrier));
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
        let outbox = OutboxShape { shards: self.shards, has_set_aside: !self.is_old() };
        let pruned = self.walk.prune(&self.connection, &ready, outbox, limit).await?;
        self.unfinished = false;
        Ok(pruned)
    }

    fn hold(&mut self, above: Option<i64>) {
        self.walk.hold(above);
    }

    async fn has_proofs(&mut self, within: Duration) -> Result<bool> {
        self.begin("prune")?;
        let found = prune::has_proofs(&self.connection, within).await?;
        self.unfinished = false;
        Ok(found)
    }

    async fn backlog(&mut self, shard: ShardIndex, position: &Position) -> Result<Backlog> {
        let Position::Snapshots { prev, this, last } = position else {
            return Err(wrong_position(shard));
        };
        backlog::count(&self.connection, self.shards, shard, (prev, this.as_ref(), *last)).await
    }

    async fn contents(&mut self, shard: ShardIndex, progress: Option<&Progress>) -> Result<Contents> {
        let outbox = OutboxShape { shards: self.shards, has_set_aside: !self.is_old() };
        adopt::contents(&self.connection, outbox, shard, progress).await
    }

    async fn prepare_adoption(&mut self, claimed: &[(ShardIndex, Epoch)], anew: &[ShardIndex]) -> Result<()> {
        adopt::prepare(&self.connection, self.shards, claimed, anew).await
    }

    async fn note_adoption(
        &mut self,
        claimed: &[(ShardIndex, Epoch)],
        anew: &[ShardIndex],
        delivery_id: &str,
    ) -> Result<()> {
        adopt::note(&self.connection, claimed, anew, delivery_id).await
    }
}

#[async_trait]
impl SetAside for PostgresOutbox {
    async fn resume(&mut self, shard: ShardIndex, epoch: Epoch, progress: &Progress) -> Result<Resumed> {
        if self.is_old() {
            let named = progress.barrier();
            let voucher = match named {
                Some(named) => Some(set_aside::voucher_of(&self.connection, "take shard", named).await?),
                None => None,
            };
            return Ok(Resumed { voucher, ..Resumed::default() });
        }
        self.begin("resume set-aside messages")?;
        let resumed = set_aside::resume(&self.connection, shard, epoch, progress).await?;
        self.unfinished = false;
        Ok(resumed)
    }

    async fn set_aside(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        asides: &[Aside],
        held: &[HeldTopic],
    ) -> Result<Recorded> {
        if self.is_old() && !(asides.is_empty() && held.is_empty()) {
            return Err(tables_too_old("set messages aside"));
        }
        self.begin("set messages aside")?;
        let recorded = set_aside::set_aside(&self.connection, shard, epoch, asides, held).await?;
        self.unfinished = false;
        Ok(recorded)
    }

    async fn asked(&mut self, shard: ShardIndex) -> Result<Asked> {
        if self.is_old() { Ok(Asked::default()) } else { set_aside::asked(&self.connection, shard).await }
    }

    async fn due(&mut self, shard: ShardIndex, held: &[String], limit: u32) -> Result<Vec<Due>> {
        if self.is_old() {
            return Ok(Vec::new());
        }
        set_aside::due(&self.connection, shard, held, limit).await
    }

    async fn clear(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        cleared: &[MessageId],
        released: &[String],
    ) -> Result<Voucher> {
        self.begin("clear set-aside messages")?;
        let voucher = set_aside::clear(&self.connection, shard, epoch, cleared, released).await?;
        self.unfinished = false;
        Ok(voucher)
    }

    async fn dead_letters(&mut self, selection: &Selection, limit: u32) -> Result<Vec<DeadLetter>> {
        self.refuse_old("list dead letters")?;
        dead_letters::list(&self.connection, selection, limit).await
    }

    async fn message_set_aside(&mut self, message_id: MessageId) -> Result<Option<StoredMessage>> {
        self.refuse_old("read dead letter")?;
        dead_letters::message(&self.connection, message_id).await
    }

    async fn ask(&mut self, selection: &Selection, request: Request) -> Result<u64> {
        self.refuse_old("ask for dead letters")?;
        dead_letters::ask(&self.connection, selection, request).await
    }

    async fn declare_topic(&mut self, topic: &str, dead: bool) -> Result<bool> {
        self.refuse_old("declare topic dead")?;
        dead_letters::declare_topic(&self.connection, topic, dead).await
    }

    async fn count_set_aside(&mut self, shard: ShardIndex) -> Result<AsideCounts> {
        if self.is_old() {
            return Ok(AsideCounts::default());
        }
        dead_letters::count(&self.connection, shard).await
    }
}

impl PostgresOutbox {
    /// Whether the tables can't hold anything that is set aside.
    fn is_old(&self) -> bool {
        self.version < SET_ASIDE_SINCE
    }

    fn refuse_old(&self, operation: &'static str) -> Result<()> {
        if self.is_old() { Err(tables_too_old(operation)) } else { Ok(()) }
    }

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
async fn check_sequence(connection: &Connection, participant: &ParticipantName) -> Result<()> {
    let schema = &connection.schema;
    let sql =
        format!("select (select max(id) from {schema}.outbox where id > {}) is null", last_id_column(schema));
    if holds(connection, &sql, &[]).await? {
        return Ok(());
    }
    let why = format!(
        "the outbox's sequence was changed by hand: it stands below ids that are in the table, so that \
         messages would be lost. Set it to the highest id in the table or above, or let `onecommit adopt \
         {participant}` do it"
    );
    Err(Error::new(ErrorKind::Refused, "check outbox", why)
        .with("sequence", format!("{schema}.outbox_id_seq")))
}

/// Checks that no row has a transaction number that this server has yet to hand out: no snapshot would
/// see it before then. A row that this statement sees and that was written here is below its xmax.
async fn check_numbers(connection: &Connection, participant: &ParticipantName) -> Result<()> {
    let schema = &connection.schema;
    // By the index, from there on: looked for in any order, it was looked for in the whole table.
    let sql = format!(
        "select (select xid from {schema}.outbox where xid >= pg_snapshot_xmax(pg_current_snapshot())
           order by xid limit 1) is null"
    );
    if holds(connection, &sql, &[]).await? {
        return Ok(());
    }
    let why = format!(
        "messages in the outbox have transaction numbers that this server has yet to hand out: they were \
         loaded from another one, and would wait for as long. Take them as they are: `onecommit adopt \
         {participant}`"
    );
    Err(Error::new(ErrorKind::Refused, "check outbox", why).with("table", format!("{schema}.outbox")))
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
    let why = "the progress was written for another kind of database. Restore what was there; or \
               `onecommit adopt` with the participant's name";
    Error::new(ErrorKind::Refused, "read outbox", why).with("shard", shard)
}
