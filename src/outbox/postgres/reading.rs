//! The transaction in which a relay reads, and what each of its statements has in common.

use super::connection::Connection;
use crate::postgres::connect::DURABLE;
use crate::protocol::slot::SLOTS;
use crate::protocol::snapshot::Snapshot;

const BEGIN: &str = "begin isolation level read committed; \
    set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off; \
    set local jit = off; set local max_parallel_workers_per_gather = 0";

/// Begins a transaction that walks the indexes, within the limits.
pub(super) fn begin(connection: &Connection) -> String {
    format!("{BEGIN}; {DURABLE}; {}", connection.limits())
}

/// The shard of a row in SQL: [`slot`] and [`shard_of`].
pub(super) fn shard_expression(shards: u16) -> String {
    format!("get_byte(sha256(coalesce(key, int8send(xid::text::bigint))), 0) * {shards} / {SLOTS}")
}

/// A sequence that was never used has 1 as its last value without having handed it out: taken for
/// a floor, that lost the message with id 1.
pub(super) fn last_id_column(schema: &str) -> String {
    format!("(select last_value - (not is_called)::int from {schema}.outbox_id_seq)")
}

pub(super) fn life_column(schema: &str) -> String {
    format!("(select id from {schema}.server_life)")
}

/// The transactions that a snapshot saw in progress, as SQL takes them.
pub(super) fn running(snapshot: &Snapshot) -> Vec<String> {
    snapshot.in_progress().iter().map(u64::to_string).collect()
}
