//! Leases that are kept in the rows of a table: who lives and what may be taken, decided from what
//! was read there. Pure; the backends read and write the rows.
//!
//! Every relay raises the number `beat` of its own row and of the rows of the shards it owns, in
//! one transaction at each renewal. Who finds a number standing still for the whole timeout, on its
//! own monotonic clock, counts the owner as dead; no two clocks are ever compared.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{Epoch, RelayId, ShardIndex};
use crate::lease::LeaseView;
use crate::protocol::lease::Observer;

/// A relay's row is removed when its number stood still this many timeouts: nobody asks for it any
/// more, and the table must not grow with every start of a relay.
const GONE_AFTER_TIMEOUTS: u32 = 20;

/// One shard's row. It stays for ever, because its epoch must not begin anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub(crate) shard: ShardIndex,
    pub(crate) owner: Option<RelayId>,
    pub(crate) epoch: Epoch,
    pub(crate) beat: i64,
}

impl LeaseRow {
    /// The epoch with which the shard is taken from this row: above all that were ever returned.
    pub(crate) fn next_epoch(&self, above: Epoch) -> Epoch {
        self.epoch.max(above).next()
    }
}

/// One relay's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayRow {
    pub(crate) id: RelayId,
    pub(crate) beat: i64,
}

/// Who owns what, as it is recorded and whoever lives; `me`, who only looks, is left out.
pub(crate) fn recorded(me: RelayId, leases: &[LeaseRow], relays: &[RelayRow]) -> LeaseView {
    LeaseView {
        live: relays.iter().map(|row| row.id).filter(|id| *id != me).collect(),
        owners: leases.iter().map(|row| (row.shard, row.owner)).collect(),
        beats: leases.iter().filter(|row| row.owner.is_some()).map(|row| (row.shard, row.beat)).collect(),
    }
}

/// When rows were read, on the observer's monotonic clock. Two times, because a read may take long:
/// a number seen to move moved before the answer, one seen to stand still stood until it was asked
/// for. With one time, a slow answer makes a living owner count as dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadAt {
    pub(crate) asked: Duration,
    pub(crate) answered: Duration,
}

impl ReadAt {
    fn allow(self, timeout: Duration) -> Duration {
        timeout + self.answered.saturating_sub(self.asked)
    }
}

/// What one relay has observed of the others.
#[derive(Debug)]
pub(crate) struct Beats {
    me: RelayId,
    timeout: Duration,
    relays: Observer<RelayId>,
    owners: Observer<(ShardIndex, RelayId)>,
}

impl Beats {
    pub(crate) fn new(me: RelayId, timeout: Duration) -> Self {
        Beats { me, timeout, relays: Observer::default(), owners: Observer::default() }
    }

    /// Who lives and who owns what, from all the rows of one participant. Also the relays whose
    /// rows may be removed, each only if its `beat` is still the one given here.
    pub(crate) fn view(
        &mut self,
        leases: &[LeaseRow],
        relays: &[RelayRow],
        at: ReadAt,
    ) -> (LeaseView, Vec<RelayRow>) {
        self.relays.keep(|known| relays.iter().any(|row| row.id == *known));
        self.owners
            .keep(|(shard, owner)| leases.iter().any(|row| row.shard == *shard && row.owner == Some(*owner)));
        let mut live = Vec::new();
        let mut gone = Vec::new();
        for row in relays {
            if self.relay_lives(row, at, self.timeout) {
                live.push(row.id);
            } else if !self.relay_lives(row, at, self.timeout * GONE_AFTER_TIMEOUTS) {
                gone.push(row.clone());
            }
        }
        let owners = leases.iter().map(|row| (row.shard, row.owner.filter(|_| self.is_owned(row, at))));
        let owners = owners.collect();
        (LeaseView { live, owners, beats: BTreeMap::new() }, gone)
    }

    /// Whether the shard of this row, as it was just read, may be taken: it is free, this relay's
    /// own, or its owner counts as dead by this relay's own observation.
    pub(crate) fn may_take(&mut self, row: &LeaseRow, at: ReadAt) -> bool {
        row.owner == Some(self.me) || !self.is_owned(row, at)
    }

    fn relay_lives(&mut self, row: &RelayRow, at: ReadAt, timeout: Duration) -> bool {
        row.id == self.me || self.relays.lives(&row.id, row.beat, at.answered, at.allow(timeout))
    }

    fn is_owned(&mut self, row: &LeaseRow, at: ReadAt) -> bool {
        let Some(owner) = row.owner else { return false };
        let key = (row.shard, owner);
        owner == self.me || self.owners.lives(&key, row.beat, at.answered, at.allow(self.timeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const TIMEOUT: Duration = Duration::from_secs(2);

    fn relay(number: u8) -> RelayId {
        RelayId(Uuid::from_u128(u128::from(number)))
    }

    fn lease(owner: Option<u8>, beat: i64) -> LeaseRow {
        LeaseRow { shard: ShardIndex(0), owner: owner.map(relay), epoch: Epoch(7), beat }
    }

    fn at(asked: u64, answered: u64) -> ReadAt {
        ReadAt { asked: Duration::from_millis(asked), answered: Duration::from_millis(answered) }
    }

    #[test]
    fn an_owner_keeps_its_shard_until_its_beat_stood_still_for_the_timeout() {
        let mut beats = Beats::new(relay(1), TIMEOUT);
        let relays = [RelayRow { id: relay(1), beat: 1 }, RelayRow { id: relay(2), beat: 5 }];
        let mut look = |beat, now| {
            let row = lease(Some(2), beat);
            let (view, _) = beats.view(std::slice::from_ref(&row), &relays, at(now, now));
            let takes = beats.may_take(&row, at(now, now));
            assert_eq!(takes, view.owners[0].1.is_none());
            takes
        };
        assert!(!look(1, 0));
        assert!(!look(1, 1_999));
        assert!(!look(2, 2_000));
        assert!(!look(2, 3_999));
        assert!(look(2, 4_000));
    }

    #[test]
    fn what_is_free_or_its_own_may_be_taken_at_once() {
        let mut beats = Beats::new(relay(1), TIMEOUT);
        assert!(beats.may_take(&lease(None, 1), at(0, 0)));
        assert!(beats.may_take(&lease(Some(1), 1), at(0, 0)));
        assert!(!beats.may_take(&lease(Some(2), 1), at(0, 0)));
        assert_eq!(lease(None, 1).next_epoch(Epoch(3)), Epoch(8));
        assert_eq!(lease(None, 1).next_epoch(Epoch(9)), Epoch(10));
    }

    #[test]
    fn a_slow_answer_kills_nobody() {
        let mut beats = Beats::new(relay(1), TIMEOUT);
        let row = lease(Some(2), 1);
        // The answer says how it was at some moment between 0 and 10 s.
        assert!(!beats.may_take(&row, at(0, 10_000)));
        assert!(!beats.may_take(&row, at(10_100, 10_100)));
        // Asked before the timeout was over, answered long after: the number may have moved since.
        assert!(!beats.may_take(&row, at(11_900, 30_000)));
        assert!(beats.may_take(&row, at(12_000, 12_000)));
    }

    #[test]
    fn dead_relays_vanish_from_the_view_and_later_from_the_table() {
        let mut beats = Beats::new(relay(1), TIMEOUT);
        let relays = [RelayRow { id: relay(1), beat: 1 }, RelayRow { id: relay(2), beat: 5 }];
        let mut look = |now| {
            let (view, gone) = beats.view(&[], &relays, at(now, now));
            (view.live.len(), gone)
        };
        assert_eq!(look(0), (2, vec![]));
        assert_eq!(look(2_000), (1, vec![]));
        assert_eq!(look(39_999), (1, vec![]));
        assert_eq!(look(40_000), (1, vec![relays[1].clone()]));
    }
}
