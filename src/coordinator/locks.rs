//! A node's sessions with the store of locks: one at a time, opened with the first lock and again where one is over.
//!
//! Promises that whoever gives up waiting, in whatever way, leaves the queue as soon as the store answers; and that
//! nothing is locked where the participants know higher numbers than the store, which was restored then: what was
//! handed out before would come again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::held::Members;
use super::holdings::{Holdings, Listed};
use super::member::Member;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{HolderId, ParticipantName, TransactionId};
use crate::lock::{self, Entrant, LockSession, LockStore};
use crate::protocol::decision::Fence;
use crate::protocol::lock::{Entry, Owner, Queue};
use crate::protocol::retry::Backoff;

const OPERATION: &str = "lock";
/// How often leaving is tried. What a session's end or a coordinator's does not end, waits for the next start.
const LEAVE_TRIES: u32 = 100;

/// How long what was compared with the participants holds, within one session.
const FLOOR_INTERVAL: Duration = Duration::from_secs(10);

/// The queues in which a transaction is, or may be; those it holds are listed.
pub(super) type Locked = BTreeMap<Queue, Option<Listed>>;

/// See the module.
pub(super) struct Locks {
    store: Arc<dyn LockStore>,
    members: Members,
    session: Mutex<Option<Opened>>,
    /// For whoever shows it.
    holdings: Arc<Holdings>,
    pub(super) retry: Backoff,
    runtime: Handle,
}

#[derive(Clone)]
struct Opened {
    session: Arc<dyn LockSession>,
    /// When its numbers were found to be above those that the participants know.
    compared: Arc<Mutex<Option<Instant>>>,
}

impl Locks {
    /// In the tokio runtime that this is called in.
    pub(super) fn new(
        store: Arc<dyn LockStore>,
        members: Members,
        holdings: Arc<Holdings>,
        retry: Backoff,
    ) -> Self {
        Locks { store, members, session: Mutex::default(), holdings, retry, runtime: Handle::current() }
    }

    /// The session that is open, or a new one.
    async fn opened(&self) -> Result<Opened> {
        let mut session = self.session.lock().await;
        if let Some(open) = session.as_ref().filter(|open| !open.session.is_over()) {
            return Ok(open.clone());
        }
        let opened = Opened { session: Arc::from(self.store.open().await?), compared: Arc::default() };
        *session = Some(opened.clone());
        Ok(opened)
    }

    /// The same, to lock something: compared with the participants not long ago.
    async fn session_to_lock(&self, until: Instant) -> Result<Arc<dyn LockSession>> {
        let opened = self.opened().await?;
        let compared = tokio::time::timeout_at(until, self.compare(&opened)).await;
        compared.unwrap_or_else(|_| {
            let why = "the participants did not answer in time, and nothing is locked without what they know";
            Err(Error::new(ErrorKind::Unreachable, OPERATION, why))
        })?;
        Ok(opened.session)
    }

    /// One participant has to answer. Their numbers are read before the store's, which goes on meanwhile.
    async fn compare(&self, opened: &Opened) -> Result<()> {
        let mut compared = opened.compared.lock().await;
        if self.members.is_empty() || compared.is_some_and(|at| at.elapsed() < FLOOR_INTERVAL) {
            return Ok(());
        }
        let began = Instant::now();
        let members = || self.members.values().cloned();
        let floors = members().map(|member| async move { member.port.lock_floor().await });
        let floors = self.one_at_least(join_all(floors).await)?;
        let position = opened.session.position().await?;
        for member in self.members.values() {
            if let Some(floor) = floors.get(&member.name).filter(|floor| **floor > position) {
                return Err(restored(member, *floor, position));
            }
        }
        let raised = members().map(|member| async move { member.port.raise_lock_floor(position).await });
        self.one_at_least(join_all(raised).await)?;
        *compared = Some(began);
        Ok(())
    }

    /// What the participants answered, in their order; an error where none did.
    fn one_at_least<T>(&self, asked: Vec<Result<T>>) -> Result<BTreeMap<ParticipantName, T>> {
        let (mut answers, mut failed) = (BTreeMap::new(), None);
        for (name, answer) in self.members.keys().zip(asked) {
            match answer {
                Ok(answer) => drop(answers.insert(name.clone(), answer)),
                Err(error) => failed = Some(error.with("participant", name)),
            }
        }
        failed.filter(|_| answers.is_empty()).map_or(Ok(answers), Err)
    }

    /// Waits for a lock of a transaction. Its entry outlives the session, so that another one goes on waiting in
    /// the same place. Where this fails or is dropped it has to be left.
    pub(super) async fn lock(
        &self,
        queue: &Queue,
        transaction: TransactionId,
        fence: Fence,
        until: Instant,
    ) -> Result<Listed> {
        let mut failures = 0;
        loop {
            let asked = async {
                let session = self.session_to_lock(until).await?;
                lock::acquire(&*session, queue, Entrant::Transaction(transaction, fence), until, self.retry)
                    .await
            };
            match asked.await {
                Err(error) if is_unanswered(&error) && Instant::now() < until => failures += 1,
                asked => {
                    let asked = asked.map_err(|error| self.told_of_own(queue, error));
                    return asked.map(|number| self.holdings.holds(queue, number));
                }
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
                asked => return asked.map_err(|error| self.told_of_own(queue, error)),
            }
            tokio::time::sleep(self.retry.wait(failures, 0.5)).await;
        }
    }

    /// Whoever waited too long for what its own process holds would look for somebody else in vain.
    fn told_of_own(&self, queue: &Queue, error: Error) -> Error {
        let is_late = error.kind() == ErrorKind::Conflict && !lock::is_deadlock(&error);
        if is_late && self.holdings.has(queue) { lock::late_behind_own(queue) } else { error }
    }

    async fn try_to_hold(self: &Arc<Self>, queue: &Queue, until: Instant) -> Result<Place> {
        let session = self.session_to_lock(until).await?;
        let owner = HolderId::random();
        let (locks, queue) = (Arc::clone(self), queue.clone());
        let is_left = AtomicBool::new(false);
        let mut place = Place { number: 0, queue, owner, is_left, listed: None, session, locks };
        let entrant = Entrant::Holder(owner);
        place.number = lock::acquire(&*place.session, &place.queue, entrant, until, self.retry).await?;
        place.listed = Some(self.holdings.holds(&place.queue, place.number));
        Ok(place)
    }

    /// Gives up what a transaction has, or asked for; goes on behind the caller's back where the store does not
    /// answer at once.
    pub(super) async fn release(self: &Arc<Self>, transaction: TransactionId, locked: Locked) {
        if locked.is_empty() || self.try_to_release(transaction, &locked).await.is_ok() {
            return;
        }
        let locks = Arc::clone(self);
        self.runtime.spawn(async move {
            for failures in 1..LEAVE_TRIES {
                tokio::time::sleep(locks.retry.wait(failures, 0.5)).await;
                match locks.try_to_release(transaction, &locked).await {
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

    async fn try_to_release(&self, transaction: TransactionId, locked: &Locked) -> Result<()> {
        let session = self.opened().await?.session;
        for queue in locked.keys() {
            session.leave(queue, Owner::Transaction(transaction)).await?;
        }
        Ok(())
    }

    /// Removes what counts for nothing any more, if anything was ever locked here.
    pub(super) async fn clean(&self) -> Result<()> {
        let opened = self.session.lock().await.clone();
        match opened.filter(|opened| !opened.session.is_over()) {
            Some(opened) => opened.session.discard_leftovers().await.map(drop),
            None => Ok(()),
        }
    }
}

fn restored(member: &Member, floor: i64, position: i64) -> Error {
    let confirm = member.port.forget_lock_floor();
    let why = format!(
        "the store of the locks (ZooKeeper, or decisions.db) is older than numbers of locks that were handed out: it \
         was restored or replaced, and fencing numbers would come again. Nothing is locked. See that nobody relies on \
         a number from before; then run this in each participant: {confirm}"
    );
    let error = Error::new(ErrorKind::Refused, OPERATION, why).with("participant", &member.name);
    error.with("known", floor).with("found", position)
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
    /// None until it is held.
    listed: Option<Listed>,
    pub(super) session: Arc<dyn LockSession>,
    locks: Arc<Locks>,
}

impl Place {
    /// Whether it is there still, as the store knows now.
    pub(super) async fn is_there(&self) -> Result<bool> {
        let entry = Entry { number: self.number, owner: Owner::Holder(self.owner) };
        self.session.is_there(&self.queue, &entry).await
    }

    /// It is not claimed any more: nobody is shown it.
    pub(super) fn unlist(&self) {
        self.listed.iter().for_each(Listed::remove);
    }

    /// Leaves it, as soon as the store answers.
    pub(super) async fn leave(&self) {
        self.unlist();
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
