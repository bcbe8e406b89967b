//! The lease port: the right to deliver a shard, by one relay at a time. A lease only keeps relays
//! out of each other's way; what protects the messages is its epoch, which the outbox and the
//! delivery check. One file a backend; what every backend owes is written at [`Lease`] and checked
//! by one conformance suite.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod beats;
mod port;
pub use port::*;

#[cfg(feature = "sqlite")]
pub mod file;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;
