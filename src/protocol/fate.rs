//! What it means that a prepared branch is not there: ended as it should be, not yet prepared, or lost.
//! The server's answer alone (42704) says nothing; the transaction's number does, as long as the server
//! that says so is one that has seen it.

use super::progress::DatabaseIdentity;

/// What a database says of a transaction's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs, or is prepared.
    InProgress,
    /// It was committed.
    Committed,
    /// It was rolled back, or was cut off by a crash.
    RolledBack,
    /// The database has no word on it: never used, or too long ago.
    Unknown,
}

/// What is known of a decided branch that is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It was committed.
    Committed,
    /// It is to be asked again: it may be prepared later, or its end is under way.
    NotYet,
    /// The decision's word is not kept there, and nobody can mend that: a person has to know.
    Lost,
}

/// Where a branch was prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The database, with the timeline that its server was on.
    pub database: DatabaseIdentity,
    /// The log's position behind the PREPARE, read before anybody could have ended it. Where no vote told
    /// it, `u64::MAX`: then no later timeline has it for certain.
    pub position: u64,
}

/// A timeline that a server's log has left for the next one, and the position at which it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Spelled as in [`DatabaseIdentity`].
    pub timeline: String,
    /// What lies behind it there is not part of this server's history.
    pub position: u64,
}

impl Prepared {
    /// Whether the timelines of `now` are needed to judge by.
    pub fn is_on_another_timeline(&self, now: &DatabaseIdentity) -> bool {
        self.database.is_same(now) && self.database.timeline != now.timeline
    }

    /// Whether what `now` says of its number is said of this branch, and of no other transaction. Before
    /// its PREPARE is flushed, which only a vote tells, a crash forgets the number, and it is given again; so
    /// may a later timeline.
    pub fn has_its_number(&self, now: &DatabaseIdentity) -> bool {
        self.position != u64::MAX && self.database == *now
    }

    /// Whether `now`, whose timeline comes from those that were `left`, oldest first, has this PREPARE in
    /// its history. A verified PREPARE is flushed, so on the same timeline its number can't come
    /// again; on a later one it can, unless every switch since was at or behind it.
    fn is_in(&self, now: &DatabaseIdentity, left: &[Switch]) -> bool {
        if !self.is_on_another_timeline(now) {
            return self.database.is_same(now);
        }
        let is_its = |switch: &Switch| Some(&switch.timeline) == self.database.timeline.as_ref();
        let since = left.iter().position(is_its).map(|first| &left[first..]);
        since.is_some_and(|since| since.iter().all(|switch| self.position <= switch.position))
    }
}

/// Judges a decided branch that is not there, by its number's `fate` as `now` tells it.
pub fn judge(fate: Fate, then: &Prepared, now: &DatabaseIdentity, left: &[Switch]) -> Meaning {
    match fate {
        Fate::InProgress => Meaning::NotYet,
        Fate::Committed if then.is_in(now, left) => Meaning::Committed,
        Fate::Committed | Fate::RolledBack | Fate::Unknown => Meaning::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(timeline: u32) -> DatabaseIdentity {
        let timeline = Some(format!("{timeline:08X}"));
        DatabaseIdentity { system: "7".to_string(), database: "5".to_string(), timeline }
    }

    fn left(switches: &[(u32, u64)]) -> Vec<Switch> {
        let switch = |(timeline, position): &(u32, u64)| Switch {
            timeline: format!("{timeline:08X}"),
            position: *position,
        };
        switches.iter().map(switch).collect()
    }

    fn committed(then: u32, now: u32, switches: &[(u32, u64)]) -> bool {
        let then = Prepared { database: on(then), position: 100 };
        judge(Fate::Committed, &then, &on(now), &left(switches)) == Meaning::Committed
    }

    #[test]
    fn a_number_is_believed_on_its_own_timeline() {
        assert!(committed(3, 3, &[(1, 50), (2, 60)]));
        let then = Prepared { database: on(3), position: 100 };
        let elsewhere = DatabaseIdentity { system: "8".to_string(), ..on(3) };
        assert_eq!(judge(Fate::Committed, &then, &elsewhere, &[]), Meaning::Lost);
    }

    #[test]
    fn a_number_is_believed_on_a_later_timeline_that_has_its_prepare() {
        assert!(committed(1, 2, &[(1, 100)]), "the switch was right behind it");
        assert!(!committed(1, 2, &[(1, 99)]), "the PREPARE is not there: the number is a stranger's");
        assert!(committed(2, 4, &[(1, 50), (2, 100), (3, 200)]), "what was left before does not matter");
        assert!(!committed(1, 3, &[(1, 200), (2, 99)]), "every switch since counts");
        assert!(!committed(2, 3, &[(1, 200)]), "its timeline is none that this one comes from");
        assert!(!committed(2, 1, &[]), "a copy from before the promotion");
    }

    #[test]
    fn the_number_of_a_prepare_that_nobody_verified_may_be_a_strangers() {
        let prepared = |position| Prepared { database: on(2), position };
        assert!(prepared(100).has_its_number(&on(2)));
        assert!(!prepared(u64::MAX).has_its_number(&on(2)), "a crash has forgotten it");
        assert!(!prepared(100).has_its_number(&on(3)), "a failover may have");
    }

    #[test]
    fn only_committed_is_done() {
        let then = Prepared { database: on(1), position: 100 };
        for now in [on(1), on(2)] {
            let judge = |fate| judge(fate, &then, &now, &left(&[(1, 100)]));
            assert_eq!(judge(Fate::InProgress), Meaning::NotYet);
            assert_eq!(judge(Fate::RolledBack), Meaning::Lost);
            assert_eq!(judge(Fate::Unknown), Meaning::Lost);
        }
    }
}
