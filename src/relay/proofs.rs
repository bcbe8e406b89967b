//! For how long delivered messages stay because somebody may ask for them.
//!
//! A transaction with one writer is decided by that database's COMMIT. Where the answer to it was lost and
//! the server has crashed or failed over since, nothing proves the commit but a row that it wrote, and a
//! message is one. Nobody asks behind the transaction's deadline, which began before the row was written;
//! until then it stays, delivered or not. Messages that were published otherwise are proofs of nothing, and
//! are not kept: while none of a transaction has come, nothing stays longer than before.
//!
//! By ids: a row below one that was seen some time ago is at least as old, as both are drawn from one
//! sequence. So nothing that has to stay is ever looked at, however much of it there is.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::outbox::Chunk;

/// Between two ids that are remembered: rows stay for so much longer at most.
const GRAIN: Duration = Duration::from_secs(1);

/// Which rows have to stay, as far as the relay has seen them.
#[derive(Default)]
pub(super) struct Proofs(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    keep: Duration,
    highest: VecDeque<Highest>,
    last_proof: Option<Instant>,
    /// How often a shard was taken whose former owner may have delivered some, and up to which of these
    /// times it was found out.
    unknown: u64,
    found_out: u64,
}

/// The highest id that was read between two times.
struct Highest {
    since: Instant,
    until: Instant,
    id: i64,
}

impl Proofs {
    /// Rows of transactions stay for `keep` from now on, the longest that one may take.
    pub(super) fn keep_for(&self, keep: Duration) {
        self.lock().keep = keep;
    }

    /// These were read, at this time.
    pub(super) fn read(&self, chunks: &[Chunk], now: Instant) {
        let messages = || chunks.iter().flat_map(|chunk| &chunk.messages);
        let Some(highest) = messages().map(|stored| stored.id).max() else { return };
        let has_proof = messages().any(|stored| stored.message_id.is_of_transaction());
        self.note(highest, has_proof, now);
    }

    /// A shard was taken, whose former owner may have left delivered ones.
    pub(super) fn add_unknown(&self) {
        self.lock().unknown += 1;
    }

    /// Where it has to be found out whether there are any: by which number the answer goes.
    pub(super) fn unknown(&self) -> Option<u64> {
        let seen = self.lock();
        (seen.unknown != seen.found_out).then_some(seen.unknown)
    }

    /// The answer: whether there are any that may be young.
    pub(super) fn found(&self, asked: u64, are_any: bool, now: Instant) {
        let mut seen = self.lock();
        seen.found_out = asked;
        if are_any {
            seen.last_proof = Some(now);
        }
    }

    /// The id above which every row has to stay; None where none has to.
    pub(super) fn held_above(&self, now: Instant) -> Option<i64> {
        let mut seen = self.lock();
        let keep = seen.keep;
        let is_old = |at: Instant| now.duration_since(at) >= keep;
        if seen.last_proof.is_none_or(is_old) && seen.unknown == seen.found_out {
            seen.last_proof = None;
            return None;
        }
        Some(seen.highest.iter().rev().find(|highest| is_old(highest.until)).map_or(0, |highest| highest.id))
    }

    fn note(&self, highest: i64, has_proof: bool, now: Instant) {
        let mut seen = self.lock();
        if has_proof {
            seen.last_proof = Some(now);
        }
        let id = seen.highest.back().map_or(highest, |last| highest.max(last.id));
        match seen.highest.back_mut() {
            Some(last) if now.duration_since(last.since) < GRAIN => (last.until, last.id) = (now, id),
            _ => seen.highest.push_back(Highest { since: now, until: now, id }),
        }
        let keep = seen.keep;
        while seen.highest.get(1).is_some_and(|next| now.duration_since(next.until) >= keep) {
            seen.highest.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(30);

    fn proofs() -> Proofs {
        let proofs = Proofs::default();
        proofs.keep_for(KEEP);
        proofs
    }

    #[test]
    fn nothing_stays_where_no_transaction_wrote() {
        let (proofs, start) = (proofs(), Instant::now());
        for second in 0..100 {
            proofs.note(second, false, start + Duration::from_secs(second as u64));
        }
        assert_eq!(proofs.held_above(start + 3 * KEEP), None);
        assert!(proofs.lock().highest.len() <= 32, "bounded by time");
    }

    #[test]
    fn what_is_younger_than_that_stays_from_the_first_message_of_a_transaction_on() {
        let (proofs, start) = (proofs(), Instant::now());
        let at = |second: u64| start + Duration::from_secs(second);
        for second in 0..60 {
            proofs.note(10 * second as i64, second >= 40, at(second));
        }
        assert_eq!(proofs.held_above(at(59)), Some(290), "read at 29 s, 30 s ago");
        assert_eq!(proofs.held_above(at(60)), Some(300));
        assert_eq!(proofs.held_above(at(88)), Some(580));
        assert_eq!(proofs.held_above(at(89)), None, "the last of them is old");
        proofs.note(1_000, true, at(200));
        assert_eq!(proofs.held_above(at(201)), Some(590), "of all that stayed long enough");
    }

    #[test]
    fn an_id_counts_as_read_when_the_last_of_its_second_was() {
        let (proofs, start) = (proofs(), Instant::now());
        proofs.note(7, true, start);
        proofs.note(5, false, start + GRAIN / 2);
        assert_eq!(proofs.held_above(start + KEEP - GRAIN / 4), Some(0));
        proofs.add_unknown();
        proofs.found(1, true, start + KEEP);
        assert_eq!(proofs.held_above(start + KEEP + GRAIN / 4), Some(0), "one of both may be younger");
        assert_eq!(proofs.held_above(start + KEEP + GRAIN / 2), Some(7));
    }

    #[test]
    fn what_a_former_owner_left_stays_until_it_is_found_out() {
        let (proofs, now) = (proofs(), Instant::now());
        assert_eq!((proofs.unknown(), proofs.held_above(now)), (None, None));
        proofs.add_unknown();
        let asked = proofs.unknown().unwrap();
        proofs.add_unknown();
        assert_eq!(proofs.held_above(now), Some(0));
        proofs.found(asked, false, now);
        assert_eq!(proofs.held_above(now), Some(0), "another was taken meanwhile");
        proofs.found(proofs.unknown().unwrap(), false, now);
        assert_eq!((proofs.unknown(), proofs.held_above(now)), (None, None));
        proofs.add_unknown();
        proofs.found(proofs.unknown().unwrap(), true, now);
        assert_eq!((proofs.held_above(now), proofs.held_above(now + KEEP)), (Some(0), None));
    }
}
