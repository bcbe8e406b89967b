//! The protocol floor: pure state and decisions, without I/O, clock or tokio. Everything that
//! could lose, double or reorder a message by a wrong decision is decided here, and so can be
//! driven by tests that need no server.

pub mod batch;
pub mod branch;
pub mod decision;
pub mod fate;
pub mod floor;
pub mod history;
pub mod lease;
pub mod lock;
pub mod position;
pub mod progress;
pub mod recovery;
pub mod retention;
pub mod retry;
pub mod sieve;
pub mod slot;
pub mod snapshot;
pub mod transaction;
pub mod vouching;
pub mod window;
