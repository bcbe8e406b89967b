//! What a transaction asks of whoever drives it, and what it is answered.

use super::told::Told;

/// What is to be done next. Several branches of one step are spoken to at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Ask every branch what it did: [`Event::Asked`].
    Ask,
    /// Commit this branch, which decides: [`Event::Committed`].
    Commit(usize),
    /// Find out what came of its COMMIT: [`Event::Committed`].
    Prove(usize),
    /// Have these branches' participants know this coordinator: [`Event::Registered`].
    Register(Vec<usize>),
    /// Prepare these: [`Event::Voted`], in the same order.
    Prepare(Vec<usize>),
    /// Put it into the decision log: [`Event::Decided`].
    Decide,
    /// Commit the prepared branches: [`Event::Applied`].
    Apply,
    /// End these, which have nothing to keep: [`Event::Released`].
    Release {
        /// Which ones.
        branches: Vec<usize>,
        /// Whether by COMMIT; otherwise by ROLLBACK.
        commits: bool,
    },
    /// Tell the caller. Prepared branches that are not ended yet are the settler's.
    Tell(Told),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The caller wants it committed.
    Commit,
    /// The caller wants it rolled back.
    RollBack,
    /// What each branch did.
    Asked(Vec<Did>),
    /// Whether the participants know this coordinator.
    Registered(bool),
    /// What came of the PREPAREs.
    Voted(Vec<Vote>),
    /// What came of the COMMIT that decides.
    Committed(Committed),
    /// What came of the decision.
    Decided(Decided),
    /// Whether every branch is committed.
    Applied(bool),
    /// The branches of [`Step::Release`] are ended, or their connections lost.
    Released,
    /// The deadline is over, or the caller gone; nothing more is waited for. A decision that was not
    /// yet sent has to be withdrawn first, which is `Decided(No)`.
    Interrupted,
}

/// What a branch said when it was asked what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Did {
    /// It has no transaction number: it wrote nothing.
    Read,
    /// It wrote, under this number.
    Wrote {
        /// The server's number of the transaction.
        xid: u64,
        /// Whether recovery can take the role that may end it once it is prepared.
        is_finishable: bool,
    },
    /// The transaction that we began there is not open any more: somebody ended it inside.
    EndedElsewhere,
    /// A statement failed, so that the server will only roll it back.
    Failed,
    /// No answer: the connection is gone.
    Lost,
}

/// What came of a PREPARE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vote {
    /// It is prepared, and the server's log was here behind it.
    Prepared {
        /// The position.
        lsn: u64,
    },
    /// The server has rolled it back.
    RolledBack,
    /// No answer: it may be prepared, now or later.
    Unknown,
}

/// What came of a plain COMMIT that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Committed {
    /// It took effect.
    Yes,
    /// It did not, and never will.
    No,
    /// No answer, or none that proves anything.
    Unknown,
}

/// What came of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decided {
    /// It is in the log.
    Yes,
    /// It is not, and never will be.
    No,
    /// Whoever recovers this coordinator has the word.
    Unclear,
}
