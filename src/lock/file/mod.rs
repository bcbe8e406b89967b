//! Locks in the SQLite file that the decision log of one machine is in: its coordinators' records say which
//! transactions' entries count. A holder's entry counts for as long as its session's process is there, and nobody has
//! closed the session: told by the lock of a file of its own (`sqlite/liveness.rs`).
//!
//! Relies on the file's write lock, which is never held while somebody waits: who waits looks again and again.

mod port;
mod rows;

pub use port::FileLocks;
