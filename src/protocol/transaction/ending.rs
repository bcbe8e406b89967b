//! The seam between a transaction and the commit protocols that bring it to its end. A protocol has states
//! of its own, each with one step; the transaction takes the turns that it asks for. A further one (try,
//! confirm and cancel; a saga) is a file beside the others, and a line for each in
//! [`Ending`](super::Ending).

use super::step::{Event, Step};
use super::told::{Told, Why};

/// One state of a commit protocol. `writers` are the branches that wrote, in their order.
pub(super) trait CommitProtocol: Sized {
    /// What is to be done now.
    fn step(&self, writers: &[usize]) -> Step;

    /// Where it goes from here; None for an event that does not belong to this step.
    fn on(&self, event: Event, writers: &[usize]) -> Option<Turn<Self>>;
}

/// Where a protocol goes.
pub(super) enum Turn<P> {
    /// To its next state.
    To(P),
    /// The branches that wrote nothing are ended, by COMMIT or by ROLLBACK, and then further. Never before
    /// the decision: a branch without a number may hold an advisory lock, a LOCK TABLE or a NOTIFY that
    /// belongs to the transaction all the same.
    Release { commits: bool, then: Box<Turn<P>> },
    /// Every branch is rolled back on its own connection: nothing was prepared yet.
    RollBack(Why),
    /// To its end.
    Tell(Told),
}

impl<P> Turn<P> {
    /// Ends what only read, then tells.
    pub(super) fn end(commits: bool, told: Told) -> Self {
        Turn::Release { commits, then: Box::new(Turn::Tell(told)) }
    }

    pub(super) fn map<Q>(self, wrap: fn(P) -> Q) -> Turn<Q> {
        match self {
            Turn::To(state) => Turn::To(wrap(state)),
            Turn::Release { commits, then } => Turn::Release { commits, then: Box::new(then.map(wrap)) },
            Turn::RollBack(why) => Turn::RollBack(why),
            Turn::Tell(told) => Turn::Tell(told),
        }
    }
}
