//! What those who change settings at run time, and those who follow them, need of the store.

use async_trait::async_trait;

use crate::error::Result;

/// What is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredSettings {
    /// Grows with each change; 0 where nothing was ever stored.
    pub revision: u64,
    /// Empty where nothing was ever stored.
    pub bytes: Vec<u8>,
}

/// One who looks at the settings, changes them, or follows them. Every call but
/// [`SettingsStore::changed`] ends within a limit.
#[async_trait]
pub trait SettingsStore: Send {
    /// What is stored now.
    async fn read(&mut self) -> Result<StoredSettings>;

    /// Stores other settings in the place of those that were `seen`; returns their revision. `Conflict` where
    /// others were stored meanwhile: then nothing has changed. `Unclear`: read again.
    async fn write(&mut self, seen: u64, bytes: &[u8]) -> Result<u64>;

    /// Waits until something else is stored than what was `seen`, for as long as it takes. An error where it
    /// is not known any more what is stored; it may be called again.
    async fn changed(&mut self, seen: u64) -> Result<StoredSettings>;
}
