//! What members of a group need of the store that keeps it.

use async_trait::async_trait;

use crate::error::Result;
use crate::id::{GroupName, MemberId};

/// The most that a member can say of itself.
pub const MEMBER_DATA_BYTES: usize = 16 * 1024;

/// Which group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupOf {
    /// The relays and programs of the installation.
    Nodes,
    /// An application's own.
    Named(GroupName),
}

/// One member, as all others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Never used again.
    pub id: MemberId,
    /// What it is called; several may have one name.
    pub name: String,
    /// What it says of itself, [`MEMBER_DATA_BYTES`] at most.
    pub data: Vec<u8>,
}

/// What one who watches knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSeen {
    /// The members, in the order in which they joined: for everybody the same.
    pub members: Vec<Member>,
    /// Whether the store answers. While it does not, others may count this member as gone, and `members` are those
    /// that were seen last.
    pub is_current: bool,
}

/// Where a group is kept.
#[async_trait]
pub trait Group: Send + Sync {
    /// Opens a session.
    async fn open(&self) -> Result<Box<dyn GroupSession>>;
}

/// One session with a group. Its members end with it, at once where it is dropped, and otherwise as soon as the
/// store has noticed. Every call but [`GroupSession::changed`] ends within a limit. `Fenced`: the session is over,
/// and with it whatever it had joined; another one has to be opened.
#[async_trait]
pub trait GroupSession: Send {
    /// Joins; or says something else of a member that this session has joined before. `Unclear`: it may be made
    /// again.
    async fn join(&mut self, member: &Member) -> Result<()>;

    /// A member of this session is one no more. Idempotent.
    async fn leave(&mut self, id: MemberId) -> Result<()>;

    /// Who is there now.
    async fn members(&mut self) -> Result<Vec<Member>>;

    /// Waits, for as long as it takes, until something else is to be seen than what was: members, or whether the
    /// store answers. It may be called again after any error but `Fenced`.
    async fn changed(&mut self, seen: &GroupSeen) -> Result<GroupSeen>;

    /// Whether the session is over, as far as is known here; nobody is asked.
    fn is_over(&self) -> bool;
}
