//! Rows of the outbox, from SQL to [`StoredMessage`]: bounded in bytes whatever is in them. A row's
//! contents come along only where they are small; the others are fetched on their own, as many at a
//! time as the limit allows.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use super::connection::{Connection, Xid8};
use crate::error::{Error, ErrorKind, Result};
use crate::id::MessageId;
use crate::message::{Header, Message, StoredMessage};
use crate::postgres::connect::Parameter;

/// A row whose contents have more bytes than this is fetched on its own.
const SMALL_ROW_BYTES: i64 = 4096;
/// Contents of this many bytes share one piece of memory: one for each was a quarter of the time
/// that reading took.
const ARENA_BYTES: usize = 32 * 1024;
/// What a message takes beside its contents.
const MESSAGE_OVERHEAD_BYTES: i64 = size_of::<StoredMessage>() as i64;
/// What every read selects from `outbox`, for [`decoded_columns`] around it. The size of a stored
/// value is known without reading it.
pub(super) fn columns() -> &'static str {
    "id, xid, message_id, topic, partition, created_at, key, value, header_names, header_values, \
     coalesce(octet_length(key), 0)::bigint + coalesce(octet_length(value), 0) \
     + coalesce(pg_column_size(header_names), 0) + coalesce(pg_column_size(header_values), 0) as bytes"
}

/// What is decoded of the rows `o` that [`columns`] selected.
pub(super) fn decoded_columns() -> String {
    let small = |column: &str| format!("case when o.bytes <= {SMALL_ROW_BYTES} then o.{column} end");
    format!(
        "o.id, o.xid, o.message_id, o.topic, o.partition, o.created_at, o.bytes, {}, {}, {}, {}",
        small("key"),
        small("value"),
        small("header_names"),
        small("header_values")
    )
}

/// Rows that were read, cut at a limit in bytes; `cut` tells whether any was left out.
pub(super) struct Rows {
    pub(super) messages: Vec<StoredMessage>,
    pub(super) cut: bool,
    limit_bytes: i64,
    bytes: i64,
    topic: Arc<str>,
    arena: BytesMut,
    /// Index and id of those whose contents are still to be fetched.
    large: Vec<(usize, i64)>,
}

impl Rows {
    /// None yet; at least one will be taken, and more up to `limit_bytes`.
    pub(super) fn new(limit_bytes: usize) -> Self {
        Rows {
            messages: Vec::new(),
            cut: false,
            limit_bytes: i64::try_from(limit_bytes).unwrap_or(i64::MAX),
            bytes: 0,
            topic: "".into(),
            arena: BytesMut::new(),
            large: Vec::new(),
        }
    }

    /// Decodes [`decoded_columns`], beginning at column `first`. Behind a row that was left
    /// out, all are.
    pub(super) fn push(&mut self, row: &Row, first: usize) -> Result<()> {
        let size: i64 = get(row, first + 6)?;
        let bytes = size + MESSAGE_OVERHEAD_BYTES;
        self.cut |= self.bytes + bytes > self.limit_bytes && !self.messages.is_empty();
        if self.cut {
            return Ok(());
        }
        self.bytes += bytes;
        let message = self.stored(row, first)?;
        if size > SMALL_ROW_BYTES {
            self.large.push((self.messages.len(), message.id));
        }
        self.messages.push(message);
        Ok(())
    }

    /// The id of the last row that was taken.
    pub(super) fn last_id(&self) -> Option<i64> {
        self.messages.last().map(|message| message.id)
    }

    /// What a message took of the limit, on average; None where there was none.
    pub(super) fn mean_bytes(&self) -> Option<usize> {
        let count = i64::try_from(self.messages.len()).ok().filter(|count| *count > 0)?;
        usize::try_from(self.bytes / count).ok()
    }

    fn stored(&mut self, row: &Row, first: usize) -> Result<StoredMessage> {
        let id: i64 = get(row, first)?;
        let topic: &str = get(row, first + 3)?;
        if *self.topic != *topic {
            self.topic = topic.into();
        }
        let key = self.kept(get(row, first + 7)?);
        let value = self.kept(get(row, first + 8)?);
        let (headers, partition) = (headers(row, first + 9, id)?, get(row, first + 4)?);
        Ok(StoredMessage {
            id,
            message_id: MessageId(get::<Uuid>(row, first + 2)?),
            transaction: get::<Xid8>(row, first + 1)?.0,
            created_at_ms: get::<TimestampMs>(row, first + 5)?.0,
            message: Message::stored(Arc::clone(&self.topic), key, value, headers, partition),
        })
    }

    fn kept(&mut self, contents: Option<&[u8]>) -> Option<Bytes> {
        let contents = contents?;
        if self.arena.capacity() < contents.len() {
            self.arena = BytesMut::with_capacity(contents.len().max(ARENA_BYTES));
        }
        self.arena.put_slice(contents);
        Some(self.arena.split().freeze())
    }
}

/// Fetches the contents of the rows that were too large to come along.
pub(super) async fn complete(connection: &Connection, mut rows: Rows) -> Result<Rows> {
    if rows.large.is_empty() {
        return Ok(rows);
    }
    let ids: Vec<i64> = rows.large.iter().map(|(_, id)| *id).collect();
    let sql = format!(
        "select id, key, value, header_names, header_values from {}.outbox where id = any($1)",
        connection.schema
    );
    let parameters: &[Parameter<'_>] = &[(&ids, Type::INT8_ARRAY)];
    let mut contents = HashMap::new();
    for row in connection.query("read large messages", &sql, parameters).await? {
        contents.insert(get::<i64>(&row, 0)?, row);
    }
    for (index, id) in &rows.large {
        let row = contents.get(id).ok_or_else(|| {
            Error::new(ErrorKind::Unclear, "read outbox", "a row vanished while it was read").with("id", id)
        })?;
        let message = &mut rows.messages[*index].message;
        let contents = |index| Ok::<_, Error>(get::<Option<Vec<u8>>>(row, index)?.map(Bytes::from));
        let (key, value) = (contents(1)?, contents(2)?);
        let headers = headers(row, 3, *id)?;
        *message = Message::stored(message.topic(), key, value, headers, message.partition());
    }
    Ok(rows)
}

fn headers(row: &Row, first: usize, id: i64) -> Result<Vec<Header>> {
    let names: Vec<Option<String>> = get::<Option<_>>(row, first)?.unwrap_or_default();
    let values: Vec<Option<Vec<u8>>> = get::<Option<_>>(row, first + 1)?.unwrap_or_default();
    let damaged = |why: &str| Error::new(ErrorKind::Failed, "read outbox", why).with("id", id);
    if names.len() != values.len() {
        return Err(damaged("a message has another number of header names than of header values"));
    }
    let named = names.into_iter().map(|name| name.ok_or_else(|| damaged("a header's name is NULL")));
    named.zip(values).map(|(name, value)| Ok((name?, value))).collect()
}

/// A column's value, as our error where it is of another type.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T> {
    row.try_get(index).map_err(|error| {
        Error::new(ErrorKind::Failed, "read outbox", "a column has another type than `init` gave it")
            .caused_by(error)
    })
}

struct TimestampMs(i64);

impl<'a> FromSql<'a> for TimestampMs {
    fn from_sql(
        _: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        // PostgreSQL counts microseconds from 2000-01-01.
        const EPOCH_2000_MS: i64 = 946_684_800_000;
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(TimestampMs(micros.div_euclid(1000).saturating_add(EPOCH_2000_MS)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}
