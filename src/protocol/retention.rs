//! Which batches of decisions are still needed. One may be deleted once every branch in it is committed
//! and then a newer mark was acknowledged by each participant that it touched: whoever lost the commit
//! has lost the mark, too, and is found out. So what is kept is bounded by rate and time, never by the
//! number of transactions.

use std::collections::{BTreeMap, BTreeSet};

use super::decision::Decision;
use crate::id::ParticipantName;

/// A coordinator's batches that are in the decision log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Retention {
    batches: BTreeMap<u64, Kept>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kept {
    decisions: Vec<Decision>,
    /// Branches that are not known to be committed, by their transaction's number.
    unapplied: BTreeSet<(u64, ParticipantName)>,
    /// The marks that cover the commits.
    covering: BTreeMap<ParticipantName, u64>,
}

impl Retention {
    /// A batch was put into the decision log.
    pub fn decided(&mut self, batch: u64, decisions: Vec<Decision>) {
        let unapplied = decisions.iter().flat_map(|decision| {
            decision.branches.iter().map(|branch| (decision.number, branch.participant.clone()))
        });
        let unapplied = unapplied.collect();
        self.batches.insert(batch, Kept { decisions, unapplied, covering: BTreeMap::new() });
    }

    /// A branch was committed, which the participant's next mark will cover.
    pub fn applied(&mut self, batch: u64, number: u64, participant: &ParticipantName, covering: u64) {
        let Some(kept) = self.batches.get_mut(&batch) else { return };
        if kept.unapplied.remove(&(number, participant.clone())) {
            let mark = kept.covering.entry(participant.clone()).or_default();
            *mark = covering.max(*mark);
        }
    }

    /// Another instance of the participant answers: its commits may be gone, and have to be made again
    /// there. Returns what is in every batch that touches it.
    pub fn instance_changed(&mut self, participant: &ParticipantName) -> Vec<(u64, Decision)> {
        let mut again = Vec::new();
        for (batch, kept) in &mut self.batches {
            for decision in &kept.decisions {
                if decision.branches.iter().any(|branch| branch.participant == *participant) {
                    kept.unapplied.insert((decision.number, participant.clone()));
                    again.push((*batch, decision.clone()));
                }
            }
            kept.covering.remove(participant);
        }
        again
    }

    /// The batches that are not needed any more, which are forgotten here.
    pub fn take_deletable(&mut self, is_covered: impl Fn(&ParticipantName, u64) -> bool) -> Vec<u64> {
        let may_go = |kept: &Kept| {
            kept.unapplied.is_empty()
                && kept.covering.iter().all(|(participant, mark)| is_covered(participant, *mark))
        };
        let deletable: Vec<u64> =
            self.batches.iter().filter(|(_, kept)| may_go(kept)).map(|(batch, _)| *batch).collect();
        deletable.iter().for_each(|batch| drop(self.batches.remove(batch)));
        deletable
    }

    /// How many batches there are.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::decision::DecidedBranch;
    use super::*;

    fn name(text: &str) -> ParticipantName {
        text.parse().unwrap()
    }

    fn decision(number: u64) -> Decision {
        let branch = |participant| DecidedBranch {
            participant: name(participant),
            xid: 7,
            timeline: "00000001".into(),
            lsn: 1,
            is_home: false,
        };
        Decision { number, branches: vec![branch("orders"), branch("billing")] }
    }

    #[test]
    fn a_batch_goes_once_marks_cover_all_of_its_commits() {
        let mut retention = Retention::default();
        retention.decided(1, vec![decision(10), decision(11)]);
        for (number, mark) in [(10, 3), (11, 4)] {
            retention.applied(1, number, &name("orders"), mark);
            retention.applied(1, number, &name("billing"), 8);
        }
        let covered = |orders: u64, billing: u64| {
            move |participant: &ParticipantName, mark: u64| {
                mark <= if participant.as_str() == "orders" { orders } else { billing }
            }
        };
        assert!(retention.take_deletable(covered(3, 9)).is_empty(), "one commit is not covered");
        assert_eq!(retention.take_deletable(covered(4, 9)), [1]);
        assert!(retention.is_empty());
    }

    #[test]
    fn what_is_not_applied_stays_whatever_the_marks_say() {
        let mut retention = Retention::default();
        retention.decided(1, vec![decision(10)]);
        retention.applied(1, 10, &name("orders"), 1);
        assert!(retention.take_deletable(|_, _| true).is_empty());
        retention.applied(1, 10, &name("billing"), 1);
        assert_eq!(retention.instance_changed(&name("orders")), [(1, decision(10))]);
        assert!(retention.take_deletable(|_, _| true).is_empty(), "it is to be committed again");
        retention.applied(1, 10, &name("orders"), 2);
        assert_eq!(retention.take_deletable(|_, mark| mark <= 2), [1]);
    }
}
