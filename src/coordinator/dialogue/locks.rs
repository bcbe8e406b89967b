//! A transaction's locks: taken in the middle of it, and given up behind its end.

use std::time::Duration;

use tokio::time::Instant;

use super::Dialogue;
use crate::coordinator::locks::Locked;
use crate::error::{Error, ErrorKind, Result};
use crate::id::LockName;
use crate::protocol::lock::{Purpose, Queue};

const OPERATION: &str = "lock";

impl Dialogue {
    /// Takes a lock for the length of the transaction, and waits for it, until its deadline at the longest; returns
    /// its fencing number. The same lock again has the same number. `Conflict` where it was not free in time, or a
    /// deadlock was found: the transaction may be run again.
    ///
    /// It is held until every branch is at its end, also where this process dies before. Only then does the next
    /// one get it.
    pub async fn lock(&mut self, name: &LockName, timeout: Option<Duration>) -> Result<i64> {
        if !self.is_begun || self.machine.step().is_some() {
            let why = "the transaction is not open: lock inside of it";
            return Err(Error::new(ErrorKind::Invalid, OPERATION, why).with("name", name));
        }
        let queue = Queue { purpose: Purpose::Lock, name: name.clone() };
        if let Some(Some(held)) = self.locked.get(&queue) {
            return Ok(held.number);
        }
        let until = timeout.map_or(self.deadline, |timeout| self.deadline.min(Instant::now() + timeout));
        let registered = tokio::time::timeout_at(until, self.coordinator.registered()).await;
        let registered = registered.unwrap_or_else(|_| {
            let why = "the decision log did not answer in time, and nothing is locked without its record";
            Err(Error::new(ErrorKind::Unreachable, OPERATION, why))
        });
        let registered = registered.map_err(|error| error.with("name", name))?;
        let fence = registered.registration.fence();
        self.registered = Some(registered);
        self.machine.holds_locks();
        // From here on it may be in the queue.
        self.locked.insert(queue.clone(), None);
        let held = self.locks.lock(&queue, self.id, fence, until).await?;
        let number = held.number;
        self.locked.insert(queue, Some(held));
        Ok(number)
    }

    /// The queues in which it is, or may be.
    pub(super) fn take_locked(&mut self) -> Locked {
        std::mem::take(&mut self.locked)
    }
}
