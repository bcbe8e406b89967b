//! Where settings are kept that change at run time: in ZooKeeper, one node; or in a file of this machine. What
//! is in them is not this room's business, only that nobody overwrites what he has not seen, and that whoever
//! follows is told of each change.

#[cfg(feature = "sqlite")]
pub mod file;
mod port;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

pub use self::port::{SettingsStore, StoredSettings};
