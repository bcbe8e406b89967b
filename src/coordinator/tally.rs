//! The numbers of one node's recovery, from its start on. Whoever shows them reads them at any time; nothing
//! here makes recovery wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug, Default)]
pub struct RecoveryTally {
    dead: AtomicU64,
    settled: AtomicU64,
    refused: AtomicU64,
    in_doubt: Mutex<InDoubt>,
}

/// As it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
struct InDoubt {
    branches: u64,
    since: Option<Instant>,
}

impl RecoveryTally {
    /// Coordinators that are dead and have a record, those that this node recovers among them.
    pub fn dead_coordinators(&self) -> u64 {
        self.dead.load(Ordering::Relaxed)
    }

    /// Dead coordinators of which this node has settled the last that was left.
    pub fn settled_coordinators(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// How many times something of a coordinator in a participant waits for a person now.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Prepared branches whose coordinator is dead or has no record.
    pub fn branches_in_doubt(&self) -> u64 {
        self.in_doubt().branches
    }

    /// For how long the oldest of these is prepared; zero where there is none.
    pub fn oldest_in_doubt(&self) -> Duration {
        self.in_doubt().since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(super) fn note_dead(&self, coordinators: usize) {
        self.dead.store(coordinators as u64, Ordering::Relaxed);
    }

    pub(super) fn note_settled(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_refused(&self, times: usize) {
        self.refused.store(times as u64, Ordering::Relaxed);
    }

    /// The ages of all branches in doubt.
    pub(super) fn note_in_doubt(&self, ages: &[Duration]) {
        let since = ages.iter().max().and_then(|oldest| Instant::now().checked_sub(*oldest));
        *self.in_doubt() = InDoubt { branches: ages.len() as u64, since };
    }

    fn in_doubt(&self) -> MutexGuard<'_, InDoubt> {
        self.in_doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
