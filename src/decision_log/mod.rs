//! The decision log port: where coordinators record what is committed, and what a live node finds of a
//! dead one. One file a backend; what every backend owes is written at [`LogSession`] and checked by one
//! conformance suite.

#[cfg(any(feature = "sqlite", feature = "zookeeper"))]
mod lost;
mod port;
pub use port::*;

#[cfg(feature = "sqlite")]
pub mod file;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;
