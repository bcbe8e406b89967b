//! The outbox in PostgreSQL 13 and later, in a schema of its own.
//!
//! Relies on READ COMMITTED, on snapshots (`pg_current_snapshot`) and on transaction numbers that
//! are 64 bits wide (`xid8`). Keeps no session state and names no prepared statement, so that it
//! works behind a pooler in transaction mode.

mod publish;
mod schema;

pub use publish::Outbox;
pub use schema::{SCHEMA_VERSION, print_sql};

#[cfg(feature = "relay")]
mod adopt;
#[cfg(feature = "relay")]
mod backlog;
#[cfg(feature = "relay")]
mod barrier;
#[cfg(feature = "relay")]
mod connection;
#[cfg(feature = "relay")]
mod dead_letters;
#[cfg(feature = "relay")]
mod delivered;
#[cfg(feature = "relay")]
mod examine;
#[cfg(feature = "relay")]
mod glance;
#[cfg(feature = "relay")]
mod init;
#[cfg(feature = "relay")]
mod port;
#[cfg(feature = "relay")]
mod prune;
#[cfg(feature = "relay")]
mod read;
#[cfg(feature = "relay")]
mod reading;
#[cfg(feature = "relay")]
mod remove;
#[cfg(feature = "relay")]
mod rows;
#[cfg(feature = "relay")]
mod set_aside;
#[cfg(feature = "relay")]
pub(crate) mod stage;
#[cfg(feature = "relay")]
mod truncate;
#[cfg(feature = "relay")]
pub use examine::{LongTransaction, PostgresFacts, PreparedTransaction, SlotFacts, TableFacts};
#[cfg(feature = "relay")]
pub use port::PostgresSource;
#[cfg(feature = "relay")]
pub use read::Limits;
#[cfg(all(fuzzing, feature = "relay"))]
pub(crate) use rows::from_binary;
