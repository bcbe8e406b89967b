//! One branch wrote: its plain COMMIT is the decision, and nobody else is needed for it.

use super::ending::{CommitProtocol, Turn};
use super::step::{Committed, Event, Step};
use super::told::{BranchWhy, Told, Why};

/// How far it is, with the branch that wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum OnePhase {
    Committing(usize),
    /// The answer was lost: something has to prove what came of it.
    Proving(usize),
}

impl CommitProtocol for OnePhase {
    fn step(&self, _: &[usize]) -> Step {
        match self {
            OnePhase::Committing(writer) => Step::Commit(*writer),
            OnePhase::Proving(writer) => Step::Prove(*writer),
        }
    }

    fn on(&self, event: Event, _: &[usize]) -> Option<Turn<Self>> {
        let (OnePhase::Committing(writer) | OnePhase::Proving(writer)) = *self;
        let why = |why| Why::Branch(writer, why);
        Some(match (self, event) {
            (OnePhase::Committing(_), Event::Committed(Committed::Unknown)) => {
                Turn::To(OnePhase::Proving(writer))
            }
            (_, Event::Committed(Committed::Yes)) => Turn::end(true, Told::Committed { is_applied: true }),
            (_, Event::Committed(Committed::No)) => {
                Turn::end(false, Told::RolledBack(why(BranchWhy::NotCommitted)))
            }
            (_, Event::Committed(Committed::Unknown) | Event::Interrupted) => {
                Turn::end(false, Told::InDoubt(why(BranchWhy::NotProved)))
            }
            _ => return None,
        })
    }
}
