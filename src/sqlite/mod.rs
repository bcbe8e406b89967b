//! SQLite files: how they are opened, how their transactions begin and end, and what SQLite's errors
//! mean.
//!
//! Relies on WAL, so that readers and the one writer do not wait for each other, and on
//! `synchronous = FULL`, so that a commit outlives a power failure.

pub(crate) mod failure;
pub(crate) mod headers;

#[cfg(feature = "relay")]
mod blocking;
#[cfg(feature = "relay")]
mod decisions;
#[cfg(feature = "relay")]
mod liveness;
#[cfg(feature = "relay")]
mod local_disk;
#[cfg(feature = "relay")]
mod open;
#[cfg(feature = "relay")]
mod place;
#[cfg(feature = "relay")]
mod session;
#[cfg(feature = "relay")]
mod transaction;
#[cfg(feature = "relay")]
pub(crate) use {
    blocking::Blocking,
    decisions::{DECISIONS_FILE, open_decisions, removed},
    liveness::{Life, Liveness},
    local_disk::network_file_system,
    open::{OwnFile, enter_wal, open_existing, open_or_create, open_own, open_own_existing},
    place::Place,
    session::FileSession,
    transaction::{begin, commit},
};
