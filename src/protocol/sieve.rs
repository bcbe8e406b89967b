//! Which messages of a shard are delivered now, and which are set aside: passed over by progress
//! without having been delivered.
//!
//! A message that can't be delivered gets a verdict and becomes a dead letter; later messages of its
//! key wait behind it, so that they never overtake it, and messages of a topic on hold wait for the
//! topic. Whatever is set aside is first recorded in the outbox, and the progress that passes over it
//! names a barrier that was committed with the record. What was recorded by somebody whose progress
//! never came is passed over again here: delivered now, it would be delivered twice.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use crate::id::MessageId;
use crate::message::StoredMessage;

/// Names a key of a topic while it is parked: a digest, as a key may be as large as a message.
pub type ParkedKey = [u8; 32];

/// A key means something only within its topic: the same number may be an order in one and a
/// customer in another.
pub fn parked_key(topic: &str, key: &[u8]) -> ParkedKey {
    let digest = Sha256::new().chain_update(topic).chain_update([0]).chain_update(key).finalize();
    digest.into()
}

/// What happens to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is delivered.
    Deliver,
    /// It is recorded as set aside, and passed over.
    SetAside(Aside),
    /// It was recorded before: it is only passed over.
    Recorded,
}

/// How the outbox records a message that progress passes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Its place in the outbox, where it stays.
    pub id: i64,
    /// Its id.
    pub message_id: MessageId,
    /// Its topic.
    pub topic: String,
    /// Whom later messages wait behind; None where none do.
    pub parked_key: Option<ParkedKey>,
    /// Why it can't be delivered: a dead letter. None where it only waits.
    pub reason: Option<String>,
}

impl Aside {
    /// What `message` is recorded as; `parks` where later messages of its key wait behind it.
    pub fn of(stored: &StoredMessage, parks: bool, reason: Option<String>) -> Self {
        let message = &stored.message;
        let parked_key = message.key().filter(|_| parks).map(|key| parked_key(message.topic(), key));
        Aside {
            id: stored.id,
            message_id: stored.message_id,
            topic: message.topic().to_string(),
            parked_key,
            reason,
        }
    }
}

struct Verdict {
    reason: String,
    parks: bool,
}

/// What one shard's deliverer knows of what is set aside.
#[derive(Default)]
pub struct Sieve {
    /// Recorded, and not yet passed by the position.
    recorded: HashSet<i64>,
    /// Given since the last record, by id.
    verdicts: HashMap<i64, Verdict>,
    /// Keys with messages set aside, and how many.
    parked: HashMap<ParkedKey, u32>,
    /// Parked by verdicts that are not recorded yet, each behind the id that was judged.
    to_park: HashMap<ParkedKey, i64>,
    held: HashSet<String>,
    dead: HashSet<String>,
    count: u64,
}

/// Why every message of a topic that a person has declared dead is a dead letter.
pub const DEAD_TOPIC: &str = "its topic was declared dead";

impl Sieve {
    /// As the outbox knows it when a shard is taken: ids recorded and not passed by the position,
    /// how many messages each parked key has, topics on hold and dead ones, and how many messages are
    /// set aside in all.
    pub fn new(
        recorded: impl IntoIterator<Item = i64>,
        parked: impl IntoIterator<Item = (ParkedKey, u32)>,
        held: impl IntoIterator<Item = String>,
        dead: impl IntoIterator<Item = String>,
        count: u64,
    ) -> Self {
        Sieve {
            recorded: recorded.into_iter().collect(),
            parked: parked.into_iter().collect(),
            held: held.into_iter().collect(),
            dead: dead.into_iter().collect(),
            count,
            ..Sieve::default()
        }
    }

    /// Whether every message is delivered: the common case, which costs nothing.
    pub fn is_open(&self) -> bool {
        self.recorded.is_empty()
            && self.verdicts.is_empty()
            && self.parked.is_empty()
            && self.held.is_empty()
            && self.dead.is_empty()
            && self.to_park.is_empty()
    }

    /// How many messages are recorded as set aside.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What happens to a message that comes in its order.
    pub fn fate(&self, stored: &StoredMessage) -> Fate {
        let message = &stored.message;
        if self.recorded.contains(&stored.id) {
            return Fate::Recorded;
        }
        if let Some(verdict) = self.verdicts.get(&stored.id) {
            return Fate::SetAside(Aside::of(stored, verdict.parks, Some(verdict.reason.clone())));
        }
        if self.dead.contains(message.topic()) {
            return Fate::SetAside(Aside::of(stored, false, Some(DEAD_TOPIC.to_string())));
        }
        let waits = self.held.contains(message.topic()) || self.is_parked(stored);
        if waits { Fate::SetAside(Aside::of(stored, true, None)) } else { Fate::Deliver }
    }

    /// What happens to a message that was set aside and is due: delivered, unless it, or one before
    /// it of its key or topic, has just turned out not to be deliverable.
    pub fn fate_again(&self, stored: &StoredMessage) -> Fate {
        let message = &stored.message;
        if let Some(verdict) = self.verdicts.get(&stored.id) {
            return Fate::SetAside(Aside::of(stored, verdict.parks, Some(verdict.reason.clone())));
        }
        let key = message.key().map(|key| parked_key(message.topic(), key));
        let behind = key.and_then(|key| self.to_park.get(&key)).is_some_and(|judged| stored.id > *judged);
        if behind || self.held.contains(message.topic()) { Fate::Recorded } else { Fate::Deliver }
    }

    fn is_parked(&self, stored: &StoredMessage) -> bool {
        if self.parked.is_empty() && self.to_park.is_empty() {
            return false;
        }
        let message = &stored.message;
        let key = message.key().map(|key| parked_key(message.topic(), key));
        let behind = |key| self.to_park.get(&key).is_some_and(|judged| stored.id > *judged);
        key.is_some_and(|key| self.parked.contains_key(&key) || behind(key))
    }

    /// A message can't be delivered. With `parks` later ones of its key wait from now on.
    pub fn judge(&mut self, stored: &StoredMessage, reason: String, parks: bool) {
        let aside = Aside::of(stored, parks, None);
        if let Some(key) = aside.parked_key {
            let judged = self.to_park.entry(key).or_insert(stored.id);
            *judged = stored.id.min(*judged);
        }
        self.verdicts.insert(stored.id, Verdict { reason, parks });
    }

    /// The verdict on a message, which may not be recorded yet.
    pub fn is_judged(&self, id: i64) -> bool {
        self.verdicts.contains_key(&id)
    }

    /// A topic takes nothing now.
    pub fn hold(&mut self, topic: &str) {
        self.held.insert(topic.to_string());
    }

    /// A topic may take messages again. Those of keys that still wait are not let past.
    pub fn release(&mut self, topic: &str) {
        self.held.remove(topic);
    }

    /// The topics on hold.
    pub fn held(&self) -> Vec<String> {
        self.held.iter().cloned().collect()
    }

    /// Which topics a person has declared dead.
    pub fn set_dead(&mut self, topics: impl IntoIterator<Item = String>) {
        self.dead = topics.into_iter().collect();
        self.held.retain(|topic| !self.dead.contains(topic));
    }

    /// `asides` are recorded; those among them whose id is in `new` were not before.
    pub fn recorded(&mut self, asides: &[Aside], new: &HashSet<i64>) {
        for aside in asides {
            self.recorded.insert(aside.id);
            self.verdicts.remove(&aside.id);
            if new.contains(&aside.id) {
                self.count += 1;
                if let Some(key) = aside.parked_key {
                    *self.parked.entry(key).or_insert(0) += 1;
                }
            }
        }
        self.to_park.retain(|key, _| !self.parked.contains_key(key));
    }

    /// The position has passed these messages.
    pub fn passed<'a>(&mut self, messages: impl IntoIterator<Item = &'a StoredMessage>) {
        for stored in messages {
            if self.recorded.is_empty() {
                return;
            }
            self.recorded.remove(&stored.id);
        }
    }

    /// A message that was set aside is delivered or discarded, and its record is gone.
    pub fn cleared(&mut self, key: Option<ParkedKey>) {
        self.count = self.count.saturating_sub(1);
        self.unparked(key);
    }

    /// A message that was set aside parks its key no longer.
    pub fn unparked(&mut self, key: Option<ParkedKey>) {
        let Some(key) = key else { return };
        if let Some(left) = self.parked.get_mut(&key) {
            *left -= 1;
            if *left == 0 {
                self.parked.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
