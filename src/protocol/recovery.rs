//! What a recoverer does about a dead coordinator in one participant, by what the decision log and the
//! participant have of it. Whoever carries it out has read the decisions behind its own fence, and everything
//! of the participant from one instance of the server.

use std::collections::BTreeSet;

use super::history::{Marks, Row, Verdict};

/// What is to be done in a participant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Plan {
    /// Nothing: it is settled already.
    Nothing,
    /// To end these, and then to close the row in the instance that has listed and ended them.
    Settle(Ends),
    /// To touch nothing, as a history was lost: the row is below or above what the record says.
    Refuse(Verdict),
}

/// How transactions end in a participant, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Prepared, and decided.
    pub commit: BTreeSet<u64>,
    /// Prepared, and not decided; nobody can decide them any more.
    pub roll_back: BTreeSet<u64>,
    /// Decided, and not prepared: the row may be closed only once each is known to be committed.
    pub absent: BTreeSet<u64>,
}

/// What is to be done in a participant with what a coordinator that has a record left there. `marks` are the
/// record's, and `row` is the participant's history row; `prepared` has the transactions of which a branch is
/// prepared there, and `decided` the decided ones that have a branch there.
pub fn plan(marks: &Marks, row: Option<Row>, prepared: &BTreeSet<u64>, decided: &BTreeSet<u64>) -> Plan {
    let ends = Ends { commit: prepared & decided, roll_back: prepared - decided, absent: decided - prepared };
    // Whoever decides has a first mark in the row by then, which the record acknowledges with the next one: a copy
    // from before it, whose numbers strangers have got since, looked settled.
    let acknowledged = marks.acknowledged.max(u64::from(!decided.is_empty()));
    match (Marks { acknowledged, ..*marks }).judge(row, !ends.roll_back.is_empty()) {
        Verdict::Settled => Plan::Nothing,
        Verdict::Settle => Plan::Settle(ends),
        lost @ (Verdict::ParticipantLost | Verdict::RecordLost) => Plan::Refuse(lost),
    }
}

/// What may be done with prepared branches of a coordinator that has no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OrphanRule {
    /// To roll them back: everything was settled, and they were prepared behind it.
    RollBack,
    /// To touch nothing: the record is gone and the participant does not say that it was settled, so that a
    /// history was lost. They may have been decided.
    Refuse,
}

/// Judges them by the participant's history row.
pub fn judge_orphans(row: Option<Row>) -> OrphanRule {
    match row {
        Some(Row { is_closed: true, .. }) => OrphanRule::RollBack,
        Some(Row { is_closed: false, .. }) | None => OrphanRule::Refuse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks { announced: 3, acknowledged: 2 };

    fn row(mark: u64, is_closed: bool) -> Option<Row> {
        Some(Row { mark, is_closed })
    }

    #[test]
    fn what_is_decided_is_committed_and_the_rest_rolled_back() {
        let (prepared, decided) = ([1, 2].into(), [2, 3].into());
        let ends = Ends { commit: [2].into(), roll_back: [1].into(), absent: [3].into() };
        assert_eq!(plan(&MARKS, row(2, false), &prepared, &decided), Plan::Settle(ends));
    }

    #[test]
    fn nothing_is_touched_where_a_history_was_lost() {
        let one = [1].into();
        let planned = |mark| plan(&MARKS, row(mark, false), &one, &BTreeSet::new());
        assert_eq!(planned(1), Plan::Refuse(Verdict::ParticipantLost));
        assert_eq!(planned(4), Plan::Refuse(Verdict::RecordLost));
        assert!(matches!(planned(3), Plan::Settle(_)));
    }

    #[test]
    fn a_decision_proves_a_first_mark() {
        let (none, marks) = (BTreeSet::new(), Marks { announced: 1, acknowledged: 0 });
        let lost = Plan::Refuse(Verdict::ParticipantLost);
        assert_eq!(plan(&marks, None, &none, &[1].into()), lost);
        assert_eq!(plan(&marks, row(0, true), &[1].into(), &[1].into()), lost);
        assert!(matches!(plan(&marks, row(1, false), &none, &[1].into()), Plan::Settle(_)));
        assert!(
            matches!(plan(&marks, None, &[1].into(), &none), Plan::Settle(_)),
            "nothing was decided there"
        );
    }

    #[test]
    fn behind_a_closed_row_only_late_branches_are_left() {
        assert_eq!(plan(&MARKS, row(3, true), &BTreeSet::new(), &[1].into()), Plan::Nothing);
        assert!(matches!(plan(&MARKS, row(3, true), &[2].into(), &[1].into()), Plan::Settle(_)));
        assert_eq!(judge_orphans(row(3, true)), OrphanRule::RollBack);
        assert_eq!(
            (judge_orphans(row(3, false)), judge_orphans(None)),
            (OrphanRule::Refuse, OrphanRule::Refuse)
        );
    }
}
