//! The numbers of one participant's relay, from its start on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::shard::ShardTally;
use super::store::StoreTally;
use crate::id::ShardIndex;

/// What a relay has done since it was started, and what it can't reach. Whoever shows it reads it at
/// any time; nothing here makes the relay wait.
#[derive(Debug)]
pub struct Tally {
    /// One a shard of the outbox, by its number.
    pub shards: Box<[ShardTally]>,
    /// The database with the outbox.
    pub outbox: StoreTally,
    /// Kafka, or the topic log.
    pub delivery: StoreTally,
    /// Where leases are kept.
    pub leases: StoreTally,
    /// Delivered messages that were removed from the outbox.
    pub pruned_messages: AtomicU64,
    /// Relays of this participant that live, this one among them, as it last saw them.
    pub live_relays: AtomicU64,
    life: Mutex<Life>,
}

/// The stores of a relay, by the words that metrics and health use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// The database with the outbox.
    Outbox,
    /// Kafka, or the topic log.
    Delivery,
    /// Where leases are kept.
    Leases,
}

impl Store {
    /// All of them.
    pub const ALL: [Store; 3] = [Store::Outbox, Store::Delivery, Store::Leases];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Store::Outbox => "outbox",
            Store::Delivery => "delivery",
            Store::Leases => "leases",
        }
    }
}

#[derive(Debug)]
struct Life {
    turned: Instant,
    /// When a renewal last succeeded, and for how long it holds; None while it takes no part.
    renewed: Option<(Instant, Duration)>,
    ended: Option<String>,
}

impl Tally {
    /// All zero, for an outbox with so many shards.
    pub fn new(shards: u16) -> Self {
        Tally {
            shards: (0..shards).map(|_| ShardTally::default()).collect(),
            outbox: StoreTally::default(),
            delivery: StoreTally::default(),
            leases: StoreTally::default(),
            pruned_messages: AtomicU64::new(0),
            live_relays: AtomicU64::new(0),
            life: Mutex::new(Life { turned: Instant::now(), renewed: None, ended: None }),
        }
    }

    /// One of the stores.
    pub fn store(&self, store: Store) -> &StoreTally {
        match store {
            Store::Outbox => &self.outbox,
            Store::Delivery => &self.delivery,
            Store::Leases => &self.leases,
        }
    }

    /// The supervisor's loop has turned.
    pub fn note_turn(&self) {
        self.life().turned = Instant::now();
    }

    /// For how long it has not; None where it has ended.
    pub fn since_turn(&self) -> Option<Duration> {
        let life = self.life();
        life.ended.is_none().then(|| life.turned.elapsed())
    }

    /// The relay has ended while others go on; `why` where it was by an error.
    pub fn note_end(&self, why: Option<String>) {
        self.life().ended = Some(why.unwrap_or_else(|| "it was told to stop".to_string()));
        self.note_left();
    }

    /// Why the relay has ended, where it has.
    pub fn ended(&self) -> Option<String> {
        self.life().ended.clone()
    }

    /// Whether it counts among the living, and may deliver.
    pub fn takes_part(&self) -> bool {
        self.life().renewed.is_some_and(|(at, timeout)| at.elapsed() < timeout)
    }

    pub(super) fn shard(&self, shard: ShardIndex) -> Option<&ShardTally> {
        self.shards.get(usize::from(shard.0))
    }

    pub(super) fn note_renewal(&self, began: Instant, timeout: Duration) {
        self.life().renewed = Some((began, timeout));
    }

    pub(super) fn note_left(&self) {
        self.life().renewed = None;
        self.live_relays.store(0, Ordering::Relaxed);
        self.shards.iter().for_each(|shard| shard.note_owned(false));
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
