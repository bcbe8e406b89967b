//! What belongs to the process that opened it. A forked child has a copy, which it can neither use nor drop: it would
//! wait for threads that are not there, or take the parent's sockets out of what the parent waits for.

use crate::error::Result;
use crate::process::{Process, forked};

/// See the module.
pub(super) struct Owned<T> {
    process: Process,
    // None once it is dropped.
    value: Option<T>,
}

impl<T> Owned<T> {
    pub(super) fn new(value: T) -> Self {
        Owned { process: Process::this(), value: Some(value) }
    }

    /// An error in a forked child. It comes before every lock, which somebody may have held at the fork.
    pub(super) fn get(&self, operation: &'static str) -> Result<&T> {
        match &self.value {
            Some(value) if self.process.is_this() => Ok(value),
            _ => Err(forked(operation)),
        }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.process.is_this() {
            std::mem::forget(self.value.take());
        }
    }
}
