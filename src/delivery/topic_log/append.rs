//! The one deliverer of a shard to a topic log.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::file;
use crate::delivery::{Blame, Fault, ShardDelivery};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::Epoch;
use crate::message::{ID_HEADER, StoredMessage};
use crate::protocol::progress::Progress;
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::headers::encode;
use crate::sqlite::{Place, begin, commit};

/// A topic keeps this many messages, the latest; consumers that are further behind lose the others.
pub const TOPIC_MESSAGES_MAX: i64 = 10_000_000;

const APPEND: &str = "append to topic log";

pub(super) struct TopicLogShard {
    connection: Connection,
    place: Place,
    name: String,
    taken: i64,
    batch: Option<Vec<StoredMessage>>,
    sealed: Option<Progress>,
}

impl TopicLogShard {
    /// Takes the shard; `Fenced` where a later lease has taken it already.
    pub(super) fn take(path: &Path, name: String, epoch: Epoch) -> Result<Self> {
        const OPERATION: &str = "take shard";
        let place = Place::of(path);
        let mut connection = file::open_existing(path)?;
        let failed = |error| from_sqlite(OPERATION, error);
        let transaction = begin(&mut connection, OPERATION)?;
        let sql = "insert into deliverer (name, epoch, taken) values (?1, ?2, 1)
                   on conflict (name) do update set epoch = excluded.epoch, taken = taken + 1
                     where epoch <= excluded.epoch
                   returning taken";
        let taken = transaction.query_row(sql, params![name, epoch.0], |row| row.get(0)).optional();
        let Some(taken) = taken.map_err(failed)? else {
            return Err(fenced(OPERATION).with("epoch", epoch));
        };
        failpoint!("topic_log.take.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("topic_log.take.after_commit")?;
        Ok(TopicLogShard { connection, place, name, taken, batch: None, sealed: None })
    }
}

impl ShardDelivery for TopicLogShard {
    fn progress(&mut self) -> Result<Option<Progress>> {
        file::progress(&self.connection, &self.name)
    }

    fn begin(&mut self) -> Result<()> {
        if self.batch.is_some() {
            return Err(Error::new(ErrorKind::Failed, APPEND, "the batch before was not ended"));
        }
        self.batch = Some(Vec::new());
        self.sealed = None;
        Ok(())
    }

    /// Keeps the messages in memory: the write lock is not held while a batch is being filled.
    fn send(&mut self, messages: &[StoredMessage]) -> Result<Option<(usize, Fault)>> {
        self.batch.as_mut().ok_or_else(no_batch)?.extend_from_slice(messages);
        Ok(None)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// A topic log takes every message, and makes its topics by itself.
    fn blame(&self) -> Blame {
        Blame::Nobody
    }

    fn topic_fault(&mut self, _topic: &str) -> Result<Option<Fault>> {
        Ok(None)
    }

    fn seal(&mut self, progress: &Progress) -> Result<()> {
        self.sealed = Some(progress.clone());
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let (batch, progress) = self.batch.take().zip(self.sealed.take()).ok_or_else(no_batch)?;
        let transaction = begin(&mut self.connection, APPEND)?;
        move_progress(&transaction, &self.name, self.taken, &progress)?;
        append(&transaction, &batch)?;
        failpoint!("topic_log.append.before_commit")?;
        commit(transaction, APPEND)?;
        failpoint!("topic_log.append.after_commit")?;
        // What went into a file that nobody can read any more must not be pruned as delivered. All
        // that was moved before is noticed here, too.
        self.place.check(ErrorKind::Unclear, APPEND)
    }

    fn renew(&mut self) -> Result<Option<Progress>> {
        self.batch = None;
        self.progress()
    }

    fn abort(&mut self, _limit: Duration) -> Result<()> {
        self.batch = None;
        Ok(())
    }
}

fn move_progress(connection: &Connection, name: &str, taken: i64, progress: &Progress) -> Result<()> {
    let sql = "update deliverer set progress = ?3 where name = ?1 and taken = ?2";
    let moved = connection.execute(sql, params![name, taken, progress.encode()]);
    match moved.map_err(|error| from_sqlite(APPEND, error))? {
        1 => Ok(()),
        _ => Err(fenced(APPEND)),
    }
}

struct Topic {
    id: i64,
    next_offset: i64,
}

fn append(transaction: &Transaction<'_>, batch: &[StoredMessage]) -> Result<()> {
    let failed = |error| from_sqlite(APPEND, error);
    let mut topics: BTreeMap<&str, Topic> = BTreeMap::new();
    let sql = "insert into message (topic, offset, partition, key, value, headers, timestamp_ms)
               values (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let mut insert = transaction.prepare_cached(sql).map_err(failed)?;
    for stored in batch {
        let message = &stored.message;
        let topic = match topics.get_mut(message.topic()) {
            Some(topic) => topic,
            None => {
                let found = find_or_make(transaction, message.topic()).map_err(failed)?;
                topics.entry(message.topic()).or_insert(found)
            }
        };
        let mut headers = message.headers().to_vec();
        headers.push((ID_HEADER.to_string(), Some(stored.message_id.to_string().into_bytes())));
        let partition = message.partition().unwrap_or(0);
        let (key, value, headers) = (message.key(), message.value(), encode(&headers));
        let place = (topic.id, topic.next_offset, partition);
        let row = params![place.0, place.1, place.2, key, value, headers, stored.created_at_ms];
        insert.execute(row).map_err(failed)?;
        topic.next_offset = topic.next_offset.checked_add(1).ok_or_else(|| damaged(topic))?;
    }
    for topic in topics.values() {
        let sql = "update topic set next_offset = ?2 where id = ?1";
        transaction.execute(sql, [topic.id, topic.next_offset]).map_err(failed)?;
        let sql = "delete from message where topic = ?1 and offset < ?2";
        let keep_from = topic.next_offset.checked_sub(TOPIC_MESSAGES_MAX).ok_or_else(|| damaged(topic))?;
        transaction.execute(sql, [topic.id, keep_from]).map_err(failed)?;
    }
    Ok(())
}

fn find_or_make(connection: &Connection, name: &str) -> rusqlite::Result<Topic> {
    let sql = "insert into topic (name) values (?1) on conflict (name) do update set name = name
               returning id, next_offset";
    connection.query_row(sql, [name], |row| Ok(Topic { id: row.get(0)?, next_offset: row.get(1)? }))
}

fn damaged(topic: &Topic) -> Error {
    Error::new(ErrorKind::Refused, APPEND, "the file is damaged: a topic's next offset can't be")
        .with("next_offset", topic.next_offset)
}

fn fenced(operation: &'static str) -> Error {
    Error::new(ErrorKind::Fenced, operation, "another relay has taken over the shard")
}

fn no_batch() -> Error {
    Error::new(ErrorKind::Failed, APPEND, "no batch was begun")
}
