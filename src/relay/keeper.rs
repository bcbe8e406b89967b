//! Keeps this relay's leases alive while it takes part, apart from everything that may have to wait:
//! a database that is away for a moment must not cost a lease.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use tracing::Instrument as _;

use super::told::Told;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, ShardIndex};
use crate::lease::{Lease, LeaseView};

/// Requests that may wait for the keeper.
const REQUESTS: usize = 64;

/// What the keeper last saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) view: LeaseView,
    /// When the last successful renewal *began*: others count from when they saw it.
    pub(crate) renewed_at: Option<Instant>,
    refused: Option<Arc<Error>>,
    pub(crate) timeout: Duration,
}

impl Seen {
    /// Whether nobody else can own what this relay owns. Otherwise no batch may begin.
    pub(crate) fn is_fresh(&self) -> bool {
        self.renewed_at.is_some_and(|at| at.elapsed() < self.timeout)
    }

    /// Fails where a person has to look at the leases' store: waiting would not help.
    pub(crate) fn check(&self) -> Result<()> {
        self.refused.as_ref().map_or(Ok(()), |refused| {
            let why = "the leases can't be kept, and waiting would not help";
            Err(Error::new(refused.kind(), "keep leases", why).caused_by(Arc::clone(refused)))
        })
    }
}

enum Request {
    Take(ShardIndex, Epoch, oneshot::Sender<Result<Option<Epoch>>>),
    Release(ShardIndex, oneshot::Sender<Result<()>>),
    Join(oneshot::Sender<Result<()>>),
    Leave(oneshot::Sender<Result<()>>),
}

/// The keeper's handle.
#[derive(Clone)]
pub(crate) struct Keeper {
    requests: mpsc::Sender<Request>,
    pub(crate) seen: watch::Receiver<Seen>,
}

impl Keeper {
    /// Starts, without joining. It ends when the last handle is dropped.
    pub(crate) fn start(lease: Box<dyn Lease>) -> Self {
        let (requests, received) = mpsc::channel(REQUESTS);
        let (publish, seen) = watch::channel(Seen { timeout: lease.timeout(), ..Seen::default() });
        tokio::spawn(keep(lease, received, publish).in_current_span());
        Keeper { requests, seen }
    }

    pub(crate) async fn take(&self, shard: ShardIndex, above: Epoch) -> Result<Option<Epoch>> {
        self.ask(|reply| Request::Take(shard, above, reply)).await
    }

    pub(crate) async fn release(&self, shard: ShardIndex) -> Result<()> {
        self.ask(|reply| Request::Release(shard, reply)).await
    }

    /// From now on this relay counts among the living, and renews.
    pub(crate) async fn join(&self) -> Result<()> {
        self.ask(Request::Join).await
    }

    /// Gives everything up, and no longer renews.
    pub(crate) async fn leave(&self) -> Result<()> {
        self.ask(Request::Leave).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<Result<T>>) -> Request) -> Result<T> {
        let ended = || Error::new(ErrorKind::Failed, "ask for lease", "the lease keeper has ended");
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

async fn keep(
    mut lease: Box<dyn Lease>,
    mut requests: mpsc::Receiver<Request>,
    publish: watch::Sender<Seen>,
) {
    let mut ticks = tokio::time::interval(lease.timeout() / 4);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = Told::default();
    let mut joined = false;
    loop {
        tokio::select! {
            _ = ticks.tick(), if joined => renew(&mut *lease, &publish, &mut told).await,
            request = requests.recv() => match request {
                None => return,
                // Whoever asked may be gone; the lease is kept or lost all the same.
                Some(Request::Take(shard, above, reply)) => {
                    let _ = reply.send(lease.take(shard, above).await);
                    renew(&mut *lease, &publish, &mut told).await;
                }
                Some(Request::Release(shard, reply)) => {
                    let _ = reply.send(lease.release(shard).await);
                    renew(&mut *lease, &publish, &mut told).await;
                }
                Some(Request::Join(reply)) => {
                    joined = true;
                    renew(&mut *lease, &publish, &mut told).await;
                    let _ = reply.send(Ok(()));
                }
                Some(Request::Leave(reply)) => {
                    joined = false;
                    publish.send_modify(|seen| seen.renewed_at = None);
                    let _ = reply.send(lease.leave().await);
                }
            }
        }
    }
}

async fn renew(lease: &mut dyn Lease, publish: &watch::Sender<Seen>, told: &mut Told) {
    let began = Instant::now();
    match lease.renew().await {
        Ok(view) => {
            if told.clear() {
                tracing::info!("leases are kept again");
            }
            publish.send_modify(|seen| {
                seen.view = view;
                seen.renewed_at = Some(began);
            });
        }
        Err(error) if matches!(error.kind(), ErrorKind::Refused | ErrorKind::Configuration) => {
            publish.send_modify(|seen| seen.refused = Some(Arc::new(error)));
        }
        Err(error) if told.is_news(&error) => {
            tracing::warn!(%error, "leases can't be kept; no new batch begins until they are");
        }
        Err(_) => {}
    }
}
