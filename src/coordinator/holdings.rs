//! What a node has a hand on, for whoever shows it: its own coordinator, those of the dead that it recovers, and the
//! locks that it holds. Nothing rests on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::id::CoordinatorId;
use crate::protocol::lock::Queue;

/// See the module.
#[derive(Debug, Default)]
pub struct Holdings(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    own: Option<CoordinatorId>,
    recovering: BTreeSet<CoordinatorId>,
    /// Since when each lock is held, by its queue and number.
    locks: BTreeMap<(Queue, i64), Instant>,
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

    /// The locks and leaderships that it has held for this long, with their numbers, those that it has held longest
    /// first.
    pub fn locks(&self, held_for: Duration) -> Vec<(Queue, i64)> {
        let held = self.held();
        let mut locks: Vec<_> = held.locks.iter().filter(|(_, since)| since.elapsed() >= held_for).collect();
        locks.sort_by_key(|(_, since)| **since);
        locks.into_iter().map(|(lock, _)| lock.clone()).collect()
    }

    /// Whether it holds this one.
    pub(super) fn has(&self, queue: &Queue) -> bool {
        self.held().locks.keys().any(|(held, _)| held == queue)
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

    /// Lists a lock for as long as what is returned lives.
    pub(super) fn holds(self: &Arc<Self>, queue: &Queue, number: i64) -> Listed {
        self.held().locks.insert((queue.clone(), number), Instant::now());
        Listed { holdings: Arc::clone(self), queue: queue.clone(), number }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock that is listed. Dropped, it is no more.
#[derive(Debug)]
pub(super) struct Listed {
    holdings: Arc<Holdings>,
    queue: Queue,
    /// Its fencing number.
    pub(super) number: i64,
}

impl Listed {
    /// Takes it from the list, where its holder lives on.
    pub(super) fn remove(&self) {
        self.holdings.held().locks.remove(&(self.queue.clone(), self.number));
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::lock::Purpose;

    fn queue(purpose: Purpose, name: &str) -> Queue {
        Queue { purpose, name: name.parse().unwrap() }
    }

    #[test]
    fn a_lock_is_listed_until_it_is_given_up() {
        let holdings = Arc::new(Holdings::default());
        let (first, second) = (queue(Purpose::Lock, "b"), queue(Purpose::Leader, "a"));
        let held = [holdings.holds(&first, 7), holdings.holds(&second, 7), holdings.holds(&first, 9)];
        let all = || holdings.locks(Duration::ZERO);
        assert_eq!(all(), [(first.clone(), 7), (second.clone(), 7), (first.clone(), 9)], "in their order");
        assert_eq!(holdings.locks(Duration::from_secs(3600)), [], "they were taken just now");
        assert!(holdings.has(&first) && !holdings.has(&queue(Purpose::Leader, "b")));
        let [one, two, three] = held;
        one.remove();
        assert_eq!(all(), [(second, 7), (first.clone(), 9)]);
        drop(two);
        drop(one);
        assert_eq!(all(), [(first, 9)]);
        drop(three);
        assert_eq!(all(), []);
    }
}
