//! What the caller of a transaction is told, and why. Never more than is known.

/// Why a transaction was rolled back, or is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The caller wanted it, by an exception perhaps.
    Wanted,
    /// It took too long, or the caller went away.
    Interrupted,
    /// This branch is the reason.
    Branch(usize, BranchWhy),
    /// This coordinator could not be registered, or a participant's history row not be written.
    NotRegistered,
    /// Another node has ended this coordinator.
    Fenced,
    /// The decision log gave no clear answer.
    Unclear,
}

/// What is the matter with a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BranchWhy {
    /// See [`Did::EndedElsewhere`].
    EndedElsewhere,
    /// See [`Did::Failed`].
    Failed,
    /// It runs under a role that recovery can't take, so that nobody could end it once it is prepared.
    Unfinishable,
    /// The connection was lost before anything was decided.
    Lost,
    /// The server would not prepare it.
    NotPrepared,
    /// The server did not commit it.
    NotCommitted,
    /// The answer to its COMMIT was lost, and nothing proves what came of it.
    NotProved,
}

/// What the caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    /// Everything happened, or will.
    Committed {
        /// Whether all branches are committed already, for everybody to see.
        is_applied: bool,
    },
    /// Nothing happened, nor will.
    RolledBack(Why),
    /// It is not known; the decision log or the databases have the word.
    InDoubt(Why),
}
