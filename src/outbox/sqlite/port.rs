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
use super::remove;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{BarrierId, Epoch, ShardIndex};
use crate::outbox::{
    Backlog, Barrier, Batch, Chunk, Contents, Delivered, Installation, Outbox, OutboxSource, Pruned, ShardRow,
};
use crate::protocol::position::Position;
use crate::protocol::progress::{DatabaseIdentity, Progress};
use crate::protocol::window::CHUNK_MESSAGES;
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{Blocking, Place, begin, commit};

/// Milliseconds since 1970 by SQLite's clock, the one that dates the messages.
const NOW_MS: &str = "cast(round((julianday('now') - 2440587.5) * 86400000) as integer)";

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
        let (connection, place, counter) = self
            .call("open outbox", |source| {
                let place = Place::of(&source.path);
                let (connection, _) = init::open(&source.path, source.busy_limit)?;
                let sql = "select coalesce(max(counter), 0) from onecommit_barrier";
                let counter = connection.query_row(sql, (), |row| row.get(0));
                let counter: i64 = counter.map_err(|error| from_sqlite("open outbox", error))?;
                Ok((connection, place, counter))
            })
            .await?;
        let (connection, place) = (Blocking::new(connection), Arc::new(place));
        Ok(Box::new(SqliteOutbox { connection, place, counter, reading: None }))
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
    /// Goes on above every barrier in the file: a number used twice under one epoch would let
    /// pruning remove a newer barrier as an older one.
    counter: i64,
    reading: Option<Reading>,
}

#[async_trait]
impl Outbox for SqliteOutbox {
    async fn identity(&mut self) -> Result<DatabaseIdentity> {
        let (_, id) = self.installed().await?;
        Ok(DatabaseIdentity { system: id.to_string(), database: "main".to_string(), timeline: None })
    }

    async fn installation(&mut self) -> Result<Installation> {
        Ok(self.installed().await?.0)
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
        self.counter += 1;
        let counter = self.counter;
        let place = Arc::clone(&self.place);
        let read = move |connection: &mut Connection| {
            // Otherwise what is published into a file put in its place would wait for ever.
            place.check(ErrorKind::Unreachable, "read outbox")?;
            read::read(connection, last, epoch, counter)
        };
        match self.connection.call("read outbox", read).await {
            Ok(Some(rows)) => {
                let more = rows.more;
                let chunks = chunks(rows);
                if let Some(Position::Sequence { last }) = chunks.last().map(|chunk| chunk.position.clone()) {
                    self.reading = Some(Reading { epoch, last });
                }
                Ok(Batch { chunks, more, backlog: more })
            }
            Ok(None) => Ok(Batch::default()),
            Err(error) => {
                self.reading = None;
                Err(error)
            }
        }
    }

    async fn prune(&mut self, delivered: &[Delivered], limit: u32) -> Result<Pruned> {
        let mut messages = 0;
        for shard in delivered {
            let Some(barrier) = shard.barrier else { continue };
            if shard.shard != SHARD {
                return Err(no_such_shard("prune", shard.shard));
            }
            let (epoch, last) = (shard.epoch, last_id(&shard.position)?);
            let prune =
                move |connection: &mut Connection| prune::prune(connection, epoch, last, barrier, limit);
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
                "select (select count(*) from onecommit_outbox where id > ?1),
                        (select {NOW_MS} - created_at_ms from onecommit_outbox
                           where id > ?1 order by id limit 1)"
            );
            let counted = connection.query_row(&sql, [last], |row| {
                let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
                let oldest_ms = unsigned(row.get::<_, Option<i64>>(1)?.unwrap_or(0));
                Ok(Backlog { messages: unsigned(row.get(0)?), oldest_ms })
            });
            counted.map_err(|error| from_sqlite("count backlog", error))
        };
        self.connection.call("count backlog", count).await
    }

    async fn contents(&mut self, shard: ShardIndex, progress: Option<&Progress>) -> Result<Contents> {
        if shard != SHARD {
            return Err(no_such_shard("look at outbox", shard));
        }
        let progress = progress.cloned();
        let look = move |connection: &mut Connection| adopt::contents(connection, progress.as_ref());
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

impl SqliteOutbox {
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
    let barrier = Barrier::durable(Some(rows.barrier));
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

fn no_such_shard(operation: &'static str, shard: ShardIndex) -> Error {
    let why = "an outbox in SQLite has the shard 0 only";
    Error::new(ErrorKind::Refused, operation, why).with("shard", shard)
}
