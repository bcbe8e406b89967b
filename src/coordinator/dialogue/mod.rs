//! One transaction, as its caller drives it: says what is to be sent on the caller's own connections,
//! takes the answers, and does in between what is the coordinator's own work. So that blocking and
//! asynchronous callers, in Rust and in Python, all run the very same transaction.
//!
//! Promises that however the caller goes away, no prepared branch is forgotten: what is not at its end is
//! given to the settler, which keeps the transaction's place among those in flight.

mod answers;
mod failure;
mod locks;
mod messages;
mod publish;
mod told;
mod work;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

pub use self::failure::Failure;
use self::messages::Messages;
use super::decider::Verdict;
use super::identity::{Coordinator, Registered, Scope};
use super::locks::{Locked, Locks};
use super::member::Member;
use crate::error::{Error, ErrorKind, Result};
use crate::id::TransactionId;
use crate::participant::postgres::branch;
use crate::participant::{Instance, Isolation};
use crate::protocol::transaction::{Committed, Decided, Event, Protocol, Step, Told, Transaction};

const BEGIN: &str = "begin transaction";
const COMMIT: &str = "commit transaction";
/// How long a connection has to end its transaction at least, however late it is.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);
/// Ends a branch that wrote nothing.
const COMMIT_READER: &str = "commit";

/// When the caller is told that a transaction is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// Once every branch is committed, for everybody to see.
    #[default]
    Applied,
    /// Once it is decided: the branches follow.
    Decided,
}

/// How a transaction is run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The isolation level of every branch.
    pub isolation: Isolation,
    /// When the caller is told.
    pub ack: Ack,
    /// How long it may take, from its begin until the caller is told; None for the configured time.
    pub deadline: Option<Duration>,
}

/// What is to be sent on one branch's connection: one message by the simple query protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The branch's place among those of the transaction.
    pub branch: usize,
    /// The statements.
    pub sql: String,
}

/// What came of a message: the row of its last statement in the text format, empty where that returns none.
pub type Answer = std::result::Result<Vec<Option<String>>, Failure>;

/// What the caller does next.
#[derive(Debug)]
pub enum Next {
    /// Send these, all at the same time, and give the answers to [`Dialogue::answered`], in their order.
    Send(Vec<Message>),
    /// Wait for [`Dialogue::work`].
    Work,
    /// The caller's own statements are to run now, until [`Dialogue::commit`] or [`Dialogue::roll_back`].
    Open,
    /// It is over: committed, or (None) rolled back as the caller wanted. An error of the kind `InDoubt`
    /// says that its outcome is not known, every other one that it is rolled back.
    Ended(Result<Option<Finished>>),
}

/// A transaction that is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Which one.
    pub id: TransactionId,
    /// How it ended.
    pub protocol: Protocol,
    /// Whether every branch is committed, for everybody to see.
    pub is_applied: bool,
}

/// See the module.
pub struct Dialogue {
    id: TransactionId,
    scope: Arc<Scope>,
    coordinator: Arc<Coordinator>,
    branches: Vec<OpenBranch>,
    options: Options,
    deadline: Instant,
    machine: Transaction,
    is_begun: bool,
    messages: Messages,
    locks: Arc<Locks>,
    /// Each lock that was asked for, listed once it is held. They are kept until every branch is at its
    /// end; in doubt, until whoever recovers this coordinator has settled it.
    locked: Locked,
    registered: Option<Registered>,
    rest: Rest,
    cause: Option<Error>,
    /// Among those in flight, until every branch is at its end.
    place: Option<OwnedSemaphorePermit>,
}

struct OpenBranch {
    member: Arc<Member>,
    /// Where it has begun, from before anything could be committed.
    instance: Option<Instance>,
    role: Option<String>,
    /// Where the server's log was behind the PREPARE; the very end where no vote told it.
    position: u64,
    /// Whether a transaction of ours is open there, or may be.
    is_open: bool,
}

/// What the settler would have to do with the branches that are prepared, or may be.
enum Rest {
    Nothing,
    RollBack,
    /// Whatever comes of the decision.
    Await(oneshot::Receiver<Verdict>),
    Commit(u64),
    /// Whoever recovers this coordinator has the word.
    Recoverers,
}

impl Dialogue {
    pub(super) fn new(
        scope: Arc<Scope>,
        coordinator: Arc<Coordinator>,
        locks: Arc<Locks>,
        members: Vec<Arc<Member>>,
        options: Options,
        deadline: Instant,
    ) -> Self {
        let open =
            |member| OpenBranch { member, instance: None, role: None, position: u64::MAX, is_open: false };
        let branches: Vec<OpenBranch> = members.into_iter().map(open).collect();
        Dialogue {
            id: coordinator.next_transaction(),
            machine: Transaction::new(branches.len()),
            scope,
            coordinator,
            branches,
            options,
            deadline,
            is_begun: false,
            messages: Messages::default(),
            locks,
            locked: Locked::new(),
            registered: None,
            rest: Rest::Nothing,
            cause: None,
            place: None,
        }
    }

    /// The transaction's id.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// Until when answers to what is to be sent are waited for; then [`Dialogue::interrupt`] is to be
    /// called. That is the deadline; a connection that is given back gets a moment more, as it would be of
    /// no use with a transaction open.
    pub fn wait_until(&self) -> Instant {
        match self.machine.step() {
            Some(Step::Release { .. }) => self.deadline.max(Instant::now() + RELEASE_LIMIT),
            _ => self.deadline,
        }
    }

    /// The caller wants it committed.
    pub fn commit(&mut self) {
        self.machine.on(Event::Commit);
    }

    /// The caller wants it rolled back.
    pub fn roll_back(&mut self) {
        self.machine.on(Event::RollBack);
    }

    /// What is to be done now.
    pub fn next_step(&mut self) -> Next {
        if !self.is_begun {
            if self.place.is_none() {
                return Next::Work;
            }
            self.branches.iter_mut().for_each(|branch| branch.is_open = true);
            let limit = self.deadline.saturating_duration_since(Instant::now());
            let sql = branch::begin(self.id, self.options.isolation, limit);
            let begin = |branch| Message { branch, sql: sql.clone() };
            return Next::Send((0..self.branches.len()).map(begin).collect());
        }
        match self.machine.step() {
            None => Next::Open,
            Some(Step::Ask) => {
                let ask = |place: usize| {
                    let schema = self.branches[place].member.outbox.as_deref();
                    let staging = schema.and_then(|schema| self.messages.staging(self.id, place, schema));
                    let staging = staging.map_or_else(String::new, |insert| insert + "; ");
                    Message { branch: place, sql: staging + branch::ASK }
                };
                Next::Send((0..self.branches.len()).map(ask).collect())
            }
            Some(Step::Commit(writer)) => Next::Send(vec![self.commit_message(writer)]),
            Some(Step::Prepare(_)) => {
                self.rest = Rest::RollBack;
                let written = self.machine.written();
                let prepare =
                    |(place, xid)| Message { branch: place, sql: branch::prepare(&self.name(place), xid) };
                Next::Send(written.map(prepare).collect())
            }
            Some(Step::Release { branches, commits }) => {
                let sql = if commits { COMMIT_READER } else { branch::ROLL_BACK };
                let release = |branch| Message { branch, sql: sql.to_string() };
                let open = branches.into_iter().filter(|branch| self.branches[*branch].is_open);
                Next::Send(open.map(release).collect())
            }
            Some(Step::Prove(_) | Step::Register(_) | Step::Decide | Step::Apply) => Next::Work,
            Some(Step::Tell(Told::RolledBack(_))) if matches!(self.rest, Rest::RollBack) => Next::Work,
            Some(Step::Tell(_)) if matches!(self.rest, Rest::Nothing) && !self.locked.is_empty() => {
                Next::Work
            }
            Some(Step::Tell(told)) => Next::Ended(self.tell(told)),
        }
    }

    fn commit_message(&self, writer: usize) -> Message {
        Message { branch: writer, sql: branch::commit(self.xid(writer).unwrap_or_default()) }
    }

    /// The branch's transaction number on its server; None where it wrote nothing.
    fn xid(&self, place: usize) -> Option<u64> {
        self.machine.written().find_map(|(branch, xid)| (branch == place).then_some(xid))
    }

    /// Takes the answers to what was sent.
    pub async fn answered(&mut self, answers: Vec<Answer>) {
        if !self.is_begun {
            self.is_begun = true;
            if let Err(error) = self.begun(answers).await {
                self.cause = Some(error);
                self.machine.on(Event::Interrupted);
            }
            return;
        }
        let event = match self.machine.step() {
            Some(Step::Ask) => Event::Asked(self.asked(answers).await),
            Some(Step::Commit(writer)) => {
                let answer = answers.into_iter().next();
                Event::Committed(answer.map_or(Committed::Unknown, |answer| self.committed(writer, answer)))
            }
            Some(Step::Prepare(writers)) => {
                let votes = writers.into_iter().zip(answers);
                Event::Voted(votes.map(|(branch, answer)| self.voted(branch, answer)).collect())
            }
            Some(Step::Release { .. }) => Event::Released,
            _ => return,
        };
        self.machine.on(event);
    }

    /// Does the coordinator's own part, within the deadline.
    pub async fn work(&mut self) {
        match self.machine.step() {
            None => self.wait_for_place().await,
            Some(Step::Prove(writer)) => {
                let came = tokio::time::timeout_at(self.deadline, self.prove(writer)).await;
                self.machine.on(Event::Committed(came.unwrap_or(Committed::Unknown)));
            }
            Some(Step::Register(writers)) => {
                let registered = self.register(&writers).await;
                let event = Event::Registered(registered.is_ok());
                self.blame(registered.err());
                self.machine.on(event);
            }
            Some(Step::Decide) => self.decide().await,
            Some(Step::Apply) => {
                let settling = self.settle();
                let is_applied = match self.options.ack {
                    Ack::Applied => tokio::time::timeout_at(self.deadline, settling).await,
                    Ack::Decided => Ok(Ok(false)),
                };
                self.machine.on(Event::Applied(matches!(is_applied, Ok(Ok(true)))));
            }
            Some(Step::Tell(_)) => {
                let settling = self.settle();
                // Until then its locks are held, and the caller's next attempt would wait for them.
                let _ = tokio::time::timeout_at(self.deadline, settling).await;
            }
            _ => {}
        }
    }

    /// The deadline is over, or the caller does not want to wait any more. What was sent and not answered
    /// is given up: those connections are of no use until they have answered.
    pub async fn interrupt(&mut self) {
        // A BEGIN that is not answered in time would be sent again, and again, for ever.
        self.is_begun = true;
        if let (Some(Step::Decide), Some(registered)) = (self.machine.step(), &self.registered)
            && registered.decider.withdraw(self.id.number).await
        {
            self.rest = Rest::RollBack;
            self.blame(Some(late("it was not decided in time")));
            self.machine.on(Event::Decided(Decided::No));
            return;
        }
        self.blame(Some(late("it was interrupted, or took longer than its deadline allows")));
        self.machine.on(Event::Interrupted);
    }

    fn blame_branch(&mut self, place: usize, failure: Failure) {
        let error = failure.meaning(COMMIT).with("participant", &self.branches[place].member.name);
        self.blame(Some(error));
    }

    fn blame(&mut self, cause: Option<Error>) {
        if self.cause.is_none() {
            self.cause = cause;
        }
    }
}

/// What was not done within the deadline.
fn late(why: &str) -> Error {
    Error::new(ErrorKind::Unreachable, COMMIT, why)
}
