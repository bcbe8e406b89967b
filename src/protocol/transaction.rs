//! How one transaction ends: what is done next, by what its branches did and what was answered, and
//! what its caller is told. Whoever drives it has the connections, the decision log and the clock.
//!
//! One writing branch decides by its own COMMIT. With several, each has to be prepared, and then the
//! decision log has the word; a transaction that was never put there is rolled back (presumed abort:
//! C. Mohan, B. Lindsay, R. Obermarck, "Transaction Management in the R* Distributed Database
//! Management System", 1986). What is told is never guessed.

/// What a branch said when it was asked what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It took effect.
    Yes,
    /// It did not, and never will.
    No,
    /// No answer, or none that proves anything.
    Unknown,
}

/// What came of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It is in the log.
    Yes,
    /// It is not, and never will be.
    No,
    /// Whoever recovers this coordinator has the word.
    Unclear,
}

/// How a transaction ends, chosen by what its branches did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// It has no branch.
    None,
    /// No branch wrote.
    ReadOnly,
    /// One branch wrote, and its COMMIT is the decision.
    OnePhase,
    /// Several wrote: prepared first, then decided in the decision log.
    TwoPhase,
}

/// Why a transaction was rolled back, or is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What is to be done next. Several branches of one step are spoken to at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A transaction on its way to its end.
#[derive(Clone, Debug)]
pub struct Transaction {
    branches: usize,
    did: Vec<Did>,
    votes: Vec<Vote>,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Working,
    Asking,
    Committing(usize),
    Proving(usize),
    Registering,
    Preparing,
    Deciding,
    Applying,
    Releasing { branches: Vec<usize>, commits: bool, next: Box<State> },
    Told(Told),
}

impl Transaction {
    /// One with so many branches, of which nothing is known yet.
    pub fn new(branches: usize) -> Self {
        Transaction { branches, did: Vec::new(), votes: Vec::new(), state: State::Working }
    }

    /// What is to be done now; None while the caller works in it.
    pub fn step(&self) -> Option<Step> {
        Some(match &self.state {
            State::Working => return None,
            State::Asking => Step::Ask,
            State::Committing(writer) => Step::Commit(*writer),
            State::Proving(writer) => Step::Prove(*writer),
            State::Registering => Step::Register(self.writers()),
            State::Preparing => Step::Prepare(self.writers()),
            State::Deciding => Step::Decide,
            State::Applying => Step::Apply,
            State::Releasing { branches, commits, .. } => {
                Step::Release { branches: branches.clone(), commits: *commits }
            }
            State::Told(told) => Step::Tell(*told),
        })
    }

    /// How it ends; known once the branches were asked.
    pub fn protocol(&self) -> Protocol {
        match (self.branches, self.writers().len()) {
            (0, _) => Protocol::None,
            (_, 0) => Protocol::ReadOnly,
            (_, 1) => Protocol::OnePhase,
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

    /// The votes, in the order of [`Transaction::written`]; none before all are in.
    pub fn votes(&self) -> &[Vote] {
        &self.votes
    }

    /// Takes what happened. What does not belong to the step that is under way changes nothing.
    pub fn on(&mut self, event: Event) {
        let next = match (&self.state, event) {
            (State::Working, Event::Commit) => State::Asking,
            (State::Working, Event::RollBack) => self.roll_back(Why::Wanted),
            (State::Working | State::Asking | State::Registering, Event::Interrupted) => {
                self.roll_back(Why::Interrupted)
            }
            (State::Asking, Event::Asked(did)) => {
                self.did = did;
                self.begin_to_end()
            }
            (State::Committing(writer), Event::Committed(Committed::Unknown)) => State::Proving(*writer),
            (State::Committing(writer) | State::Proving(writer), Event::Committed(came)) => {
                self.committed(*writer, came)
            }
            (State::Committing(writer) | State::Proving(writer), Event::Interrupted) => {
                self.committed(*writer, Committed::Unknown)
            }
            (State::Registering, Event::Registered(true)) => State::Preparing,
            (State::Registering, Event::Registered(false)) => self.roll_back(Why::NotRegistered),
            (State::Preparing, Event::Voted(votes)) => {
                self.votes = votes;
                self.count_votes()
            }
            (State::Preparing, Event::Interrupted) => {
                self.votes = vec![Vote::Unknown; self.writers().len()];
                self.release_readers(false, State::Told(Told::RolledBack(Why::Interrupted)))
            }
            (State::Deciding, Event::Decided(Decided::Yes)) => self.release_readers(true, State::Applying),
            (State::Deciding, Event::Decided(Decided::No)) => {
                self.release_readers(false, State::Told(Told::RolledBack(Why::Fenced)))
            }
            (State::Deciding, Event::Decided(Decided::Unclear)) => {
                self.release_readers(false, State::Told(Told::InDoubt(Why::Unclear)))
            }
            (State::Deciding, Event::Interrupted) => State::Told(Told::InDoubt(Why::Interrupted)),
            (State::Applying, Event::Applied(is_applied)) => State::Told(Told::Committed { is_applied }),
            (State::Applying, Event::Interrupted) => State::Told(Told::Committed { is_applied: false }),
            (State::Releasing { next, .. }, Event::Released | Event::Interrupted) => (**next).clone(),
            _ => return,
        };
        self.state = next;
    }

    fn writers(&self) -> Vec<usize> {
        self.written().map(|(branch, _)| branch).collect()
    }

    fn begin_to_end(&self) -> State {
        let is_two_phase = self.protocol() == Protocol::TwoPhase;
        let obstacle = |did: &Did| match did {
            Did::EndedElsewhere => Some(BranchWhy::EndedElsewhere),
            Did::Failed => Some(BranchWhy::Failed),
            Did::Lost => Some(BranchWhy::Lost),
            // Who ends by a COMMIT on its own connection needs nobody else.
            Did::Wrote { is_finishable: false, .. } if is_two_phase => Some(BranchWhy::Unfinishable),
            Did::Read | Did::Wrote { .. } => None,
        };
        let found = self.did.iter().enumerate().find_map(|(branch, did)| Some((branch, obstacle(did)?)));
        if let Some((branch, why)) = found {
            return self.roll_back(Why::Branch(branch, why));
        }
        match self.writers()[..] {
            [] => self.release_readers(true, State::Told(Told::Committed { is_applied: true })),
            [writer] => State::Committing(writer),
            _ => State::Registering,
        }
    }

    fn committed(&self, writer: usize, came: Committed) -> State {
        match came {
            Committed::Yes => self.release_readers(true, State::Told(Told::Committed { is_applied: true })),
            Committed::No => {
                let why = Why::Branch(writer, BranchWhy::NotCommitted);
                self.release_readers(false, State::Told(Told::RolledBack(why)))
            }
            Committed::Unknown => {
                let why = Why::Branch(writer, BranchWhy::NotProved);
                self.release_readers(false, State::Told(Told::InDoubt(why)))
            }
        }
    }

    fn count_votes(&self) -> State {
        let against = self.written().zip(&self.votes).find_map(|((branch, _), vote)| match vote {
            Vote::Prepared { .. } => None,
            Vote::RolledBack => Some(Why::Branch(branch, BranchWhy::NotPrepared)),
            Vote::Unknown => Some(Why::Branch(branch, BranchWhy::Lost)),
        });
        match against {
            // Nothing was decided nor will be: what is prepared gets rolled back by the settler.
            Some(why) => self.release_readers(false, State::Told(Told::RolledBack(why))),
            None => State::Deciding,
        }
    }

    /// Nothing was prepared yet: every branch is ended on its own connection.
    fn roll_back(&self, why: Why) -> State {
        let next = Box::new(State::Told(Told::RolledBack(why)));
        State::Releasing { branches: (0..self.branches).collect(), commits: false, next }
    }

    /// Ends what only read. Never before the decision: a branch without a number may hold an advisory
    /// lock, a LOCK TABLE or a NOTIFY that belongs to the transaction all the same.
    fn release_readers(&self, commits: bool, next: State) -> State {
        let writers = self.writers();
        let branches: Vec<usize> = (0..self.branches).filter(|branch| !writers.contains(branch)).collect();
        match branches.is_empty() {
            true => next,
            false => State::Releasing { branches, commits, next: Box::new(next) },
        }
    }
}

#[cfg(test)]
mod tests;
