//! Whether this relay can take part, by what it failed and managed to do.

use std::time::{Duration, Instant};

use crate::protocol::lease::Doubt;

pub(super) struct Part {
    doubt: Doubt,
    origin: Instant,
    timeout: Duration,
}

impl Part {
    /// `timeout` is that of a lease.
    pub(super) fn new(timeout: Duration) -> Self {
        Part { doubt: Doubt::default(), origin: Instant::now(), timeout }
    }

    pub(super) fn worked(&mut self) {
        self.doubt.worked();
    }

    pub(super) fn failed(&mut self) {
        self.doubt.failed(self.origin.elapsed());
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.is_due(self.origin.elapsed(), self.timeout)
    }
}
