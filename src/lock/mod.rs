//! The lock port: fair queues, whose first entry holds, and whose numbers only grow. Locks of transactions, locks of
//! sessions and elections are all made of it. One folder a backend; what every backend owes is written at
//! [`LockSession`] and checked by one conformance suite.
//!
//! Relies on the decision log's records, in the same store: a transaction's entry counts for as long as its
//! coordinator has one, and that goes only once every branch is settled.

mod acquire;
mod port;
pub use acquire::acquire;
pub(crate) use acquire::{is_deadlock, late_behind_own};
pub use port::*;

#[cfg(feature = "sqlite")]
pub mod file;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;
