//! The decision log in a SQLite file, for coordinators of one machine that have no server to keep it.
//! Relies on the file's write lock: the fence that a transaction has checked can't change until it has
//! written. Who lives is told by locks on files of their own (`sqlite/liveness.rs`).

mod outcomes;
mod port;
mod rows;
mod sql;

pub use port::FileDecisionLog;
