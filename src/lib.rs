//! One commit for your databases and Kafka.
//!
//! An application changes its database and publishes messages in one transaction. A relay carries
//! every committed message to Kafka exactly once, in order per key, and none of those rolled back.
//!
//! Publishing needs [`Message`] and [`Outbox`]; with `default-features = false` and the feature
//! `postgres` that is all that gets compiled, and no C code.

#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod error;
#[doc(hidden)]
pub mod failpoint;
pub mod id;
pub mod message;

#[cfg(feature = "cli")]
mod admin;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "relay")]
pub mod config;
#[cfg(all(feature = "relay", feature = "postgres"))]
pub mod coordinator;
#[cfg(feature = "relay")]
pub mod decision_log;
#[cfg(feature = "relay")]
pub mod delivery;
#[cfg(feature = "relay")]
pub mod group;
#[cfg(feature = "relay")]
pub mod lease;
#[cfg(feature = "relay")]
pub mod lock;
pub mod outbox;
#[cfg(feature = "relay")]
pub mod participant;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "relay")]
mod process;
#[cfg(feature = "relay")]
pub mod protocol;
#[cfg(feature = "python")]
mod python;
#[cfg(feature = "relay")]
pub mod relay;
#[cfg(feature = "service")]
pub mod service;
#[cfg(feature = "relay")]
pub mod settings;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

/// The command line starts it without knowing the admin face: faces do not know each other.
#[cfg(feature = "cli")]
use admin::Server as AdminServer;
pub use error::{Error, ErrorKind, Result};
pub use id::{Incarnation, MessageId, Namespace, ParticipantName};
pub use message::{Header, Message};
#[cfg(feature = "postgres")]
pub use outbox::postgres::Outbox;

/// The Rust code of the documents compiles.
#[cfg(all(doctest, feature = "cli"))]
#[doc = include_str!("../docs/rust.md")]
mod documents {}

/// Decoders that `fuzz/` reaches in no other way. Only cargo-fuzz compiles this.
#[cfg(fuzzing)]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod fuzzing {
    pub fn headers(bytes: &[u8]) -> Option<Vec<crate::Header>> {
        crate::sqlite::headers::decode(Some(bytes)).ok()
    }

    pub fn encoded_headers(headers: &[crate::Header]) -> Option<Vec<u8>> {
        crate::sqlite::headers::encode(headers)
    }

    pub fn row(xid: &[u8], at: &[u8], names: Option<&[u8]>, values: Option<&[u8]>) -> bool {
        crate::outbox::postgres::from_binary(xid, at, names, values).is_ok()
    }
}
