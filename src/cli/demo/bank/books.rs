//! Compares the books: what both databases have, what was delivered, and what the workers were told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::TransactionId;

/// Transfers, with how the money in a database changed. Each is named by its transaction.
pub(super) type Entries = BTreeMap<TransactionId, i64>;

/// All that there is to compare.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    pub(super) north: Entries,
    pub(super) south: Entries,
    /// The money in each database, at first and now.
    pub(super) money_before: [i64; 2],
    pub(super) money: [i64; 2],
    /// What was delivered: transfers, with how much went to the south.
    pub(super) delivered: Vec<(TransactionId, i64)>,
    /// What the dead left half done.
    pub(super) left: BTreeSet<TransactionId>,
    /// Transfers of which a worker was told that they are committed, or that they are rolled back.
    pub(super) told_committed: BTreeSet<TransactionId>,
    pub(super) told_rolled_back: BTreeSet<TransactionId>,
}

impl Books {
    /// How many of those that were left half done are committed, and rolled back.
    pub(super) fn settled(&self) -> [usize; 2] {
        let committed = self.left.iter().filter(|transfer| self.south.contains_key(transfer)).count();
        [committed, self.left.len() - committed]
    }
}

/// What is wrong, by count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Transfers of which one database has a part that the other has not.
    pub(super) torn: u64,
    /// Databases whose money is not what their entries say.
    pub(super) wrong_sums: u64,
    pub(super) lost: u64,
    pub(super) duplicates: u64,
    pub(super) phantom: u64,
    pub(super) told_wrong: u64,
}

impl Verdict {
    pub(super) fn is_clean(self) -> bool {
        self == Verdict::default()
    }

    /// What the demo ends with: whoever runs it in a script learns of a broken promise, too.
    pub(super) fn exit_code(self) -> i32 {
        i32::from(!self.is_clean())
    }
}

pub(super) fn compare(books: &Books) -> Verdict {
    let Books { north, south, .. } = books;
    let all: BTreeSet<&TransactionId> = north.keys().chain(south.keys()).collect();
    let is_torn = |transfer: &&&TransactionId| {
        north.get(**transfer).map(|amount| -amount) != south.get(**transfer).copied()
    };
    let mut verdict = Verdict { torn: all.iter().filter(is_torn).count() as u64, ..Verdict::default() };
    for (place, entries) in [north, south].into_iter().enumerate() {
        let expected = books.money_before[place] + entries.values().sum::<i64>();
        verdict.wrong_sums += u64::from(books.money[place] != expected);
    }
    let mut seen = BTreeSet::new();
    for (transfer, amount) in &books.delivered {
        if !seen.insert(transfer) {
            verdict.duplicates += 1;
        } else if south.get(transfer) != Some(amount) {
            verdict.phantom += 1;
        }
    }
    verdict.lost = south.keys().filter(|transfer| !seen.contains(transfer)).count() as u64;
    let false_commits = books.told_committed.iter().filter(|told| !all.contains(told)).count();
    let false_rollbacks = books.told_rolled_back.iter().filter(|told| all.contains(told)).count();
    verdict.told_wrong = (false_commits + false_rollbacks) as u64;
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::CoordinatorId;

    fn id(number: u64) -> TransactionId {
        TransactionId { coordinator: CoordinatorId(uuid::Uuid::nil()), number }
    }

    fn clean() -> Books {
        Books {
            north: [(id(1), -5), (id(2), 7)].into(),
            south: [(id(1), 5), (id(2), -7)].into(),
            money_before: [100, 100],
            money: [102, 98],
            delivered: vec![(id(2), -7), (id(1), 5)],
            left: [id(2), id(4)].into(),
            told_committed: [id(1)].into(),
            told_rolled_back: [id(3)].into(),
        }
    }

    #[test]
    fn books_that_agree_are_clean() {
        assert!(compare(&clean()).is_clean());
        assert_eq!(compare(&clean()).exit_code(), 0);
        assert_eq!(clean().settled(), [1, 1]);
        assert!(compare(&Books::default()).is_clean());
    }

    #[test]
    fn any_one_fault_is_found_and_ends_the_demo_with_1() {
        let fault = |change: fn(&mut Books)| {
            let mut books = clean();
            change(&mut books);
            let verdict = compare(&books);
            assert_eq!(verdict.exit_code(), 1, "{verdict:?}");
            verdict
        };
        assert_eq!(fault(|books| _ = books.south.remove(&id(1))).torn, 1);
        assert_eq!(fault(|books| _ = books.north.insert(id(1), -6)).torn, 1);
        assert_eq!(fault(|books| books.money[1] += 1).wrong_sums, 1);
        assert_eq!(fault(|books| _ = books.delivered.pop()).lost, 1);
        assert_eq!(fault(|books| books.delivered.push((id(1), 5))).duplicates, 1);
        assert_eq!(fault(|books| books.delivered.push((id(9), 5))).phantom, 1);
        assert_eq!(fault(|books| books.delivered[0].1 = 8).phantom, 1);
        assert_eq!(fault(|books| _ = books.told_committed.insert(id(3))).told_wrong, 1);
        assert_eq!(fault(|books| _ = books.told_rolled_back.insert(id(1))).told_wrong, 1);
    }
}
