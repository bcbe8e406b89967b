//! Runs SQLite's blocking calls away from the async runtime's own threads.

use std::sync::{Arc, Mutex};

use crate::error::{Error, ErrorKind, Result};

/// Something with blocking calls, used by one call at a time. A call that nobody waits for any more
/// still runs to its end, so that no transaction is left open.
pub(crate) struct Blocking<T>(Arc<Mutex<T>>);

impl<T: Send + 'static> Blocking<T> {
    pub(crate) fn new(inner: T) -> Self {
        Blocking(Arc::new(Mutex::new(inner)))
    }

    /// Calls `work` on a thread that may block.
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut T) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let inner = Arc::clone(&self.0);
        let called = tokio::task::spawn_blocking(move || {
            let mut inner = inner.lock().map_err(|_| {
                Error::new(ErrorKind::Failed, operation, "an earlier call on this connection panicked")
            })?;
            work(&mut inner)
        });
        called.await.unwrap_or_else(|error| {
            // Stopped in the middle, at an unknown place.
            Err(Error::new(ErrorKind::Unclear, operation, "the call was not finished").caused_by(error))
        })
    }
}
