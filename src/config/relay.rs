//! `[relay]`: times, sizes and limits of a relay's work.

use serde::Serialize;

use super::value::Section;
use crate::error::Result;

/// How a relay works. Every number is inside the bounds that the reference names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Relay {
    /// Without ZooKeeper: after this long without a sign of life a relay counts as dead.
    pub lease_timeout_ms: u64,
    /// Most messages in one Kafka transaction.
    pub batch_messages: usize,
    /// Most bytes in one Kafka transaction.
    pub batch_bytes: usize,
    /// Pause between two looks at the outbox while messages come.
    pub poll_busy_ms: u64,
    /// Pause between two looks at the outbox while none come; not below `poll_busy_ms`.
    pub poll_idle_ms: u64,
    /// Most bytes read and not yet delivered, over all shards together.
    pub buffer_bytes: usize,
    /// Delivered messages removed in one piece.
    pub prune_messages: u32,
    /// From this size on PostgreSQL's table is emptied at once when everything in it is delivered.
    pub truncate_bytes: u64,
    /// Longest wait for the table's lock to do that.
    pub truncate_lock_ms: u64,
    /// Most messages set aside in one shard.
    pub set_aside_max: u64,
    /// Longest wait before the first retry.
    pub retry_first_ms: u64,
    /// Longest wait before any retry; not below `retry_first_ms`.
    pub retry_limit_ms: u64,
    /// Longest wait for one answer of a server.
    pub request_timeout_ms: u64,
    /// Longest time to finish what was begun after a signal to stop.
    pub shutdown_timeout_ms: u64,
}

impl Relay {
    pub(super) fn build(section: &Section) -> Result<Self> {
        section.check_order("poll_busy_ms", "poll_idle_ms")?;
        section.check_order("retry_first_ms", "retry_limit_ms")?;
        // The settings bound every one of them far below these types' ends.
        let size = |key| usize::try_from(section.number(key)).unwrap_or(usize::MAX);
        Ok(Relay {
            lease_timeout_ms: section.number("lease_timeout_ms"),
            batch_messages: size("batch_messages"),
            batch_bytes: size("batch_bytes"),
            poll_busy_ms: section.number("poll_busy_ms"),
            poll_idle_ms: section.number("poll_idle_ms"),
            buffer_bytes: size("buffer_bytes"),
            prune_messages: u32::try_from(section.number("prune_messages")).unwrap_or(u32::MAX),
            truncate_bytes: section.number("truncate_bytes"),
            truncate_lock_ms: section.number("truncate_lock_ms"),
            set_aside_max: section.number("set_aside_max"),
            retry_first_ms: section.number("retry_first_ms"),
            retry_limit_ms: section.number("retry_limit_ms"),
            request_timeout_ms: section.number("request_timeout_ms"),
            shutdown_timeout_ms: section.number("shutdown_timeout_ms"),
        })
    }
}
