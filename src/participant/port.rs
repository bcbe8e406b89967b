//! What a coordinator needs of a database that takes part, over connections of its own. What runs on
//! the caller's connection is no matter of this port.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::error::Result;
use crate::id::{CoordinatorId, MessageId};
use crate::protocol::branch::BranchName;
use crate::protocol::fate::{Fate, Switch};
use crate::protocol::history::{CompareAndSet, Row};
use crate::protocol::progress::DatabaseIdentity;

/// One life of one database server: another one after every crash, restart, failover and restore. What
/// was read in one life says nothing about the next: numbers of transactions are handed out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Which database, with its timeline.
    pub database: DatabaseIdentity,
    /// When the server was started, as it says it.
    pub started: String,
    /// Changes with every crash, also with one that the server recovers from without a restart.
    pub life: Uuid,
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timeline = self.database.timeline.as_deref().unwrap_or("-");
        write!(f, "{}/{timeline}/{}/{}", self.database, self.started, self.life)
    }
}

/// A branch that waits for its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedBranch {
    /// Whose it is.
    pub name: BranchName,
    /// The role that prepared it; only this role or a superuser may end it.
    pub owner: String,
    /// For how long it has waited, by the server's clock.
    pub age: Duration,
}

/// How a prepared branch is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By COMMIT PREPARED.
    Commit,
    /// By ROLLBACK PREPARED.
    RollBack,
}

/// What came of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is ended so.
    Now,
    /// There is no such branch: ended before, or not prepared yet, or lost. See [`Participant::fate`].
    NotThere,
}

/// What came of writing a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marked {
    /// The row has it.
    Written,
    /// Nothing was written: another instance answered.
    OtherInstance(Instance),
    /// Nothing was written: the row is not as it has to be. None where there is no row.
    Lost(Option<Row>),
}

/// One database that takes part.
///
/// Every call ends within a limit. An answer that was lost is an error of the kind `Unreachable`; each
/// call may then be made again.
#[async_trait]
pub trait Participant: Send + Sync {
    /// Which life of which database answers now. A standby is none that could.
    async fn instance(&self) -> Result<Instance>;

    /// Every prepared branch of this database with a name of ours, of whatever installation, and the
    /// instance that listed them.
    async fn prepared(&self) -> Result<(Instance, Vec<PreparedBranch>)>;

    /// Ends a prepared branch, as its owner where that is given and another than this login.
    async fn end(&self, name: &BranchName, owner: Option<&str>, end: End) -> Result<Ended>;

    /// What became of a transaction's number, and the instance that says so.
    async fn fate(&self, xid: u64) -> Result<(Instance, Fate)>;

    /// Whether a message of the transaction with this number waits in the database's outbox, for everybody
    /// to see. One that was delivered may be gone.
    async fn has_message(&self, xid: u64, message: MessageId) -> Result<bool>;

    /// The timelines that the server's present one comes from, oldest first, and the instance that says so.
    /// `Refused` where this login may not know them.
    async fn timelines(&self) -> Result<(Instance, Vec<Switch>)>;

    /// Whether this login may end what `role` has prepared.
    async fn can_act_as(&self, role: &str) -> Result<bool>;

    /// Makes a coordinator's history row, with mark 0. `Fenced` where there is one already: somebody has
    /// settled this coordinator. Made again by the same coordinator, of which the answer was lost, is
    /// no difference that could be seen: it is fenced, too.
    async fn open_history(&self, coordinator: CoordinatorId) -> Result<()>;

    /// A coordinator's history row, None where there is none, and the instance that says so.
    async fn history(&self, coordinator: CoordinatorId) -> Result<(Instance, Option<Row>)>;

    /// Writes a mark into a history row that is as expected and not closed, in `instance` only. The row
    /// that has the mark already was written by this very call, made before.
    async fn mark(
        &self,
        coordinator: CoordinatorId,
        write: CompareAndSet,
        instance: &Instance,
    ) -> Result<Marked>;

    /// Closes a history row, and makes a closed one where there is none, in `instance` only; false where
    /// another one answered and nothing was done.
    async fn close_history(&self, coordinator: CoordinatorId, instance: &Instance) -> Result<bool>;

    /// Removes closed history rows that are older than this many days; returns how many.
    async fn forget_histories(&self, days: u32) -> Result<u64>;

    /// The highest number of locks that was noted here; 0 where none was.
    async fn lock_floor(&self) -> Result<i64>;

    /// Notes that locks had this number, where it is higher than what is noted.
    async fn raise_lock_floor(&self, number: i64) -> Result<()>;

    /// What a person runs there so that no such number is known any more.
    fn forget_lock_floor(&self) -> String;
}
