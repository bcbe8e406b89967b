//! The idle poll: whether anything has come since a window, in one message to the server and one back.
//!
//! Most polls of a quiet outbox find nothing, twenty-five times a second; a poll that may have to commit
//! a barrier takes two round trips and twice the relay's CPU. Where this one finds something, that one
//! is done. Promises the same as an empty poll: the snapshot that it returns is the statement's own.

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::connection::Connection;
use super::reading::{begin, life_column, running};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::snapshot::Snapshot;

/// The snapshot up to which nothing has come since `prev`, for the shards of `filter`; None where
/// something has.
pub(super) async fn glance(
    connection: &Connection,
    prev: &Snapshot,
    filter: &str,
) -> Result<Option<Snapshot>> {
    let schema = &connection.schema;
    let sql = format!(
        "{}; select {}::text, pg_current_snapshot()::text, exists (
           (select from {schema}.outbox where xid >= '{}'::xid8 {filter} order by xid limit 1)
           union all
           (select from {schema}.outbox where xid = any('{{{}}}'::xid8[]) {filter} limit 1));
         commit",
        begin(connection),
        life_column(schema),
        prev.xmax(),
        running(prev).join(",")
    );
    let answer = connection.request("read outbox", connection.client.simple_query(&sql)).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.len() == 3 => Some(row),
        _ => None,
    });
    let row = row.ok_or_else(|| damaged("PostgreSQL answered without a row"))?;
    let life = text(row, 0).ok().map(str::parse).transpose();
    connection.check_life(life.map_err(|error| damaged("no UUID").caused_by(error))?)?;
    if text(row, 2)? == "t" {
        return Ok(None);
    }
    text(row, 1)?.parse().map(Some)
}

fn text(row: &SimpleQueryRow, index: usize) -> Result<&str> {
    row.get(index).ok_or_else(|| damaged("PostgreSQL answered NULL"))
}

fn damaged(why: &'static str) -> Error {
    Error::new(ErrorKind::Failed, "read outbox", why)
}
