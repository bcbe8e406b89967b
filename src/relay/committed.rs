//! What is known to be committed, by shard, for the pruner.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::proofs::Proofs;
use super::unpruned::Unpruned;
use crate::id::ShardIndex;
use crate::outbox::Delivered;

/// What is known to be committed, by shard.
#[derive(Default)]
pub(super) struct Committed {
    shards: Mutex<BTreeMap<ShardIndex, Delivered>>,
    pub(super) unpruned: Unpruned,
    pub(super) proofs: Proofs,
}

impl Committed {
    pub(super) fn note(&self, delivered: Delivered) {
        if self.lock().insert(delivered.shard, delivered).is_none() {
            self.unpruned.add_unknown();
            self.proofs.add_unknown();
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
