//! What is counted of one shard.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use crate::id::Epoch;
use crate::outbox::{AsideCounts, Backlog};
use crate::protocol::position::Position;

/// One shard, as this relay knows it.
#[derive(Debug, Default)]
pub struct ShardTally {
    /// Messages whose Kafka transaction is committed.
    pub messages: AtomicU64,
    /// Bytes of their keys, values and headers.
    pub bytes: AtomicU64,
    /// Kafka transactions committed.
    pub commits: AtomicU64,
    /// Kafka transactions begun that were not, or not surely.
    pub failed_commits: AtomicU64,
    /// How long the commits took.
    pub commit_seconds: Histogram,
    /// Whether this relay holds the lease.
    pub owned: AtomicBool,
    epoch: AtomicI64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    position: Option<Position>,
    waiting: Option<Waiting>,
    aside: Option<AsideCounts>,
}

/// What waited when it was last looked at.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// What was found.
    pub backlog: Backlog,
    at: Instant,
    /// Whether every look since has failed.
    failing: bool,
}

impl Waiting {
    /// The age of the oldest message. It grows while nobody can look: a server that is away must not
    /// stop the clock of an alert.
    pub fn oldest(&self) -> Duration {
        let found = Duration::from_millis(self.backlog.oldest_ms);
        if self.failing && self.backlog.messages > 0 { found + self.at.elapsed() } else { found }
    }
}

impl ShardTally {
    /// The last epoch under which this relay took the shard; None where it never did.
    pub fn epoch(&self) -> Option<Epoch> {
        Some(Epoch(self.epoch.load(Ordering::Relaxed))).filter(|epoch| *epoch > Epoch::ZERO)
    }

    /// How far it is delivered, while this relay holds it.
    pub fn position(&self) -> Option<Position> {
        self.known().position.clone()
    }

    /// What waits in it, while this relay holds it and has looked.
    pub fn waiting(&self) -> Option<Waiting> {
        self.known().waiting
    }

    /// What is set aside in it, while this relay holds it and has looked.
    pub fn aside(&self) -> Option<AsideCounts> {
        self.known().aside.clone()
    }

    /// Notes what is set aside.
    pub fn note_aside(&self, found: AsideCounts) {
        let mut known = self.known();
        if known.position.is_some() {
            known.aside = Some(found);
        }
    }

    /// Notes what waits; None where it could not be looked at. Of a shard that was lost meanwhile
    /// nothing is kept.
    pub fn note_waiting(&self, found: Option<Backlog>) {
        let mut known = self.known();
        match found {
            Some(backlog) if known.position.is_some() => {
                known.waiting = Some(Waiting { backlog, at: Instant::now(), failing: false });
            }
            Some(_) => {}
            None => {
                if let Some(waiting) = &mut known.waiting {
                    waiting.failing = true;
                }
            }
        }
    }

    pub(super) fn note_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Relaxed);
    }

    pub(super) fn note_position(&self, position: Position) {
        self.known().position = Some(position);
    }

    pub(super) fn note_committed(&self, messages: u64, bytes: u64, took: Duration) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.commit_seconds.note(took);
    }

    /// Another relay has it, or none: what waits is no longer this one's to say.
    pub(super) fn note_owned(&self, owned: bool) {
        self.owned.store(owned, Ordering::Relaxed);
        if !owned {
            *self.known() = Known::default();
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_grows_while_nobody_can_look_and_goes_with_the_lease() {
        let shard = ShardTally::default();
        let found = Backlog { messages: 3, oldest_ms: 5_000, ..Backlog::default() };
        shard.note_waiting(Some(found));
        assert!(shard.waiting().is_none(), "not this relay's shard");
        shard.note_position(Position::Sequence { last: 7 });
        shard.note_waiting(Some(found));
        let looked = shard.waiting().expect("found");
        assert_eq!(looked.oldest(), Duration::from_secs(5));
        shard.note_waiting(None);
        assert!(shard.waiting().expect("kept").oldest() > Duration::from_secs(5));
        shard.note_owned(false);
        assert!(shard.waiting().is_none() && shard.position().is_none());
    }
}
