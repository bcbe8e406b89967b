//! Whether a participant still has the history that its coordinator knows of.
//!
//! A failover to a server that lags, or a copy that was restored, shows branches prepared again whose
//! decision was carried out and forgotten: who rolled those back would tear a transaction. So each
//! coordinator keeps a row in every participant, whose mark it raises: announced in its record first,
//! then written, then acknowledged in the record. A row outside of these two was not written last by
//! that coordinator in this history: either the participant's was lost, or the record's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nothing is decided where the last mark was announced longer ago than this: a restore from a copy of
/// the record that is younger would not be noticed.
pub const FRESH_FOR: Duration = Duration::from_secs(10);

/// A coordinator's row in a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// The last mark that was written.
    pub mark: u64,
    /// A recoverer has settled everything here: nothing of that coordinator is prepared any more.
    pub is_closed: bool,
}

/// What the coordinator's record says of a participant. A mark of 0 stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Marks {
    /// The highest that the row may have.
    pub announced: u64,
    /// The lowest that it has to have.
    pub acknowledged: u64,
}

/// What a recoverer may do in a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Commit what is decided, roll back the rest, and close the row.
    Settle,
    /// It is settled already.
    Settled,
    /// Touch nothing: the participant has lost what it had acknowledged.
    ParticipantLost,
    /// Touch nothing: the record is older than the participant's row.
    RecordLost,
}

impl Marks {
    /// Judges a row, None where there is none. `rolls_back` says whether there is a branch without a
    /// decision.
    pub fn judge(&self, row: Option<Row>, rolls_back: bool) -> Verdict {
        let mark = row.map_or(0, |row| row.mark);
        if mark < self.acknowledged {
            return Verdict::ParticipantLost;
        }
        // Nothing is lost by a younger row where nothing is to be rolled back.
        if mark > self.announced && rolls_back {
            return Verdict::RecordLost;
        }
        match row {
            Some(Row { is_closed: true, .. }) if !rolls_back => Verdict::Settled,
            _ => Verdict::Settle,
        }
    }
}

/// A coordinator's own marks in one participant. One round: announce in the record, write the row by
/// compare-and-set, and acknowledge with the next announcement. Any answer may be lost; the same
/// step is then taken again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OwnMarks {
    recorded: Marks,
    /// The mark being announced, and when the record was first asked to hold it.
    asked: Option<(u64, Duration)>,
    /// The highest that the row may have got.
    sent: u64,
    /// The highest that the row is known to have, and when that was announced.
    written: u64,
    written_announced: Duration,
}

/// Writes a row: to `mark`, if it is one of `expected` and not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CompareAndSet {
    /// What the row has if nothing was lost.
    pub expected: [u64; 2],
    /// What it is to have.
    pub mark: u64,
}

impl OwnMarks {
    /// What the record is to say next: that the row has what it is known to have, and will have more.
    pub fn announce(&mut self, now: Duration) -> Marks {
        let announced = self.recorded.announced.max(self.written + 1);
        // A repeated announcement may be in the record since the first.
        if self.asked.is_none_or(|(mark, _)| mark != announced) {
            self.asked = Some((announced, now));
        }
        Marks { announced, acknowledged: self.written }
    }

    /// The record says so.
    pub fn recorded(&mut self, marks: Marks) {
        self.recorded = marks;
    }

    /// How the row is to be written; None where it has what was announced.
    pub fn send(&mut self) -> Option<CompareAndSet> {
        let mark = self.recorded.announced;
        let expected = [self.written, self.sent];
        self.sent = self.sent.max(mark);
        (!self.is_written()).then_some(CompareAndSet { expected, mark })
    }

    /// The row has it.
    pub fn written(&mut self, mark: u64) {
        if mark > self.written
            && let Some((_, at)) = self.asked.filter(|(asked, _)| *asked == mark)
        {
            self.written_announced = at;
        }
        self.written = self.written.max(mark);
    }

    /// Whether the row has all that was announced.
    pub fn is_written(&self) -> bool {
        self.written >= self.recorded.announced
    }

    /// Whether a transaction that prepared something there may be decided.
    pub fn is_fresh(&self, now: Duration) -> bool {
        self.written > 0 && now.saturating_sub(self.written_announced) < FRESH_FOR
    }

    /// The mark that covers what was applied before now: the next to be sent.
    pub fn covering(&self) -> u64 {
        self.sent + 1
    }

    /// Whether the record acknowledges a mark: what it covers can be forgotten.
    pub fn is_recorded(&self, mark: u64) -> bool {
        self.recorded.acknowledged >= mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(mark: u64, is_closed: bool) -> Option<Row> {
        Some(Row { mark, is_closed })
    }

    #[test]
    fn a_history_that_was_lost_is_never_settled() {
        let marks = Marks { announced: 5, acknowledged: 4 };
        for rolls_back in [false, true] {
            assert_eq!(marks.judge(row(3, false), rolls_back), Verdict::ParticipantLost);
            assert_eq!(marks.judge(None, rolls_back), Verdict::ParticipantLost);
            assert_eq!(marks.judge(row(4, false), rolls_back), Verdict::Settle);
            assert_eq!(marks.judge(row(5, false), rolls_back), Verdict::Settle);
        }
        assert_eq!(marks.judge(row(6, false), true), Verdict::RecordLost);
        assert_eq!(marks.judge(row(6, false), false), Verdict::Settle, "nothing can be torn");
        assert_eq!(marks.judge(row(5, true), false), Verdict::Settled);
        assert_eq!(marks.judge(row(5, true), true), Verdict::Settle, "a late prepare");
        assert_eq!(Marks::default().judge(None, true), Verdict::Settle, "no mark was ever acknowledged");
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Announce { is_lost: bool, is_answer_lost: bool },
        Write { is_lost: bool, is_answer_lost: bool },
        Apply,
    }

    fn event() -> impl Strategy<Value = Event> {
        let lost = || any::<(bool, bool)>();
        prop_oneof![
            lost().prop_map(|(is_lost, is_answer_lost)| Event::Announce { is_lost, is_answer_lost }),
            lost().prop_map(|(is_lost, is_answer_lost)| Event::Write { is_lost, is_answer_lost }),
            Just(Event::Apply),
        ]
    }

    proptest! {
        #[test]
        fn the_row_stays_between_the_records_marks(events in prop::collection::vec(event(), 1..100)) {
            let (mut own, mut record, mut row) = (OwnMarks::default(), Marks::default(), 0);
            let mut applied: Vec<(u64, u64)> = Vec::new();
            for (at, event) in events.into_iter().enumerate() {
                match event {
                    Event::Announce { is_lost, is_answer_lost } => {
                        let marks = own.announce(Duration::from_secs(at as u64));
                        if is_lost {
                            continue;
                        }
                        record = marks;
                        if !is_answer_lost {
                            own.recorded(marks);
                        }
                    }
                    Event::Write { is_lost, is_answer_lost } => {
                        let Some(write) = own.send() else { continue };
                        if is_lost {
                            continue;
                        }
                        prop_assert!(write.expected.contains(&row), "{write:?} does not find {row}");
                        row = write.mark;
                        if !is_answer_lost {
                            own.written(write.mark);
                        }
                    }
                    Event::Apply => applied.push((own.covering(), row)),
                }
                prop_assert!(record.acknowledged <= row && row <= record.announced);
                // Whoever goes back to a row from before the commit is noticed by the record.
                for (covering, row_then) in &applied {
                    prop_assert!(!own.is_recorded(*covering) || record.acknowledged > *row_then);
                }
            }
        }
    }

    #[test]
    fn nothing_is_decided_by_an_old_mark() {
        let mut own = OwnMarks::default();
        assert!(!own.is_fresh(Duration::ZERO), "there is none");
        let (first, second) = (Duration::from_secs(1), Duration::from_secs(2));
        own.announce(first);
        let marks = own.announce(second);
        own.recorded(marks);
        assert!(!own.is_fresh(second), "the row has it not yet");
        let write = own.send().unwrap();
        own.written(write.mark);
        assert_eq!(own.send(), None);
        let over = first + FRESH_FOR;
        assert!(own.is_fresh(over - Duration::from_millis(1)), "while the next is announced, too");
        assert!(!own.is_fresh(over), "it may be in the record since the first time");
        let marks = own.announce(over);
        own.recorded(marks);
        assert!(!own.is_fresh(over), "announced, not written");
    }
}
