//! Locks and leadership outside of transactions: held by this process for as long as its session with the store
//! lives, and told at once when they are lost.
//!
//! Relies on the store's session timeout: until it is over since the last request that was answered, nobody else
//! holds what this one does. Promises to claim nothing beyond that.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::locks::{Locks, Place};
use super::node::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::id::LockName;
use crate::process::Process;
use crate::protocol::lock::{Purpose, Queue};

const RELEASE: &str = "release";
/// How often the store is asked, in a session's timeout.
const LOOKS_PER_TIMEOUT: u32 = 4;
/// The same where a session does not time out, while this process lives.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Waiting without a limit: some years.
const LIMITLESS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A lock that is held, or the leadership. Dropped, it is given up.
///
/// ```no_run
/// # async fn report(node: &onecommit::coordinator::Node) -> onecommit::Result<()> {
/// use std::time::Duration;
///
/// let lock = node.lock(&"nightly report".parse()?, Duration::from_secs(10)).await?;
/// println!("held, with the number {}", lock.number());
/// lock.release().await
/// # }
/// ```
pub struct HeldLock {
    place: Arc<Place>,
    state: Arc<watch::Sender<State>>,
    watching: JoinHandle<()>,
    process: Process,
}

/// What is known of a place.
#[derive(Clone, Copy)]
struct State {
    is_lost: bool,
    /// When the last request was sent that was answered: by then it was held.
    proved: Instant,
}

impl Node {
    /// Takes a lock for this process, and waits for it. `Conflict` where it was not free in time. A transaction's
    /// lock of the same name is the same lock.
    pub fn lock(
        &self,
        name: &LockName,
        timeout: Duration,
    ) -> impl Future<Output = Result<HeldLock>> + Send + use<> {
        self.hold("lock", Purpose::Lock, name, timeout)
    }

    /// Stands for election, and waits to be elected, for as long as it takes where no limit is given. The number of
    /// what is held is the term: each leader's is higher than those before it. Its release is to resign.
    pub fn lead(
        &self,
        name: &LockName,
        timeout: Option<Duration>,
    ) -> impl Future<Output = Result<HeldLock>> + Send + use<> {
        self.hold("stand for election", Purpose::Leader, name, timeout.unwrap_or(LIMITLESS))
    }

    /// Without the node: who waits does not keep it from being closed.
    fn hold(
        &self,
        operation: &'static str,
        purpose: Purpose,
        name: &LockName,
        timeout: Duration,
    ) -> impl Future<Output = Result<HeldLock>> + Send + use<> {
        let is_own = self.expect_own_process(operation);
        let (locks, queue) = (Arc::clone(&self.locks), Queue { purpose, name: name.clone() });
        let mut closed = self.closed();
        async move {
            is_own?;
            let until = Instant::now() + timeout.min(LIMITLESS);
            tokio::select! {
                held = hold(&locks, &queue, until, closed.clone()) => held,
                _ = closed.wait_for(|closed| *closed) => {
                    let error = Error::new(ErrorKind::Invalid, operation, "it was closed meanwhile: open it again");
                    Err(error.with("name", &queue.name))
                }
            }
        }
    }
}

async fn hold(
    locks: &Arc<Locks>,
    queue: &Queue,
    until: Instant,
    closed: watch::Receiver<bool>,
) -> Result<HeldLock> {
    loop {
        let place = Arc::new(locks.hold(queue, until).await?);
        let asked = Instant::now();
        match place.is_there().await {
            Ok(true) => return Ok(HeldLock::watched(place, asked, closed)),
            Err(error) if !error.is_retriable() || Instant::now() >= until => return Err(error),
            Ok(false) | Err(_) => {}
        }
    }
}

impl HeldLock {
    fn watched(place: Arc<Place>, proved: Instant, closed: watch::Receiver<bool>) -> Self {
        let state = Arc::new(watch::Sender::new(State { is_lost: false, proved }));
        let watching = tokio::spawn(watch_over(Arc::clone(&place), Arc::clone(&state), closed));
        HeldLock { place, state, watching, process: Process::this() }
    }

    /// The fencing number, or the term. Numbers of one name only grow, whoever holds it: what is written with a
    /// lower one than was seen before is from somebody who has lost it.
    pub fn number(&self) -> i64 {
        self.place.number
    }

    /// Whether it is held for certain, at this moment. Once it is not it never is again. A forked child holds nothing.
    pub fn is_held(&self) -> bool {
        // In a child nobody would ever notice that it is lost.
        if !self.process.is_this() {
            return false;
        }
        let state = *self.state.borrow();
        !state.is_lost && self.last_certain(state).is_none_or(|until| Instant::now() < until)
    }

    /// Waits until it is not held for certain any more.
    pub async fn lost(&self) {
        let mut changes = self.state.subscribe();
        while self.is_held() {
            let state = *changes.borrow_and_update();
            let uncertain = async {
                match self.last_certain(state) {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = uncertain => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Gives it up. `Fenced` where it was lost before: somebody else may have held it at the same time.
    pub async fn release(self) -> Result<()> {
        self.give_up().await
    }

    /// The same for one that is shared.
    pub(crate) async fn give_up(&self) -> Result<()> {
        self.process.expect(RELEASE)?;
        let was_held = self.is_held();
        self.watching.abort();
        self.state.send_modify(|state| state.is_lost = true);
        self.place.leave().await;
        if was_held {
            return Ok(());
        }
        let why =
            "it was lost while it was held, by the end of the session: somebody else may have held it since";
        let error = Error::new(ErrorKind::Fenced, RELEASE, why).with("name", &self.place.queue.name);
        Err(error.with("number", self.number()))
    }

    /// None where it can't be lost without being told.
    fn last_certain(&self, state: State) -> Option<Instant> {
        self.place.session.timeout().map(|timeout| state.proved + timeout)
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// Asks the store again and again, until it is lost; gives it up where the node is closed.
async fn watch_over(place: Arc<Place>, told: Arc<watch::Sender<State>>, mut closed: watch::Receiver<bool>) {
    let timeout = place.session.timeout();
    let interval = timeout.map_or(LOOK_INTERVAL, |timeout| timeout / LOOKS_PER_TIMEOUT);
    loop {
        let is_closed = tokio::select! {
            () = tokio::time::sleep(interval) => false,
            _ = closed.wait_for(|closed| *closed) => true,
        };
        if is_closed {
            told.send_modify(|state| state.is_lost = true);
            return place.leave().await;
        }
        let asked = Instant::now();
        let came = place.is_there().await;
        // What comes too late must not take back that it was not certain any more.
        let is_late = timeout.is_some_and(|timeout| told.borrow().proved.elapsed() >= timeout);
        match came {
            Ok(true) if !is_late => told.send_modify(|state| state.proved = asked),
            Err(_) if !is_late && !place.session.is_over() => {}
            Ok(_) | Err(_) => break,
        }
    }
    told.send_modify(|state| state.is_lost = true);
    place.unlist();
    let (name, number) = (&place.queue.name, place.number);
    tracing::warn!(%name, number, "a lock, or a leadership, is lost: the session with its store has ended");
}
