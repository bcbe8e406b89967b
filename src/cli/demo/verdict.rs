//! Compares what was delivered with what was committed. Pure.

use std::collections::{HashMap, HashSet};

use crate::id::MessageId;

/// A message: its key, and its id.
pub(super) type Keyed = (Vec<u8>, MessageId);

/// What the comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) duplicates: u64,
    pub(super) out_of_order: u64,
    pub(super) phantom: u64,
}

impl Verdict {
    /// Every committed message once and in order, and no other.
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicates == 0 && self.out_of_order == 0 && self.phantom == 0
    }

    /// What the demo ends with: whoever runs it in a script learns of a broken promise, too.
    pub(super) fn exit_code(&self) -> i32 {
        i32::from(!self.is_clean())
    }
}

/// `expected` in the order of commit, `delivered` in the order of delivery.
pub(super) fn compare(expected: &[Keyed], delivered: &[Keyed]) -> Verdict {
    let places: HashMap<MessageId, usize> =
        expected.iter().enumerate().map(|(place, (_, id))| (*id, place)).collect();
    let mut verdict =
        Verdict { published: expected.len() as u64, delivered: delivered.len() as u64, ..Verdict::default() };
    let mut seen: HashSet<MessageId> = HashSet::new();
    let mut last_of_key: HashMap<&[u8], usize> = HashMap::new();
    for (key, id) in delivered {
        let Some(place) = places.get(id) else {
            verdict.phantom += 1;
            continue;
        };
        if !seen.insert(*id) {
            verdict.duplicates += 1;
            continue;
        }
        let last = last_of_key.entry(key).or_insert(*place);
        if *place < *last {
            verdict.out_of_order += 1;
        }
        *last = (*last).max(*place);
    }
    verdict.lost = (expected.len() - seen.len()) as u64;
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn keyed(key: &str, number: u128) -> Keyed {
        (key.as_bytes().to_vec(), MessageId(Uuid::from_u128(number)))
    }

    #[test]
    fn each_fault_is_told_from_the_others() {
        let expected = [keyed("a", 1), keyed("b", 2), keyed("a", 3), keyed("a", 4)];
        let clean = compare(&expected, &[keyed("b", 2), keyed("a", 1), keyed("a", 3), keyed("a", 4)]);
        assert!(clean.is_clean(), "keys may overtake each other: {clean:?}");
        let faulty =
            compare(&expected, &[keyed("a", 1), keyed("a", 4), keyed("a", 3), keyed("a", 1), keyed("c", 9)]);
        let counts = (faulty.lost, faulty.duplicates, faulty.out_of_order, faulty.phantom);
        assert_eq!(counts, (1, 1, 1, 1));
        assert!(!compare(&expected, &[]).is_clean());
    }

    #[test]
    fn any_one_fault_ends_the_demo_with_1() {
        let expected = [keyed("a", 1), keyed("a", 2)];
        assert_eq!(compare(&expected, &expected).exit_code(), 0);
        let [first, second] = expected.clone();
        let faults = [
            ("lost", vec![first.clone()]),
            ("duplicate", vec![first.clone(), second.clone(), second.clone()]),
            ("out of order", vec![second.clone(), first.clone()]),
            ("phantom", vec![first, second, keyed("a", 3)]),
        ];
        for (fault, delivered) in faults {
            assert_eq!(compare(&expected, &delivered).exit_code(), 1, "{fault}");
        }
    }
}
