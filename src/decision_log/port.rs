//! What coordinators and those who recover them need of the store that keeps the decisions.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::error::Result;
use crate::id::{CoordinatorId, TransactionId};
use crate::protocol::batch::{Answer, Request};
pub use crate::protocol::decision::Fence;
use crate::protocol::decision::{Decision, Outcome, Record};

/// A coordinator that has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registered {
    /// Its id.
    pub coordinator: CoordinatorId,
    /// Whether it lives, or is being recovered by somebody who lives.
    pub is_live: bool,
}

/// What a dead coordinator has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Legacy {
    /// The recoverer's right.
    pub fence: Fence,
    /// What it wrote of itself.
    pub record: Record,
    /// Its decisions, by batch.
    pub batches: BTreeMap<u64, Vec<Decision>>,
}

/// Where decisions are recorded.
#[async_trait]
pub trait DecisionLog: Send + Sync {
    /// Opens a session. `Refused` where the log belongs to another incarnation.
    async fn open(&self) -> Result<Box<dyn LogSession>>;
}

/// One session with the decision log. Whatever it owns ends with it: coordinators that were registered
/// or taken over in it count as dead as soon as the store has noticed.
///
/// Every call ends within a limit. `Unclear` says that a write may have taken effect: it may be made
/// again, and then succeeds if it has. `Fenced`: somebody else has taken over, and this call did
/// nothing.
#[async_trait]
pub trait LogSession: Send + Sync {
    /// Writes a coordinator's record for the first time; from then on it lives. Nobody has ever used
    /// its id.
    async fn register(&self, coordinator: CoordinatorId, record: &Record) -> Result<Fence>;

    /// Replaces a coordinator's record.
    async fn record(&self, fence: Fence, record: &Record) -> Result<()>;

    /// Puts a batch of decisions there and deletes others, all or nothing. What was not answered, or not
    /// clearly, is [`Answer::Lost`].
    async fn decide(&self, fence: Fence, request: &Request) -> Answer;

    /// Every coordinator with a record.
    async fn coordinators(&self) -> Result<Vec<Registered>>;

    /// Whether somebody has taken over from a coordinator, at any time: who is alive for it is then not its
    /// owner. For people who look.
    async fn is_taken_over(&self, coordinator: CoordinatorId) -> Result<bool>;

    /// Takes over from a coordinator that is dead, and reads in this very session what it has left. None
    /// where it lives, somebody else was faster, or there is nothing of it any more.
    async fn take_over(&self, coordinator: CoordinatorId) -> Result<Option<Legacy>>;

    /// Makes an orphan's record for a coordinator that has none, and takes it over. None where there
    /// is a record.
    async fn adopt_orphan(&self, coordinator: CoordinatorId, record: &Record) -> Result<Option<Fence>>;

    /// Gives a coordinator that was taken over up, as it stands.
    async fn let_go(&self, coordinator: CoordinatorId) -> Result<()>;

    /// Deletes a coordinator's record and all of these batches, and keeps outcomes: all or nothing.
    async fn remove(
        &self,
        fence: Fence,
        batches: &[u64],
        outcomes: &[(TransactionId, Outcome)],
    ) -> Result<()>;

    /// Keeps how transactions ended, for whoever asks.
    async fn keep_outcomes(&self, fence: Fence, outcomes: &[(TransactionId, Outcome)]) -> Result<()>;

    /// How a transaction ended, where that is kept.
    async fn outcome(&self, transaction: TransactionId) -> Result<Option<Outcome>>;

    /// A coordinator's record and its decisions as they stand, without taking anything over; for people
    /// who look. None where there is no record.
    async fn look(
        &self,
        coordinator: CoordinatorId,
    ) -> Result<Option<(Record, BTreeMap<u64, Vec<Decision>>)>>;

    /// Removes outcomes that are older than this many days, and all but the latest `most`; returns how
    /// many.
    async fn forget_outcomes(&self, days: u32, most: usize) -> Result<u64>;

    /// Whether the session is over, and with it everything that it owned.
    fn is_over(&self) -> bool;
}
