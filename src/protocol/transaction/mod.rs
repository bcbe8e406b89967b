//! How one transaction ends: what is done next, by what its branches did and what was answered, and
//! what its caller is told. Whoever drives it has the connections, the decision log and the clock.
//!
//! By what the branches did it chooses the commit protocol. What is told is never guessed.

mod ending;
mod one_phase;
mod step;
mod told;
mod two_phase;

use ending::{CommitProtocol, Turn};
use one_phase::OnePhase;
pub use step::{Committed, Decided, Did, Event, Step, Vote};
pub use told::{BranchWhy, Told, Why};
use two_phase::TwoPhase;

/// How a transaction ends, chosen by what its branches did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// It has no branch.
    None,
    /// No branch wrote.
    ReadOnly,
    /// One branch wrote, and its COMMIT is the decision.
    OnePhase,
    /// Several wrote, or one that holds locks: prepared first, then decided in the decision log.
    TwoPhase,
}

/// A transaction on its way to its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    branches: usize,
    did: Vec<Did>,
    holds_locks: bool,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Working,
    Asking,
    Ending(Ending),
    Releasing { branches: Vec<usize>, commits: bool, next: Box<State> },
    Told(Told),
}

/// The commit protocol that was chosen, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Ending {
    OnePhase(OnePhase),
    TwoPhase(TwoPhase),
}

impl Transaction {
    /// One with so many branches, of which nothing is known yet.
    pub fn new(branches: usize) -> Self {
        Transaction { branches, did: Vec::new(), holds_locks: false, state: State::Working }
    }

    /// It has asked for a lock in the store of the decisions. From now on a single writer is prepared and decided
    /// there, too: a plain COMMIT asks nobody, so it could land behind the end of a lock that was given to the
    /// next one because this coordinator counts as dead.
    pub fn holds_locks(&mut self) {
        self.holds_locks = true;
    }

    /// What is to be done now; None while the caller works in it.
    pub fn step(&self) -> Option<Step> {
        Some(match &self.state {
            State::Working => return None,
            State::Asking => Step::Ask,
            State::Ending(ending) => ending.step(&self.writers()),
            State::Releasing { branches, commits, .. } => {
                Step::Release { branches: branches.clone(), commits: *commits }
            }
            State::Told(told) => Step::Tell(*told),
        })
    }

    /// How it ends; known once the branches were asked.
    pub fn protocol(&self) -> Protocol {
        match (self.branches, self.written().count()) {
            (0, _) => Protocol::None,
            (_, 0) => Protocol::ReadOnly,
            (_, 1) if !self.holds_locks => Protocol::OnePhase,
            _ => Protocol::TwoPhase,
        }
    }

    /// The branches that wrote, each with its transaction number there.
    pub fn written(&self) -> impl Iterator<Item = (usize, u64)> {
        self.did.iter().enumerate().filter_map(|(branch, did)| match did {
            Did::Wrote { xid, .. } => Some((branch, *xid)),
            _ => None,
        })
    }

    /// Takes what happened. What does not belong to the step that is under way changes nothing.
    pub fn on(&mut self, event: Event) {
        let next = match (&self.state, event) {
            (State::Working, Event::Commit) => State::Asking,
            (State::Working, Event::RollBack) => self.roll_back(Why::Wanted),
            (State::Working | State::Asking, Event::Interrupted) => self.roll_back(Why::Interrupted),
            (State::Asking, Event::Asked(did)) => {
                self.did = did;
                self.choose()
            }
            (State::Ending(ending), event) => match ending.on(event, &self.writers()) {
                Some(turn) => self.take(turn),
                None => return,
            },
            (State::Releasing { next, .. }, Event::Released | Event::Interrupted) => (**next).clone(),
            _ => return,
        };
        self.state = next;
    }

    fn writers(&self) -> Vec<usize> {
        self.written().map(|(branch, _)| branch).collect()
    }

    fn choose(&self) -> State {
        let protocol = self.protocol();
        let obstacle = |did: &Did| match did {
            Did::EndedElsewhere => Some(BranchWhy::EndedElsewhere),
            Did::Failed => Some(BranchWhy::Failed),
            Did::Lost => Some(BranchWhy::Lost),
            // Who ends by a COMMIT on its own connection needs nobody else.
            Did::Wrote { is_finishable: false, .. } if protocol == Protocol::TwoPhase => {
                Some(BranchWhy::Unfinishable)
            }
            Did::Read | Did::Wrote { .. } => None,
        };
        let found = self.did.iter().enumerate().find_map(|(branch, did)| Some((branch, obstacle(did)?)));
        if let Some((branch, why)) = found {
            return self.roll_back(Why::Branch(branch, why));
        }
        self.take(match self.writers()[..] {
            [] => Turn::end(true, Told::Committed { is_applied: true }),
            [writer] if !self.holds_locks => Turn::To(Ending::OnePhase(OnePhase::Committing(writer))),
            _ => Turn::To(Ending::TwoPhase(TwoPhase::Registering)),
        })
    }

    fn take(&self, turn: Turn<Ending>) -> State {
        match turn {
            Turn::To(ending) => State::Ending(ending),
            Turn::Release { commits, then } => self.release_readers(commits, self.take(*then)),
            Turn::RollBack(why) => self.roll_back(why),
            Turn::Tell(told) => State::Told(told),
        }
    }

    fn roll_back(&self, why: Why) -> State {
        let next = Box::new(State::Told(Told::RolledBack(why)));
        State::Releasing { branches: (0..self.branches).collect(), commits: false, next }
    }

    fn release_readers(&self, commits: bool, next: State) -> State {
        let writers = self.writers();
        let branches: Vec<usize> = (0..self.branches).filter(|branch| !writers.contains(branch)).collect();
        match branches.is_empty() {
            true => next,
            false => State::Releasing { branches, commits, next: Box::new(next) },
        }
    }
}

impl Ending {
    fn step(&self, writers: &[usize]) -> Step {
        match self {
            Ending::OnePhase(state) => state.step(writers),
            Ending::TwoPhase(state) => state.step(writers),
        }
    }

    fn on(&self, event: Event, writers: &[usize]) -> Option<Turn<Self>> {
        match self {
            Ending::OnePhase(state) => Some(state.on(event, writers)?.map(Ending::OnePhase)),
            Ending::TwoPhase(state) => Some(state.on(event, writers)?.map(Ending::TwoPhase)),
        }
    }
}

#[cfg(test)]
mod tests;
