//! What is known to be committed, by shard, for the pruner.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::id::ShardIndex;
use crate::outbox::Delivered;

/// What is known to be committed, by shard.
#[derive(Default)]
pub(super) struct Committed {
    shards: Mutex<BTreeMap<ShardIndex, Delivered>>,
    /// Messages delivered and not yet pruned, about.
    pub(super) unpruned: AtomicU64,
}

impl Committed {
    pub(super) fn note(&self, delivered: Delivered) {
        if self.lock().insert(delivered.shard, delivered).is_none() {
            // Just taken: what a former owner left unpruned is counted nowhere, and without a sign
            // it would stay until the next message.
            self.unpruned.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn forget(&self, shard: ShardIndex) {
        self.lock().remove(&shard);
    }

    pub(super) fn all(&self) -> Vec<Delivered> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ShardIndex, Delivered>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
