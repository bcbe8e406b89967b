//! The outbox port on SQLite.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, ToSql, params};

use super::adopt;
use super::init::{self, SHARD};
use super::prune;
use super::read::{self, Rows};
use super::{dead_letters, remove, set_aside};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{BarrierId, Epoch, MessageId, ShardIndex};
use crate::message::StoredMessage;
use crate::outbox::{
    AsideCounts, Asked, Backlog, Barrier, Batch, Chunk, Contents, DeadLetter, Delivered, Due, HeldTopic,
    Installation, Outbox, OutboxSource, Pruned, Recorded, Request, Resumed, SET_ASIDE_SINCE, Selection,
    SetAside, ShardRow, Voucher, tables_too_old,
};
use crate::protocol::position::Position;
use crate::protocol::progress::{DatabaseIdentity, Progress};
use crate::protocol::sieve::Aside;
use crate::protocol::window::CHUNK_MESSAGES;
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{Blocking, Place, begin, commit};

/// Milliseconds since 1970 by SQLite's clock, the one that dates the messages.
const NOW_MS: &str = "cast(round((julianday('now') - 2440587.5) * 86400000) as integer)";

/// Waiting messages are counted up to this many: however many wait, `status` answers soon.
const COUNTED_MAX: u64 = 200_000;

/// Opens the outbox in one SQLite file.
#[derive(Clone, Debug)]
pub struct SqliteSource {
    /// The file. `init` makes it where it is missing, but not its directory.
    pub path: PathBuf,
    /// How long to wait for another process's write lock.
    pub busy_limit: Duration,
}

#[async_trait]
impl OutboxSource for SqliteSource {
    async fn connect(&self) -> Result<Box<dyn Outbox>> {
        let (connection, place, found) = self
            .call("open outbox", |source| {
                let place = Place::of(&source.path);
                let (connection, found) = init::open(&source.path, source.busy_limit)?;
                Ok((connection, place, found))
            })
            .await?;
        let (connection, place) = (Blocking::new(connection), Arc::new(place));
        Ok(Box::new(SqliteOutbox { connection, place, version: found.version, reading: None }))
    }

    /// Its ids are in commit order whoever wrote them.
    async fn connect_to_adopt(&self) -> Result<Box<dyn Outbox>> {
        self.connect().await
    }

    async fn init(&self, wanted: &Installation) -> Result<Installation> {
        let wanted = wanted.clone();
        let init = move |source: &SqliteSource| init::init(&source.path, source.busy_limit, &wanted);
        self.call("init outbox", init).await
    }

    async fn remove(&self) -> Result<()> {
        self.call("remove outbox", |source| remove::remove(&source.path, source.busy_limit)).await
    }

    async fn found(&self) -> Result<Option<Installation>> {
        self.call("read installation", |source| init::found(&source.path, source.busy_limit)).await
    }
}

impl SqliteSource {
    async fn call<R: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&SqliteSource) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let done = Blocking::new(self.clone()).call(operation, |source| work(source)).await;
        done.map_err(|error| error.with("file", self.path.display()))
    }
}

struct Reading {
    epoch: Epoch,
    last: i64,
}

struct SqliteOutbox {
    connection: Blocking<Connection>,
    place: Arc<Place>,
    /// Of the tables, when the file was opened.
    version: i32,
    reading: Option<Reading>,
}

#[async_trait]
impl Outbox for SqliteOutbox {
    async fn identity(&mut self) -> Result<DatabaseIdentity> {
        let id = self.installed().await?.id;
        Ok(DatabaseIdentity { system: id.to_string(), database: "main".to_string(), timeline: None })
    }

    async fn installation(&mut self) -> Result<Installation> {
        Ok(self.installed().await?.installation)
    }

    async fn shard(&mut self, shard: ShardIndex) -> Result<ShardRow> {
        let found = self.connection.call("read shard", move |connection| {
            let sql = "select epoch, born, pruned, last_error, last_error_at_ms
                       from onecommit_shard where shard = ?1";
            let row = connection.query_row(sql, [shard.0], |row| {
                let error = row.get::<_, Option<String>>(3)?.zip(row.get::<_, Option<i64>>(4)?);
                let epoch = Epoch(row.get(0)?);
                Ok(ShardRow { epoch, born: row.get(1)?, pruned: row.get(2)?, last_error: error })
            });
            row.optional().map_err(|error| from_sqlite("read shard", error))
        });
        found.await?.ok_or_else(|| no_such_shard("read shard", shard))
    }

    async fn claim(&mut self, shard: ShardIndex, epoch: Epoch) -> Result<()> {
        let claim = move |connection: &mut Connection| {
            let sql = "update onecommit_shard set epoch = ?2 where shard = ?1 and epoch <= ?2";
            let transaction = begin(connection, "claim shard")?;
            write_shard(&transaction, "claim shard", sql, (shard, epoch), &[])?;
            failpoint!("outbox.claim.before_commit")?;
            commit(transaction, "claim shard")?;
            failpoint!("outbox.claim.after_commit")
        };
        self.connection.call("claim shard", claim).await
    }

    async fn note_birth(&mut self, shard: ShardIndex, epoch: Epoch) -> Result<()> {
        let note = move |connection: &mut Connection| {
            let sql = "update onecommit_shard set born = 1 where shard = ?1 and epoch = ?2";
            let transaction = begin(connection, "note birth")?;
            write_shard(&transaction, "note birth", sql, (shard, epoch), &[])?;
            failpoint!("outbox.birth.before_commit")?;
            commit(transaction, "note birth")?;
            failpoint!("outbox.birth.after_commit")
        };
        self.connection.call("note birth", note).await
    }

    async fn note_error(&mut self, shard: ShardIndex, epoch: Epoch, error: Option<&str>) -> Result<()> {
        let error = error.map(str::to_string);
        let note = move |connection: &mut Connection| {
            let sql = format!(
                "update onecommit_shard set last_error = ?3,
                   last_error_at_ms = case when ?3 is not null then {NOW_MS} end
                 where shard = ?1 and epoch = ?2"
            );
            let transaction = begin(connection, "note error")?;
            write_shard(&transaction, "note error", &sql, (shard, epoch), &[&error])?;
            failpoint!("outbox.note_error.before_commit")?;
            commit(transaction, "note error")?;
            failpoint!("outbox.note_error.after_commit")
        };
        self.connection.call("note error", note).await
    }

    async fn has_barrier(&mut self, shard: ShardIndex, barrier: BarrierId) -> Result<bool> {
        let look = move |connection: &mut Connection| {
            let sql = "select exists (select 1 from onecommit_barrier where id = ?1 and shard = ?2)";
            let found = connection
                .query_row(sql, params![barrier.0.as_bytes().as_slice(), shard.0], |row| row.get(0));
            found.map_err(|error| from_sqlite("read barrier", error))
        };
        self.connection.call("read barrier", look).await
    }

    fn origin(&self) -> Position {
        Position::Sequence { last: 0 }
    }

    fn add(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        position: &Position,
        _barrier: Option<BarrierId>,
    ) -> Result<()> {
        if shard != SHARD {
            return Err(no_such_shard("read outbox", shard));
        }
        self.reading = Some(Reading { epoch, last: last_id(position)? });
        Ok(())
    }

    fn remove(&mut self, shard: ShardIndex) {
        if shard == SHARD {
            self.reading = None;
        }
    }

    async fn read(&mut self) -> Result<Batch> {
        let Some(Reading { epoch, last }) = self.reading else { return Ok(Batch::default()) };
        let place = Arc::clone(&self.place);
        let read = move |connection: &mut Connection| {
            // Otherwise what is published into a file put in its place would wait for ever.
            place.check(ErrorKind::Unreachable, "read outbox")?;
            read::read(connection, last, epoch)
        };
        match self.connection.call("read outbox", read).await {
            Ok(Some(rows)) => {
                let (more, waiting) = (rows.more, rows.waiting);
                let chunks = chunks(rows);
                if let Some(Position::Sequence { last }) = chunks.last().map(|chunk| chunk.position.clone()) {
                    self.reading = Some(Reading { epoch, last });
                }
                Ok(Batch { chunks, more, backlog: more, waiting })
            }
            Ok(None) => Ok(Batch::default()),
            Err(error) => {
                self.reading = None;
                Err(error)
            }
        }
    }

    /// No transaction over several databases writes here: a file can't prepare.
    fn hold(&mut self, _above: Option<i64>) {}

    async fn has_proofs(&mut self, _within: Duration) -> Result<bool> {
        Ok(false)
    }

    async fn prune(&mut self, delivered: &[Delivered], limit: u32) -> Result<Pruned> {
        let (mut messages, keeps) = (0, !self.is_old());
        for shard in delivered {
            let Some(barrier) = shard.barrier else { continue };
            if shard.shard != SHARD {
                return Err(no_such_shard("prune", shard.shard));
            }
            let (epoch, last) = (shard.epoch, last_id(&shard.position)?);
            let prune = move |connection: &mut Connection| {
                prune::prune(connection, epoch, last, barrier, limit, keeps)
            };
            messages += self.connection.call("prune", prune).await?;
        }
        Ok(Pruned { messages, all: messages < u64::from(limit) })
    }

    async fn backlog(&mut self, shard: ShardIndex, position: &Position) -> Result<Backlog> {
        if shard != SHARD {
            return Err(no_such_shard("count backlog", shard));
        }
        let last = last_id(position)?;
        let count = move |connection: &mut Connection| {
            let sql = format!(
                "select (select count(*) from (select 1 from onecommit_outbox where id > ?1 limit {COUNTED_MAX} + 1)),
                        (select {NOW_MS} - created_at_ms from onecommit_outbox
                           where id > ?1 order by id limit 1)"
            );
            let counted = connection.query_row(&sql, [last], |row| {
                let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
                let oldest_ms = unsigned(row.get::<_, Option<i64>>(1)?.unwrap_or(0));
                let found = unsigned(row.get(0)?);
                Ok(Backlog { messages: found.min(COUNTED_MAX), oldest_ms, more: found > COUNTED_MAX })
            });
            counted.map_err(|error| from_sqlite("count backlog", error))
        };
        self.connection.call("count backlog", count).await
    }

    async fn contents(&mut self, shard: ShardIndex, progress: Option<&Progress>) -> Result<Contents> {
        if shard != SHARD {
            return Err(no_such_shard("look at outbox", shard));
        }
        let (progress, has_set_aside) = (progress.cloned(), !self.is_old());
        let look =
            move |connection: &mut Connection| adopt::contents(connection, progress.as_ref(), has_set_aside);
        self.connection.call("look at outbox", look).await
    }

    async fn prepare_adoption(&mut self, claimed: &[(ShardIndex, Epoch)], anew: &[ShardIndex]) -> Result<()> {
        let (claimed, anew) = (claimed.to_vec(), anew.to_vec());
        let prepare = move |connection: &mut Connection| adopt::prepare(connection, &claimed, &anew);
        self.connection.call("adopt outbox", prepare).await
    }

    async fn note_adoption(
        &mut self,
        claimed: &[(ShardIndex, Epoch)],
        anew: &[ShardIndex],
        delivery_id: &str,
    ) -> Result<()> {
        let (claimed, anew, delivery_id) = (claimed.to_vec(), anew.to_vec(), delivery_id.to_string());
        let note = move |connection: &mut Connection| adopt::note(connection, &claimed, &anew, &delivery_id);
        self.connection.call("adopt outbox", note).await
    }
}

#[async_trait]
impl SetAside for SqliteOutbox {
    async fn resume(&mut self, shard: ShardIndex, epoch: Epoch, progress: &Progress) -> Result<Resumed> {
        check_shard("resume set-aside messages", shard)?;
        let (progress, last) = (progress.clone(), last_id(&progress.position)?);
        if self.is_old() {
            let named = progress.barrier();
            let find = move |connection: &mut Connection| {
                named.map(|named| set_aside::voucher_of(connection, "take shard", named)).transpose()
            };
            let voucher = self.connection.call("take shard", find).await?;
            return Ok(Resumed { voucher, ..Resumed::default() });
        }
        let resume = move |connection: &mut Connection| set_aside::resume(connection, epoch, &progress, last);
        self.connection.call("resume set-aside messages", resume).await
    }

    async fn set_aside(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        asides: &[Aside],
        held: &[HeldTopic],
    ) -> Result<Recorded> {
        check_shard("set messages aside", shard)?;
        if self.is_old() && !(asides.is_empty() && held.is_empty()) {
            return Err(tables_too_old("set messages aside"));
        }
        let (asides, held) = (asides.to_vec(), held.to_vec());
        let write =
            move |connection: &mut Connection| set_aside::set_aside(connection, epoch, &asides, &held);
        self.connection.call("set messages aside", write).await
    }

    async fn asked(&mut self, shard: ShardIndex) -> Result<Asked> {
        check_shard("look for requests", shard)?;
        if self.is_old() {
            return Ok(Asked::default());
        }
        self.connection.call("look for requests", |connection| set_aside::asked(connection)).await
    }

    async fn due(&mut self, shard: ShardIndex, held: &[String], limit: u32) -> Result<Vec<Due>> {
        check_shard("read due messages", shard)?;
        if self.is_old() {
            return Ok(Vec::new());
        }
        let held = held.to_vec();
        let read = move |connection: &mut Connection| set_aside::due(connection, &held, limit);
        self.connection.call("read due messages", read).await
    }

    async fn clear(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        cleared: &[MessageId],
        released: &[String],
    ) -> Result<Voucher> {
        check_shard("clear set-aside messages", shard)?;
        let (cleared, released) = (cleared.to_vec(), released.to_vec());
        let write =
            move |connection: &mut Connection| set_aside::clear(connection, epoch, &cleared, &released);
        self.connection.call("clear set-aside messages", write).await
    }

    async fn dead_letters(&mut self, selection: &Selection, limit: u32) -> Result<Vec<DeadLetter>> {
        self.refuse_old("list dead letters")?;
        let selection = selection.clone();
        let list = move |connection: &mut Connection| dead_letters::list(connection, &selection, limit);
        self.connection.call("list dead letters", list).await
    }

    async fn message_set_aside(&mut self, message_id: MessageId) -> Result<Option<StoredMessage>> {
        self.refuse_old("read dead letter")?;
        let read = move |connection: &mut Connection| set_aside::message(connection, message_id);
        self.connection.call("read dead letter", read).await
    }

    async fn ask(&mut self, selection: &Selection, request: Request) -> Result<u64> {
        self.refuse_old("ask for dead letters")?;
        let selection = selection.clone();
        let ask = move |connection: &mut Connection| dead_letters::ask(connection, &selection, request);
        self.connection.call("ask for dead letters", ask).await
    }

    async fn declare_topic(&mut self, topic: &str, dead: bool) -> Result<bool> {
        self.refuse_old("declare topic dead")?;
        let topic = topic.to_string();
        let declare =
            move |connection: &mut Connection| dead_letters::declare_topic(connection, &topic, dead);
        self.connection.call("declare topic dead", declare).await
    }

    async fn count_set_aside(&mut self, shard: ShardIndex) -> Result<AsideCounts> {
        check_shard("count dead letters", shard)?;
        if self.is_old() {
            return Ok(AsideCounts::default());
        }
        self.connection.call("count dead letters", |connection| dead_letters::count(connection)).await
    }
}

impl SqliteOutbox {
    /// Whether the tables can't hold anything that is set aside.
    fn is_old(&self) -> bool {
        self.version < SET_ASIDE_SINCE
    }

    fn refuse_old(&self, operation: &'static str) -> Result<()> {
        if self.is_old() { Err(tables_too_old(operation)) } else { Ok(()) }
    }

    async fn installed(&self) -> Result<init::Found> {
        let found = self.connection.call("read installation", |connection| init::read(connection)).await?;
        found.ok_or_else(|| {
            let why = "the outbox's row in onecommit_installation is gone: run `onecommit init`";
            Error::new(ErrorKind::Configuration, "read installation", why)
        })
    }
}

/// Cuts what was read into chunks. Their barrier is committed already.
fn chunks(rows: Rows) -> Vec<Chunk> {
    let barrier = Barrier::durable(rows.barrier);
    let mut chunks = Vec::with_capacity(rows.messages.len().div_ceil(CHUNK_MESSAGES));
    let mut messages = rows.messages.into_iter().peekable();
    while messages.peek().is_some() {
        let messages: Vec<_> = messages.by_ref().take(CHUNK_MESSAGES).collect();
        let last = messages.last().map_or(0, |message| message.id);
        let position = Position::Sequence { last };
        chunks.push(Chunk { shard: SHARD, messages, position, barrier: barrier.clone() });
    }
    chunks
}

/// Writes the shard's row by an update whose condition names `?1`, the shard, and `?2`, the epoch.
fn write_shard(
    connection: &Connection,
    operation: &'static str,
    sql: &str,
    (shard, epoch): (ShardIndex, Epoch),
    more: &[&dyn ToSql],
) -> Result<()> {
    let mut values: Vec<&dyn ToSql> = vec![&shard.0, &epoch.0];
    values.extend_from_slice(more);
    if connection.execute(sql, &values[..]).map_err(|error| from_sqlite(operation, error))? == 1 {
        return Ok(());
    }
    let why = "another relay has taken over";
    Err(Error::new(ErrorKind::Fenced, operation, why).with("shard", shard).with("epoch", epoch))
}

fn last_id(position: &Position) -> Result<i64> {
    match position {
        Position::Sequence { last } => Ok(*last),
        Position::Snapshots { .. } => {
            let why = "the progress was written for another kind of database. Restore what was there; or \
               `onecommit adopt` with the participant's name";
            Err(Error::new(ErrorKind::Refused, "read outbox", why).with("shard", SHARD))
        }
    }
}

fn check_shard(operation: &'static str, shard: ShardIndex) -> Result<()> {
    if shard == SHARD { Ok(()) } else { Err(no_such_shard(operation, shard)) }
}

fn no_such_shard(operation: &'static str, shard: ShardIndex) -> Error {
    let why = "an outbox in SQLite has the shard 0 only";
    Error::new(ErrorKind::Refused, operation, why).with("shard", shard)
}
