//! Who holds a lock, who waits for it, and which wait is a deadlock. A lock is a queue of entries: the first one
//! holds it, and each other one waits for all before it. An entry's number is the lock's fencing number once
//! it holds; numbers only grow, so that a later holder's is always higher.
//!
//! A wait is numbered, too, when it begins, and sees every wait that began before it. So of the waits that form
//! a circle exactly one, the last one, sees all of it: that one is told, and nobody has to be asked.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{HolderId, LockName, TransactionId};

/// What the holder of a queue's first place has. Locks and elections of the same name have nothing to do with
/// each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// A lock.
    Lock,
    /// The leadership of an election.
    Leader,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queue {
    /// What it is for.
    pub purpose: Purpose,
    /// What people call it.
    pub name: LockName,
}

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A transaction. Its entry counts for as long as its coordinator has a record, whoever lives.
    Transaction(TransactionId),
    /// A session. Its entry is gone with the session.
    Holder(HolderId),
}

/// A place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its order, and the fencing number.
    pub number: i64,
    /// Whose it is.
    pub owner: Owner,
}

/// Where somebody stands in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the first place: the lock is held, with this fencing number.
    Holds(i64),
    /// Behind this entry, and all before it. Only this one is watched, so that one who leaves wakes one.
    Behind(Entry),
    /// Not in it.
    Absent,
}

/// Where somebody stands in a queue, which is in any order.
pub fn standing(queue: &[Entry], owner: Owner) -> Standing {
    let Some(own) = queue.iter().find(|entry| entry.owner == owner) else { return Standing::Absent };
    match ahead_of(queue, own.number).max_by_key(|entry| entry.number) {
        Some(before) => Standing::Behind(*before),
        None => Standing::Holds(own.number),
    }
}

/// The transactions that one waits for in a queue.
pub fn transactions_ahead(queue: &[Entry], waiting: TransactionId) -> BTreeSet<TransactionId> {
    let own = queue.iter().find(|entry| entry.owner == Owner::Transaction(waiting));
    let ahead = own.into_iter().flat_map(|own| ahead_of(queue, own.number));
    let transaction = |entry: &Entry| match entry.owner {
        Owner::Transaction(id) => Some(id),
        Owner::Holder(_) => None,
    };
    ahead.filter_map(transaction).collect()
}

fn ahead_of(queue: &[Entry], number: i64) -> impl Iterator<Item = &Entry> {
    queue.iter().filter(move |entry| entry.number < number)
}

/// One transaction's wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Its number: when it began, among all waits.
    pub began: i64,
    /// For whom it waits.
    pub ahead: BTreeSet<TransactionId>,
}

/// The circle that a transaction's wait has closed; None where there is none, or where another wait in it began
/// later and will find it. Given are the waits that were there when this one had begun.
pub fn closed_circle(
    waiting: TransactionId,
    waits: &BTreeMap<TransactionId, Wait>,
) -> Option<Vec<TransactionId>> {
    let own = waits.get(&waiting)?;
    let mut came_from: BTreeMap<TransactionId, TransactionId> = BTreeMap::new();
    let mut open = vec![waiting];
    while let Some(at) = open.pop() {
        let Some(wait) = waits.get(&at).filter(|wait| wait.began <= own.began) else { continue };
        for next in &wait.ahead {
            if *next == waiting {
                let mut circle = vec![at];
                while let Some(before) = circle.last().and_then(|last| came_from.get(last)) {
                    circle.push(*before);
                }
                circle.reverse();
                return Some(circle);
            }
            if !came_from.contains_key(next) {
                came_from.insert(*next, at);
                open.push(*next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::CoordinatorId;

    fn transaction(number: u64) -> TransactionId {
        TransactionId { coordinator: CoordinatorId(uuid::Uuid::nil()), number }
    }

    fn entry(number: i64, of: u64) -> Entry {
        Entry { number, owner: Owner::Transaction(transaction(of)) }
    }

    #[test]
    fn the_first_holds_and_each_other_watches_the_one_before_it() {
        let holder = Entry { number: 4, owner: Owner::Holder(HolderId::random()) };
        let queue = [entry(9, 3), entry(2, 1), holder];
        assert_eq!(standing(&queue, queue[1].owner), Standing::Holds(2));
        assert_eq!(standing(&queue, holder.owner), Standing::Behind(queue[1]));
        assert_eq!(standing(&queue, queue[0].owner), Standing::Behind(holder));
        assert_eq!(standing(&queue, entry(0, 7).owner), Standing::Absent);
        assert_eq!(transactions_ahead(&queue, transaction(3)), BTreeSet::from([transaction(1)]));
        assert_eq!(transactions_ahead(&queue, transaction(7)), BTreeSet::new());
    }

    /// Each waits for the next one, in the order in which the waits began.
    fn ring(began: &[i64]) -> BTreeMap<TransactionId, Wait> {
        let count = began.len() as u64;
        let wait = |(at, began): (u64, &i64)| {
            let ahead = BTreeSet::from([transaction((at + 1) % count)]);
            (transaction(at), Wait { began: *began, ahead })
        };
        (0..count).zip(began).map(wait).collect()
    }

    #[test]
    fn the_last_who_began_to_wait_is_told_and_nobody_else() {
        let waits = ring(&[5, 9, 7]);
        assert_eq!(closed_circle(transaction(0), &waits), None);
        assert_eq!(closed_circle(transaction(2), &waits), None);
        let circle = closed_circle(transaction(1), &waits).unwrap();
        assert_eq!(circle, [1, 2, 0].map(transaction));
    }

    proptest! {
        /// Waits come and go in any order; each that begins is judged by those there are then, and ended where
        /// it is told. Then no circle stays, and nobody is told without one.
        #[test]
        fn no_circle_stays_and_none_is_made_up(
            steps in prop::collection::vec((0u64..6, prop::collection::btree_set(0u64..6, 0..4), any::<bool>()), 1..40)
        ) {
            let mut waits: BTreeMap<TransactionId, Wait> = BTreeMap::new();
            for (at, (who, ahead, ends)) in steps.into_iter().enumerate() {
                let who = transaction(who);
                // Who waits does nothing else until its wait has ended.
                if ends || waits.contains_key(&who) {
                    waits.remove(&who);
                    continue;
                }
                let ahead: BTreeSet<_> = ahead.into_iter().map(transaction).filter(|one| *one != who).collect();
                waits.insert(who, Wait { began: at as i64, ahead });
                if let Some(circle) = closed_circle(who, &waits) {
                    for (one, next) in circle.iter().zip(circle.iter().cycle().skip(1)) {
                        prop_assert!(waits[one].ahead.contains(next), "no circle: {circle:?}");
                    }
                    waits.remove(&who);
                }
                prop_assert!(is_free_of_circles(&waits));
            }
        }
    }

    /// By taking away, again and again, who waits for nobody that waits.
    fn is_free_of_circles(waits: &BTreeMap<TransactionId, Wait>) -> bool {
        let mut left = waits.clone();
        loop {
            let free = left.iter().find(|(_, wait)| wait.ahead.iter().all(|next| !left.contains_key(next)));
            match free.map(|(id, _)| *id) {
                Some(id) => drop(left.remove(&id)),
                None => return left.is_empty(),
            }
        }
    }
}
