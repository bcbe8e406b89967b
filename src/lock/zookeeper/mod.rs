//! Locks in ZooKeeper. A queue is a container node, an entry a node in it that is named by its owner and ordered by
//! the number of the change that made it (its `czxid`): a sequence of names would begin at 0 again with the next
//! container. A transaction's entry is persistent, and counts for as long as the fence in its coordinator's record is
//! there; a holder's is ephemeral.
//!
//! Relies on ZooKeeper doing a `multi` as a whole, and on a session never seeing an older state than before.

mod session;
mod store;
mod waits;

pub use store::ZookeeperLocks;
