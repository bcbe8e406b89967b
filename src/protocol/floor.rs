//! The floor: the id below which a window's backlog need not be scanned.
//!
//! A scan from id 0 costs half a second for each million dead rows. So the reader keeps pairs
//! (F, B): F is the id sequence's last value, read inside a barrier's transaction *before* that
//! transaction drew its number B. A row with id at or below F drew its transaction number before
//! F was read, so that number is below B. For a window after `prev` with B < xmax(prev), such a
//! row was either seen by `prev` already or belongs to a transaction that was in progress then,
//! and those few are read by their transaction numbers. The last value taken before the previous
//! snapshot is *not* a floor: a running transaction at or above xmax is not in its list.

use crate::protocol::snapshot::Snapshot;

/// More pairs than this are never useful: the oldest are dropped.
const PAIRS_MAX: usize = 64;

/// The pairs seen so far. They are dropped with the position: after a crash of the server both
/// sequences and transaction numbers may come again.
#[derive(Clone, Debug, Default)]
pub struct Floors {
    pairs: Vec<(i64, u64)>,
}

impl Floors {
    /// Notes that `last_value` was read before `barrier_xid` was drawn.
    pub fn note(&mut self, last_value: i64, barrier_xid: u64) {
        if self.pairs.len() == PAIRS_MAX {
            self.pairs.remove(0);
        }
        self.pairs.push((last_value, barrier_xid));
    }

    /// The floor of a window after `prev`; 0 where no pair serves.
    pub fn after(&self, prev: &Snapshot) -> i64 {
        let below = self.pairs.iter().filter(|(_, barrier_xid)| *barrier_xid < prev.xmax());
        below.map(|(last_value, _)| *last_value).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_barrier_below_the_previous_snapshot_gives_a_floor() {
        let mut floors = Floors::default();
        let prev: Snapshot = "100:110:100".parse().unwrap();
        assert_eq!(floors.after(&prev), 0);
        floors.note(500, 109);
        floors.note(700, 110);
        assert_eq!(floors.after(&prev), 500);
        for xid in 200..200 + 2 * PAIRS_MAX as u64 {
            floors.note(800, xid);
        }
        assert_eq!(floors.after(&prev), 0, "a dropped pair costs a scan, never a row");
    }
}
