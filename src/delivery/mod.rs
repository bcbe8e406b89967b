//! The delivery port: where messages go, and where the truth about what was delivered is kept.
//! One file a backend; what every backend owes is written at [`ShardDelivery`] and checked by one
//! conformance suite.

mod port;
pub use port::*;

#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "sqlite")]
pub mod topic_log;
