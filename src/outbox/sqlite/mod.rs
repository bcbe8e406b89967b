//! The outbox in an application's SQLite file, as guest tables `onecommit_…`.
//!
//! Relies on WAL and on SQLite having one writer: ids are handed out by whoever holds the write
//! lock, so they are in commit order, and a position is an id. It has one shard.
//!
//! In one process only one copy of SQLite may have the file open: two copies drop each other's
//! locks and can corrupt it (SQLite's "How to corrupt", 2.2). So publishing goes through the
//! caller's own connection, and the relay runs in another process than an application whose SQLite
//! is not this one.

mod publish;
mod schema;

pub use publish::{publish, publish_many};
pub use schema::{SCHEMA_VERSION, print_sql};

#[cfg(feature = "relay")]
mod adopt;
#[cfg(feature = "relay")]
mod dead_letters;
#[cfg(feature = "relay")]
mod init;
#[cfg(feature = "relay")]
mod port;
#[cfg(feature = "relay")]
mod prune;
#[cfg(feature = "relay")]
mod read;
#[cfg(feature = "relay")]
mod remove;
#[cfg(feature = "relay")]
mod set_aside;
#[cfg(feature = "relay")]
pub use port::SqliteSource;
