//! The outbox port: the table in which a transaction's messages wait, as an application writes it
//! and as a relay reads it. One folder a backend; what every backend owes is written at [`Outbox`]
//! and checked by one conformance suite.

#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

#[cfg(feature = "relay")]
mod adopt;
#[cfg(feature = "relay")]
mod port;
#[cfg(feature = "relay")]
mod set_aside;
#[cfg(feature = "relay")]
pub use {adopt::Contents, port::*, set_aside::*};
