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
    paired(get(row, first)?, get(row, first + 1)?, id)
}

type Names = Option<Elements<String>>;
type Values = Option<Elements<Vec<u8>>>;

fn paired(names: Names, values: Values, id: i64) -> Result<Vec<Header>> {
    let (names, values) =
        (names.map_or_else(Vec::new, |all| all.0), values.map_or_else(Vec::new, |all| all.0));
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

/// An array's elements. The driver reserves memory for as many as the array's head tells, unchecked.
struct Elements<T>(Vec<Option<T>>);

impl<'a, T: FromSql<'a>> FromSql<'a> for Elements<T> {
    fn from_sql(
        kind: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        // Dimensions, flags and type, then the first dimension's length; each element has its own.
        let told = raw.get(12..16).and_then(|length| length.try_into().ok()).map_or(0, i32::from_be_bytes);
        if usize::try_from(told)? > raw.len() / size_of::<i32>() {
            return Err("an array has fewer elements than its head tells".into());
        }
        Vec::from_sql(kind, raw).map(Elements)
    }

    fn accepts(kind: &Type) -> bool {
        <Vec<Option<T>> as FromSql>::accepts(kind)
    }
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

/// What binary columns hold: `xid`, `created_at`, `header_names` and `header_values`. The driver has no
/// way to make a row of them.
#[cfg(any(test, fuzzing))]
pub(crate) fn from_binary(
    xid: &[u8],
    created_at: &[u8],
    names: Option<&[u8]>,
    values: Option<&[u8]>,
) -> std::result::Result<(u64, i64, Vec<Header>), Box<dyn std::error::Error + Sync + Send>> {
    let xid = Xid8::from_sql(&Type::XID8, xid)?.0;
    let created_at_ms = TimestampMs::from_sql(&Type::TIMESTAMPTZ, created_at)?.0;
    let names = names.map(|raw| FromSql::from_sql(&Type::TEXT_ARRAY, raw)).transpose()?;
    let values = values.map(|raw| FromSql::from_sql(&Type::BYTEA_ARRAY, raw)).transpose()?;
    Ok((xid, created_at_ms, paired(names, values, 1)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_postgres::types::ToSql;

    use super::*;

    fn binary(kind: &Type, value: &impl ToSql) -> BytesMut {
        let mut bytes = BytesMut::new();
        value.to_sql(kind, &mut bytes).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn columns_come_back(
            xid in any::<u64>(), micros in any::<i64>(),
            headers in prop::collection::vec(any::<(String, Option<Vec<u8>>)>(), 0..6)
        ) {
            let (names, values): (Vec<_>, Vec<_>) = headers.iter().cloned().unzip();
            let names = binary(&Type::TEXT_ARRAY, &names);
            let values = binary(&Type::BYTEA_ARRAY, &values);
            let (raw_xid, raw_at) = (xid.to_be_bytes(), micros.to_be_bytes());
            let found = from_binary(&raw_xid, &raw_at, Some(&names), Some(&values)).unwrap();
            prop_assert_eq!((found.0, found.2), (xid, headers));
            let since_1970 = i128::from(micros) + 946_684_800_000_000;
            prop_assert_eq!(i128::from(found.1), since_1970.div_euclid(1000));
        }

        #[test]
        fn any_bytes_of_a_server_are_read_or_refused(
            xid in prop::collection::vec(any::<u8>(), 6..10),
            at in prop::collection::vec(any::<u8>(), 6..10),
            names in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
            values in prop::option::of(prop::collection::vec(any::<u8>(), 0..40))
        ) {
            let _ = from_binary(&xid, &at, names.as_deref(), values.as_deref());
        }

        #[test]
        fn columns_that_were_cut_or_changed_are_read_or_refused(
            headers in prop::collection::vec(any::<(String, Option<Vec<u8>>)>(), 1..5),
            at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()
        ) {
            let (names, values): (Vec<_>, Vec<_>) = headers.into_iter().unzip();
            let names = binary(&Type::TEXT_ARRAY, &names);
            let mut values = binary(&Type::BYTEA_ARRAY, &values);
            let at = at.index(values.len());
            if cut { values.truncate(at) } else { values[at] = byte }
            let _ = from_binary(&[0; 8], &[0; 8], Some(&names), Some(&values));
        }
    }

    #[test]
    fn names_and_values_that_do_not_pair_are_refused() {
        let one = |name: Option<&str>| Some(Elements(vec![name.map(str::to_string)]));
        assert!(paired(one(Some("a")), None, 1).unwrap_err().to_string().contains("another number"));
        let error = paired(one(None), Some(Elements(vec![None])), 1).unwrap_err();
        assert!(error.to_string().contains("NULL"), "{error}");
    }

    #[test]
    fn an_array_that_claims_more_than_it_has_reserves_no_memory_for_it() {
        let mut values = binary(&Type::BYTEA_ARRAY, &vec![Some(b"a".to_vec())]);
        values[12..16].copy_from_slice(&i32::MAX.to_be_bytes());
        let error = from_binary(&[0; 8], &[0; 8], None, Some(&values)).unwrap_err();
        assert!(error.to_string().contains("fewer elements"), "{error}");
    }
}
