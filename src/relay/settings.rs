//! Limits and pauses of a relay.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::OnPoison;
use crate::protocol::retry::Backoff;

/// Limits and pauses of a relay; each is a setting of `onecommit.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// A batch ends at this many messages,
    pub batch_messages: usize,
    /// at this many bytes, or when nothing more waits.
    pub batch_bytes: usize,
    /// Bytes of messages in memory, over all shards.
    pub buffer_bytes: usize,
    /// The pause between polls while messages come.
    pub poll_busy: Duration,
    /// The pause between polls while none come.
    pub poll_idle: Duration,
    /// How many messages one step of pruning removes.
    pub prune_messages: u32,
    /// How long delivered messages of transactions over several databases stay: the longest that one may
    /// take.
    pub keep_proofs: Duration,
    /// Messages that may be set aside in one shard.
    pub set_aside_max: u64,
    /// What happens with a message that can't be delivered, by topic.
    pub on_poison: BTreeMap<String, OnPoison>,
    /// Waits after failures.
    pub retry: Backoff,
    /// How long a stop waits for batches in flight.
    pub shutdown_limit: Duration,
}
