//! Reads a topic log, for `onecommit consume` and Python's `read`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::file;
use crate::delivery::DeliveredMessage;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::message::Header;
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::headers::decode;
use crate::sqlite::{begin, commit};

const OPERATION: &str = "read topic log";
/// One piece has at most this many messages,
const PIECE_MESSAGES: i64 = 1_000;
/// and at most this many bytes of keys, values and headers, or one message.
const PIECE_BYTES: i64 = 4 * 1024 * 1024;
/// At the end of a topic it is looked at again after this long.
const PAUSE: Duration = Duration::from_millis(20);

/// A reader of one topic. What it reads is committed.
///
/// ```
/// use std::time::Duration;
/// use onecommit::delivery::topic_log::TopicLogReader;
/// # use onecommit::delivery::{Delivery, DeliveryScope, topic_log::TopicLogDelivery};
///
/// # fn main() -> onecommit::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("topics.db");
/// # let scope = DeliveryScope { prefix: "shop".into(), participant: "orders".parse()?, shards: 1 };
/// # TopicLogDelivery::new(&path, scope).init()?;
/// let mut reader = TopicLogReader::open(&path, "order.paid", Some("billing"), true)?;
/// while let Some(message) = reader.next(Duration::ZERO)? {
///     println!("{:?}", message.value);
/// }
/// reader.commit()?;
/// # Ok(()) }
/// ```
pub struct TopicLogReader {
    connection: Connection,
    path: PathBuf,
    topic: String,
    group: Option<String>,
    piece: VecDeque<DeliveredMessage>,
    /// Behind the last message that was returned.
    next_offset: i64,
    at_end: bool,
}

impl TopicLogReader {
    /// With a `group` it goes on where the group was. Without one, or where the group never was, it
    /// begins now, or with `from_beginning` at the first message. The topic may appear later, but the
    /// file must be there: `init` makes it.
    pub fn open(path: &Path, topic: &str, group: Option<&str>, from_beginning: bool) -> Result<Self> {
        let failed = |error| from_sqlite(OPERATION, error).with("file", path.display());
        let connection = file::open_existing(path)?;
        let committed = match group {
            Some(group) => committed(&connection, group, topic).map_err(failed)?,
            None => None,
        };
        let next_offset = match committed {
            Some(offset) => offset,
            None if from_beginning => 0,
            None => end(&connection, topic).map_err(failed)?,
        };
        Ok(TopicLogReader {
            connection,
            path: path.to_path_buf(),
            topic: topic.to_string(),
            group: group.map(str::to_string),
            piece: VecDeque::new(),
            next_offset,
            at_end: false,
        })
    }

    /// The next message, None if there is none within `limit`.
    pub fn next(&mut self, limit: Duration) -> Result<Option<DeliveredMessage>> {
        let started = Instant::now();
        loop {
            if self.piece.is_empty() {
                self.piece = self.read_piece()?;
            }
            self.at_end = self.piece.is_empty();
            if let Some(message) = self.piece.pop_front() {
                let Some(next) = message.offset.checked_add(1) else {
                    return Err(self.unreadable("its offset can't be", message.offset));
                };
                self.next_offset = next;
                return Ok(Some(message));
            }
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(left.min(PAUSE));
        }
    }

    /// Whether the last [`TopicLogReader::next`] found the end of the topic.
    pub fn at_end(&self) -> bool {
        self.at_end
    }

    /// Stores the group's position behind everything that [`TopicLogReader::next`] returned.
    pub fn commit(&mut self) -> Result<()> {
        const OPERATION: &str = "commit offset";
        let Some(group) = &self.group else { return Ok(()) };
        let transaction = begin(&mut self.connection, OPERATION)?;
        let sql = "insert into consumer_group (name, topic, next_offset) values (?1, ?2, ?3)
                   on conflict (name, topic) do update set next_offset = excluded.next_offset";
        let stored = transaction.execute(sql, params![group, self.topic, self.next_offset]);
        stored.map_err(|error| from_sqlite(OPERATION, error).with("group", group))?;
        failpoint!("topic_log.commit_offset.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("topic_log.commit_offset.after_commit")
    }

    fn read_piece(&self) -> Result<VecDeque<DeliveredMessage>> {
        let failed = |error| from_sqlite(OPERATION, error).with("file", self.path.display());
        // Where the oldest were removed already it goes on behind them. Sizes are known without
        // reading the contents.
        let sql = "select m.offset, coalesce(octet_length(m.key), 0) + coalesce(octet_length(m.value), 0)
                     + coalesce(octet_length(m.headers), 0),
                     m.partition, m.timestamp_ms, m.key, m.value, m.headers
                   from topic t join message m on m.topic = t.id
                   where t.name = ?1 and m.offset >= ?2 order by m.offset limit ?3";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
        let mut rows =
            statement.query(params![self.topic, self.next_offset, PIECE_MESSAGES]).map_err(failed)?;
        let mut piece = VecDeque::new();
        let mut bytes = 0;
        while let Some(row) = rows.next().map_err(failed)? {
            bytes += row.get::<_, i64>(1).map_err(failed)?;
            if bytes > PIECE_BYTES && !piece.is_empty() {
                break;
            }
            let headers = self.headers(row)?;
            piece.push_back(delivered(&self.topic, row, headers).map_err(failed)?);
        }
        Ok(piece)
    }

    fn headers(&self, row: &Row<'_>) -> Result<Vec<Header>> {
        let failed = |error| from_sqlite(OPERATION, error).with("file", self.path.display());
        let (offset, bytes): (i64, Option<Vec<u8>>) =
            (row.get(0).map_err(failed)?, row.get(6).map_err(failed)?);
        decode(bytes.as_deref()).map_err(|what| self.unreadable(what, offset))
    }

    fn unreadable(&self, what: &str, offset: i64) -> Error {
        Error::new(ErrorKind::Refused, OPERATION, format!("a message can't be read, {what}"))
            .with("topic", &self.topic)
            .with("offset", offset)
            .with("file", self.path.display())
    }
}

fn delivered(topic: &str, row: &Row<'_>, headers: Vec<Header>) -> rusqlite::Result<DeliveredMessage> {
    Ok(DeliveredMessage {
        topic: topic.to_string(),
        partition: row.get(2)?,
        offset: row.get(0)?,
        timestamp_ms: row.get(3)?,
        key: row.get(4)?,
        value: row.get(5)?,
        headers,
    })
}

fn committed(connection: &Connection, group: &str, topic: &str) -> rusqlite::Result<Option<i64>> {
    let sql = "select next_offset from consumer_group where name = ?1 and topic = ?2";
    connection.query_row(sql, [group, topic], |row| row.get(0)).optional()
}

/// The offset behind the topic's last message.
fn end(connection: &Connection, topic: &str) -> rusqlite::Result<i64> {
    let sql = "select next_offset from topic where name = ?1";
    Ok(connection.query_row(sql, [topic], |row| row.get(0)).optional()?.unwrap_or(0))
}
