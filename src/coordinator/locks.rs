//! A node's sessions with the store of locks: one at a time, opened with the first lock and again where one is over.
//!
//! Promises that whoever gives up waiting, in whatever way, leaves the queue as soon as the store answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{HolderId, TransactionId};
use crate::lock::{self, Entrant, LockSession, LockStore};
use crate::protocol::decision::Fence;
use crate::protocol::lock::{Entry, Owner, Queue};
use crate::protocol::retry::Backoff;

/// How often leaving is tried. What a session's end or a coordinator's does not end, waits for the next start.
const LEAVE_TRIES: u32 = 100;

/// See the module.
pub(super) struct Locks {
    store: Arc<dyn LockStore>,
    session: Mutex<Option<Arc<dyn LockSession>>>,
    pub(super) retry: Backoff,
    runtime: Handle,
}

impl Locks {
    /// In the tokio runtime that this is called in.
    pub(super) fn new(store: Arc<dyn LockStore>, retry: Backoff) -> Self {
        Locks { store, session: Mutex::default(), retry, runtime: Handle::current() }
    }

    /// The session that is open, or a new one.
    async fn session(&self) -> Result<Arc<dyn LockSession>> {
        let mut session = self.session.lock().await;
        if let Some(open) = session.as_ref().filter(|open| !open.is_over()) {
            return Ok(Arc::clone(open));
        }
        let opened: Arc<dyn LockSession> = Arc::from(self.store.open().await?);
        *session = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Waits for a lock of a transaction. Its entry outlives the session, so that another one goes on waiting in
    /// the same place. Where this fails or is dropped it has to be left.
    pub(super) async fn lock(
        &self,
        queue: &Queue,
        transaction: TransactionId,
        fence: Fence,
        until: Instant,
    ) -> Result<i64> {
        let mut failures = 0;
        loop {
            let asked = async {
                let session = self.session().await?;
                lock::acquire(&*session, queue, Entrant::Transaction(transaction, fence), until, self.retry)
                    .await
            };
            match asked.await {
                Err(error) if is_unanswered(&error) && Instant::now() < until => failures += 1,
                asked => return asked,
            }
            tokio::time::sleep(self.retry.wait(failures, 0.5)).await;
        }
    }

    /// Waits for a place of this process's own, in whatever session that is open.
    pub(super) async fn hold(self: &Arc<Self>, queue: &Queue, until: Instant) -> Result<Place> {
        let mut failures = 0;
        loop {
            match self.try_to_hold(queue, until).await {
                // The place was the session's: the next one is behind all who wait.
                Err(error)
                    if (is_unanswered(&error) || error.kind() == ErrorKind::Fenced)
                        && Instant::now() < until =>
                {
                    failures += 1;
                }
                asked => return asked,
            }
            tokio::time::sleep(self.retry.wait(failures, 0.5)).await;
        }
    }

    async fn try_to_hold(self: &Arc<Self>, queue: &Queue, until: Instant) -> Result<Place> {
        let session = self.session().await?;
        let owner = HolderId::random();
        let (locks, queue) = (Arc::clone(self), queue.clone());
        let mut place = Place { number: 0, queue, owner, is_left: AtomicBool::new(false), session, locks };
        let entrant = Entrant::Holder(owner);
        place.number = lock::acquire(&*place.session, &place.queue, entrant, until, self.retry).await?;
        Ok(place)
    }

    /// Gives up what a transaction has, or asked for; goes on behind the caller's back where the store does not
    /// answer at once.
    pub(super) async fn release(self: &Arc<Self>, transaction: TransactionId, queues: Vec<Queue>) {
        if queues.is_empty() || self.try_to_release(transaction, &queues).await.is_ok() {
            return;
        }
        let locks = Arc::clone(self);
        self.runtime.spawn(async move {
            for failures in 1..LEAVE_TRIES {
                tokio::time::sleep(locks.retry.wait(failures, 0.5)).await;
                match locks.try_to_release(transaction, &queues).await {
                    Err(error) if failures + 1 == LEAVE_TRIES => {
                        let why = "locks could not be released: they are once this process has ended and was recovered";
                        tracing::error!(%transaction, %error, "{why}");
                    }
                    Err(_) => {}
                    Ok(()) => return,
                }
            }
        });
    }

    async fn try_to_release(&self, transaction: TransactionId, queues: &[Queue]) -> Result<()> {
        let session = self.session().await?;
        for queue in queues {
            session.leave(queue, Owner::Transaction(transaction)).await?;
        }
        Ok(())
    }

    /// Removes what counts for nothing any more, if anything was ever locked here.
    pub(super) async fn clean(&self) -> Result<()> {
        let session = self.session.lock().await.clone();
        match session.filter(|session| !session.is_over()) {
            Some(session) => session.discard_leftovers().await.map(drop),
            None => Ok(()),
        }
    }
}

fn is_unanswered(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Unclear)
}

/// A place in a queue that belongs to a session. Dropped, it is left.
pub(super) struct Place {
    pub(super) number: i64,
    pub(super) queue: Queue,
    owner: HolderId,
    is_left: AtomicBool,
    pub(super) session: Arc<dyn LockSession>,
    locks: Arc<Locks>,
}

impl Place {
    /// Whether it is there still, as the store knows now.
    pub(super) async fn is_there(&self) -> Result<bool> {
        let entry = Entry { number: self.number, owner: Owner::Holder(self.owner) };
        self.session.is_there(&self.queue, &entry).await
    }

    /// Leaves it, as soon as the store answers.
    pub(super) async fn leave(&self) {
        let left = self.session.leave(&self.queue, Owner::Holder(self.owner)).await;
        self.is_left.store(left.is_ok(), Ordering::SeqCst);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_left.load(Ordering::SeqCst) {
            return;
        }
        let (session, queue, owner) = (Arc::clone(&self.session), self.queue.clone(), self.owner);
        let retry = self.locks.retry;
        self.locks.runtime.spawn(async move {
            for failures in 1..=LEAVE_TRIES {
                // With the session it is gone.
                if session.is_over() || session.leave(&queue, Owner::Holder(owner)).await.is_ok() {
                    return;
                }
                tokio::time::sleep(retry.wait(failures, 0.5)).await;
            }
        });
    }
}
