//! Several branches wrote: each is prepared, and then the decision log has the word. A transaction that
//! was never put there is rolled back (presumed abort: C. Mohan, B. Lindsay, R. Obermarck, "Transaction
//! Management in the R* Distributed Database Management System", 1986).

use super::ending::{CommitProtocol, Turn};
use super::step::{Decided, Event, Step, Vote};
use super::told::{BranchWhy, Told, Why};

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum TwoPhase {
    Registering,
    Preparing,
    Deciding,
    Applying,
}

impl CommitProtocol for TwoPhase {
    fn step(&self, writers: &[usize]) -> Step {
        match self {
            TwoPhase::Registering => Step::Register(writers.to_vec()),
            TwoPhase::Preparing => Step::Prepare(writers.to_vec()),
            TwoPhase::Deciding => Step::Decide,
            TwoPhase::Applying => Step::Apply,
        }
    }

    fn on(&self, event: Event, writers: &[usize]) -> Option<Turn<Self>> {
        Some(match (self, event) {
            (TwoPhase::Registering, Event::Registered(true)) => Turn::To(TwoPhase::Preparing),
            (TwoPhase::Registering, Event::Registered(false)) => Turn::RollBack(Why::NotRegistered),
            (TwoPhase::Registering, Event::Interrupted) => Turn::RollBack(Why::Interrupted),
            (TwoPhase::Preparing, Event::Voted(votes)) => count(writers, &votes),
            // Nothing was decided nor will be: what is prepared gets rolled back by the settler.
            (TwoPhase::Preparing, Event::Interrupted) => Turn::end(false, Told::RolledBack(Why::Interrupted)),
            (TwoPhase::Deciding, Event::Decided(Decided::Yes)) => {
                Turn::Release { commits: true, then: Box::new(Turn::To(TwoPhase::Applying)) }
            }
            (TwoPhase::Deciding, Event::Decided(Decided::No)) => {
                Turn::end(false, Told::RolledBack(Why::Fenced))
            }
            (TwoPhase::Deciding, Event::Decided(Decided::Unclear)) => {
                Turn::end(false, Told::InDoubt(Why::Unclear))
            }
            (TwoPhase::Deciding, Event::Interrupted) => Turn::Tell(Told::InDoubt(Why::Interrupted)),
            (TwoPhase::Applying, Event::Applied(is_applied)) => Turn::Tell(Told::Committed { is_applied }),
            (TwoPhase::Applying, Event::Interrupted) => Turn::Tell(Told::Committed { is_applied: false }),
            _ => return None,
        })
    }
}

/// Every branch has to be prepared for sure.
fn count(writers: &[usize], votes: &[Vote]) -> Turn<TwoPhase> {
    let against = writers.iter().zip(votes).find_map(|(branch, vote)| match vote {
        Vote::Prepared { .. } => None,
        Vote::RolledBack => Some(Why::Branch(*branch, BranchWhy::NotPrepared)),
        Vote::Unknown => Some(Why::Branch(*branch, BranchWhy::Lost)),
    });
    match against {
        Some(why) => Turn::end(false, Told::RolledBack(why)),
        None => Turn::To(TwoPhase::Deciding),
    }
}
