//! A participant in PostgreSQL 13 and later.
//!
//! Relies on two-phase commit (`max_prepared_transactions`), on transaction numbers that are 64 bits wide
//! and on the tables that `onecommit init` makes. Keeps no session state and names no prepared
//! statement, so that it works behind a pooler in transaction mode.

pub mod branch;
mod examine;
mod history;
mod instance;
mod pool;
mod port;
mod timelines;

pub use examine::ParticipantFacts;
pub use port::PostgresParticipant;
