//! About how many messages are delivered and still in the outbox: the pruner's work.
//!
//! Writers that never let a backlog end leave pruning no time of its own, and the table grows for as long
//! as that goes on. So before each read the reader makes way while too many are left: for a moment, and
//! only behind a piece that went, so that what can't be pruned never keeps messages from being delivered.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// How long a read waits for the pruner at most. Even then 4 MiB go with each. With half of it the table
/// grows to more than three times its backlog, with more nothing is delivered for nearly a second
/// (docs/performance.md).
const WAY_LIMIT: Duration = Duration::from_millis(200);
const NO_LIMIT: u64 = u64::MAX;

/// Counted up by the deliverers, and down by the pruner.
pub(super) struct Unpruned {
    messages: watch::Sender<u64>,
    /// There may be more, which a former owner has left: until all is gone, a piece that went may be theirs.
    more: AtomicBool,
    limit: AtomicU64,
}

impl Default for Unpruned {
    fn default() -> Self {
        Unpruned {
            messages: watch::Sender::new(0),
            more: AtomicBool::new(false),
            limit: AtomicU64::new(NO_LIMIT),
        }
    }
}

impl Unpruned {
    pub(super) fn add(&self, messages: u64) {
        self.messages.send_modify(|all| *all = all.saturating_add(messages));
    }

    /// A shard was taken, whose former owner may have left some.
    pub(super) fn add_unknown(&self) {
        self.more.store(true, Ordering::Relaxed);
        // Without a sign they would stay until the next message.
        self.add(1);
    }

    /// A piece went. Only when all are gone nothing is left to do.
    pub(super) fn some_went(&self, messages: u64) {
        if !self.more.load(Ordering::Relaxed) {
            self.messages.send_modify(|all| *all = (*all).min(all.saturating_sub(messages).max(1)));
        }
    }

    /// All went that were counted `before`, and whatever a former owner has left.
    pub(super) fn all_went(&self, before: u64) {
        self.more.store(false, Ordering::Relaxed);
        self.messages.send_modify(|all| *all = all.saturating_sub(before));
    }

    pub(super) fn messages(&self) -> u64 {
        *self.messages.borrow()
    }

    /// Returns as soon as there are any.
    pub(super) async fn any(&self) {
        // Never an error: `self` has the sender.
        let _ = self.messages.subscribe().wait_for(|messages| *messages > 0).await;
    }

    /// From now on reads make way while there are more than this; None where they need not.
    pub(super) fn limit(&self, messages: Option<u64>) {
        self.limit.store(messages.unwrap_or(NO_LIMIT), Ordering::Relaxed);
    }

    /// Gives the pruner a moment where it is behind.
    pub(super) async fn make_way(&self) {
        let few = |messages: &u64| *messages <= self.limit.load(Ordering::Relaxed);
        if few(&self.messages.borrow()) {
            return;
        }
        let _ = tokio::time::timeout(WAY_LIMIT, self.messages.subscribe().wait_for(few)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn reads_make_way_until_few_are_left() {
        let unpruned = Unpruned::default();
        unpruned.add(10);
        unpruned.make_way().await;
        unpruned.limit(Some(5));
        let mut read = pin!(unpruned.make_way());
        let mut left = 10;
        poll_fn(|context| {
            while read.as_mut().poll(context).is_pending() {
                assert!(left > 5, "few are left, and the read waits");
                unpruned.some_went(1);
                left -= 1;
            }
            assert_eq!(left, 5);
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn reads_wait_but_a_moment_where_pruning_does_not_get_on() {
        let unpruned = Unpruned::default();
        unpruned.add(10);
        unpruned.limit(Some(5));
        unpruned.make_way().await;
        assert_eq!(unpruned.messages(), 10);
    }

    #[tokio::test]
    async fn work_is_left_until_all_is_gone_however_many_went() {
        let unpruned = Unpruned::default();
        unpruned.some_went(1);
        assert_eq!(unpruned.messages(), 0);
        unpruned.add(3);
        unpruned.any().await;
        unpruned.some_went(5);
        assert_eq!(unpruned.messages(), 1);
        unpruned.add(2);
        unpruned.all_went(1);
        assert_eq!(unpruned.messages(), 2);
    }

    #[test]
    fn what_a_former_owner_left_is_not_taken_for_what_was_counted() {
        let unpruned = Unpruned::default();
        unpruned.add_unknown();
        unpruned.add(10);
        unpruned.some_went(5);
        assert_eq!(unpruned.messages(), 11);
        unpruned.all_went(11);
        unpruned.add(10);
        unpruned.some_went(5);
        assert_eq!(unpruned.messages(), 5);
    }
}
