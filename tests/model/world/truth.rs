//! What must never happen, judged as it happens: see [`Wrong`]. Nobody in the world can see this.

use std::collections::{BTreeMap, BTreeSet};

use onecommit::id::TransactionId;
use onecommit::protocol::decision::Outcome;

/// What a caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    Committed,
    RolledBack,
    InDoubt,
}

/// The properties that an event can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wrong {
    /// A branch was ended otherwise than the rest of its transaction.
    Torn,
    /// A caller, or whoever asks for an outcome, was told what is not so.
    Untrue,
    /// A branch of another installation was touched.
    StrangersBranch,
    /// A decision was deleted that a database has not kept, and nothing would tell.
    ForgottenTooEarly,
    /// A message without its transaction, or a transaction without its messages.
    Messages,
    /// A person is told that a history was lost, and none was.
    FalseAlarm,
    /// Something waits for its end for ever.
    ForEverInDoubt,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Truth {
    /// Every transaction that was ever in the decision log, whatever became of that.
    pub decided: BTreeSet<TransactionId>,
    /// Of which a prepared branch was rolled back.
    pub rolled_back: BTreeSet<TransactionId>,
    pub told: BTreeMap<TransactionId, Told>,
    /// Decided right behind the copy that took the log's place: by marks that the copy has, too, so that nothing
    /// tells what it lacks.
    pub unnoticed: BTreeSet<TransactionId>,
    wrong: Option<(Wrong, String)>,
}

impl Truth {
    /// Keeps the first thing that must never happen.
    pub fn wrong(&mut self, wrong: Wrong, what: impl Into<String>) {
        if self.wrong.is_none() {
            self.wrong = Some((wrong, what.into()));
        }
    }

    /// The first thing that went wrong.
    pub fn first_wrong(&self) -> Option<(Wrong, &str)> {
        self.wrong.as_ref().map(|(wrong, what)| (*wrong, what.as_str()))
    }

    /// Whether it may be kept that a transaction has ended so.
    pub fn is_so(&self, id: TransactionId, outcome: Outcome) -> bool {
        self.decided.contains(&id) == (outcome == Outcome::Committed) || self.unnoticed.contains(&id)
    }

    pub(super) fn decides(&mut self, id: TransactionId) {
        if self.told.get(&id) == Some(&Told::RolledBack) {
            self.wrong(Wrong::Untrue, format!("{id} is decided, and its caller was told it is rolled back"));
        }
        if self.rolled_back.contains(&id) {
            self.wrong(Wrong::Torn, format!("{id} is decided, and a branch was rolled back"));
        }
        self.decided.insert(id);
    }

    pub(super) fn ends(&mut self, id: TransactionId, commits: bool) {
        match (commits, self.decided.contains(&id)) {
            (true, false) => self.wrong(Wrong::Torn, format!("{id} is committed, and was never decided")),
            (false, true) if self.unnoticed.contains(&id) => {}
            (false, true) => self.wrong(Wrong::Torn, format!("{id} is rolled back, and was decided")),
            (false, false) => drop(self.rolled_back.insert(id)),
            (true, true) => {}
        }
    }
}
