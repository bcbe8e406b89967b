//! Runs SQLite's blocking calls away from the async runtime's own threads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind, Result};

/// Something with blocking calls, used by one call at a time, in the order in which they were made. A call that
/// nobody waits for any more still runs to its end, so that no transaction is left open; and before those behind it,
/// so that whoever undoes what it does need not wait for it.
pub(crate) struct Blocking<T>(Arc<Inner<T>>);

struct Inner<T> {
    // Locked by whoever runs what waits.
    used: Mutex<T>,
    waiting: Mutex<VecDeque<Call<T>>>,
}

/// Given None where an earlier one panicked.
type Call<T> = Box<dyn FnOnce(Option<&mut T>) + Send>;

impl<T: Send + 'static> Blocking<T> {
    pub(crate) fn new(inner: T) -> Self {
        Blocking(Arc::new(Inner { used: Mutex::new(inner), waiting: Mutex::default() }))
    }

    /// Calls `work` on a thread that may block.
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut T) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let (answer, mut answered) = oneshot::channel();
        self.0.push(Box::new(move |inner| {
            let result = inner.map_or_else(
                || {
                    Err(Error::new(
                        ErrorKind::Failed,
                        operation,
                        "an earlier call on this connection panicked",
                    ))
                },
                work,
            );
            // Nobody may wait for it any more.
            let _ = answer.send(result);
        }));
        let inner = Arc::clone(&self.0);
        let running = tokio::task::spawn_blocking(move || inner.run());
        // Stopped in the middle, at an unknown place.
        let unfinished = || Error::new(ErrorKind::Unclear, operation, "the call was not finished");
        tokio::select! {
            biased;
            result = &mut answered => result.unwrap_or_else(|error| Err(unfinished().caused_by(error))),
            // By then it was called; or it was not, as the runtime ends, and nobody would ever answer.
            ran = running => match (answered.try_recv(), ran) {
                (Ok(result), _) => result,
                (Err(_), Err(error)) => Err(unfinished().caused_by(error)),
                (Err(error), Ok(())) => Err(unfinished().caused_by(error)),
            },
        }
    }
}

impl<T> Inner<T> {
    fn push(&self, call: Call<T>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(call);
    }

    fn pop(&self) -> Option<Call<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// All that waits: threads do not begin in the order in which they were asked for.
    fn run(&self) {
        let mut used = self.used.lock();
        while let Some(call) = self.pop() {
            call(used.as_deref_mut().ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_run_in_their_order_also_those_that_nobody_waits_for() {
        const CALLS: usize = 200;
        let blocking = Blocking::new(Vec::new());
        let (go_on, waits) = mpsc::channel::<()>();
        let first = blocking.call("test", move |_| {
            let _ = waits.recv();
            Ok(())
        });
        assert!(first.now_or_never().is_none());
        for n in 0..CALLS {
            let given_up = blocking.call("test", move |done| {
                done.push(n);
                Ok(())
            });
            assert!(given_up.now_or_never().is_none());
        }
        go_on.send(()).unwrap();
        let done = blocking.call("test", |done| Ok(done.clone())).await.unwrap();
        assert_eq!(done, (0..CALLS).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn after_a_panic_nothing_more_is_done() {
        let blocking = Blocking::new(());
        let panicked = blocking.call("test", |()| -> Result<()> { panic!("as it may") }).await.unwrap_err();
        assert_eq!(panicked.kind(), ErrorKind::Unclear);
        let later = blocking.call("test", |()| Ok(())).await.unwrap_err();
        assert_eq!(later.kind(), ErrorKind::Failed);
    }
}
