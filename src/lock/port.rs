//! What those who lock need of the store that keeps the queues.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::error::Result;
use crate::id::{HolderId, TransactionId};
use crate::protocol::decision::Fence;
use crate::protocol::lock::{Entry, Owner, Queue, Wait};

/// By which right somebody enters a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrant {
    /// A transaction, by its coordinator's right to write: who has lost that enters no queue.
    Transaction(TransactionId, Fence),
    /// This session, under an id of its own choice.
    Holder(HolderId),
}

impl Entrant {
    /// Whose the entry will be.
    pub fn owner(&self) -> Owner {
        match self {
            Entrant::Transaction(id, _) => Owner::Transaction(*id),
            Entrant::Holder(id) => Owner::Holder(*id),
        }
    }
}

/// Where queues are kept.
#[async_trait]
pub trait LockStore: Send + Sync {
    /// Opens a session. `Refused` where the store belongs to another incarnation.
    async fn open(&self) -> Result<Box<dyn LockSession>>;
}

/// One session with the store. The entries of its holders end with it; those of transactions do not: such a
/// one counts until it leaves, or until its coordinator's record is gone.
///
/// Every call ends within a limit. `Unclear` says that a write may have taken effect: it may be made again,
/// and then succeeds if it has.
#[async_trait]
pub trait LockSession: Send + Sync {
    /// Enters a queue, behind all who are in it; nothing changes where this owner is in it already. `Fenced`
    /// where the transaction's coordinator has lost its right.
    async fn enter(&self, queue: &Queue, entrant: &Entrant) -> Result<()>;

    /// Who is in a queue, in any order. Everybody who entered before an entry of this session is among them,
    /// until they are gone.
    async fn entries(&self, queue: &Queue) -> Result<Vec<Entry>>;

    /// Whether a holder's entry of this session counts, as the store itself knows now.
    async fn is_there(&self, queue: &Queue, entry: &Entry) -> Result<bool>;

    /// Waits until an entry counts no more, or `until`; it may also return sooner.
    async fn wait_for_end(&self, queue: &Queue, entry: &Entry, until: Instant) -> Result<()>;

    /// Notes that a transaction waits in a queue from now on, and returns its wait and all those that it leads
    /// to, of those that began before it. Where it waits in no queue there is none of it.
    async fn begin_wait(
        &self,
        transaction: TransactionId,
        queue: &Queue,
    ) -> Result<BTreeMap<TransactionId, Wait>>;

    /// Leaves a queue. No error where it was left before.
    async fn leave(&self, queue: &Queue, owner: Owner) -> Result<()>;

    /// Forgets what [`LockSession::begin_wait`] has noted.
    async fn end_waits(&self, transaction: TransactionId) -> Result<()>;

    /// Removes the entries of transactions whose coordinators have no record any more; they count for nothing,
    /// and only take room. Returns how many.
    async fn discard_leftovers(&self) -> Result<u64>;

    /// A number that is not below any that this store has handed out. Where it is below one that was seen before,
    /// the store is an older copy.
    async fn position(&self) -> Result<i64>;

    /// Whether the session is over, and with it the entries of its holders.
    fn is_over(&self) -> bool;

    /// After this long without an answer from the store others may hold what this session's holders held. None
    /// where that can't be while this process lives.
    fn timeout(&self) -> Option<Duration>;
}
