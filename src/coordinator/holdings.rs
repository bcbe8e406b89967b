//! Which coordinators a node has a hand on, for whoever shows it: its own, and those of the dead that it recovers.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::id::CoordinatorId;

/// See the module.
#[derive(Debug, Default)]
pub struct Holdings(Mutex<Held>);

#[derive(Clone, Debug, Default)]
struct Held {
    own: Option<CoordinatorId>,
    recovering: BTreeSet<CoordinatorId>,
}

impl Holdings {
    /// Its own; None until something is to be decided.
    pub fn own(&self) -> Option<CoordinatorId> {
        self.held().own
    }

    /// Those that it recovers now.
    pub fn recovering(&self) -> BTreeSet<CoordinatorId> {
        self.held().recovering.clone()
    }

    pub(super) fn registered(&self, id: CoordinatorId) {
        self.held().own = Some(id);
    }

    pub(super) fn ended(&self, id: CoordinatorId) {
        let mut held = self.held();
        held.own = held.own.filter(|own| *own != id);
    }

    pub(super) fn recovers(&self, ids: impl Iterator<Item = CoordinatorId>) {
        self.held().recovering = ids.collect();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
