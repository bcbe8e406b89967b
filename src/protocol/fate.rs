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

/// Where a branch was prepared, and where the switch to the present timeline was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The log's position behind the PREPARE.
    pub prepared: u64,
    /// Where the log of the timeline on which it was prepared ends, for the one that answers.
    pub switched: u64,
}

/// Judges a decided branch that is not there, by its number's `fate` as `now` tells it. It was
/// prepared in `then`. A verified PREPARE is flushed, so on the same timeline its number can't come
/// again; on a later one only if the switch was before it.
pub fn judge(fate: Fate, then: &DatabaseIdentity, now: &DatabaseIdentity, behind: Option<Behind>) -> Meaning {
    let has_seen_it = then.is_same(now)
        && (then.timeline == now.timeline || behind.is_some_and(|behind| behind.prepared <= behind.switched));
    match fate {
        Fate::InProgress => Meaning::NotYet,
        Fate::Committed if has_seen_it => Meaning::Committed,
        Fate::Committed | Fate::RolledBack | Fate::Unknown => Meaning::Lost,
    }
}
