//! Groups whose membership is watched: who is there now, and who comes and goes. Nodes and relays are one group, in
//! which each says what it holds; applications have others, by their names.
//!
//! To be a member is a sign of life and no right: somebody who was paused may take himself for a member when
//! others know better. What needs a right takes a lock.

#[cfg(feature = "sqlite")]
pub mod file;
mod port;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

pub use self::port::{Group, GroupOf, GroupSeen, GroupSession, MEMBER_DATA_BYTES, Member};
