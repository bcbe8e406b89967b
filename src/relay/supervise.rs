//! Runs sessions one after another until the relay is stopped. A session ends with any error of the
//! outbox; a server that is away is waited for with backoff, and told once.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::keeper::Keeper;
use super::session::{Session, Shared};
use super::settings::RelaySettings;
use super::take::Taker;
use super::told::Told;
use super::wait::{chance, stopped};
use crate::delivery::Delivery;
use crate::error::{ErrorKind, Result};
use crate::failpoint;
use crate::id::RelayId;
use crate::lease::Lease;
use crate::outbox::{Installation, OutboxSource};

/// A relay of one participant, ready to run.
pub struct Relay {
    /// This process's id among the relays.
    pub id: RelayId,
    /// Where messages are read.
    pub source: Arc<dyn OutboxSource>,
    /// What `init` wrote there.
    pub installation: Installation,
    /// Where they go.
    pub delivery: Arc<dyn Delivery>,
    /// Which shards are this relay's.
    pub lease: Box<dyn Lease>,
    /// Limits and pauses.
    pub settings: RelaySettings,
}

impl Relay {
    /// Runs until `stop` turns true: then it finishes the batches in flight and gives up its
    /// leases. A server that is away is waited for, with backoff, for as long as it takes. Returns
    /// early only with an error that a person has to look at (`Refused`, `Configuration`).
    pub async fn run(self, stop: watch::Receiver<bool>) -> Result<()> {
        run(self, stop).await
    }
}

async fn run(relay: Relay, mut stop: watch::Receiver<bool>) -> Result<()> {
    let Relay { id, source, installation, delivery, lease, settings } = relay;
    // `status` names owners by this id: here a person finds which process that is.
    tracing::info!(relay = %id, "starts");
    let keeper = Keeper::start(lease);
    let taker = Taker { source: Arc::clone(&source), installation, delivery, keeper: keeper.clone() };
    let shared = Shared { id, source, taker, keeper: keeper.clone(), settings: settings.clone() };
    let ended = sessions(&shared, &settings, &mut stop).await;
    failpoint!("relay.leave.before")?;
    let left = tokio::time::timeout(settings.shutdown_limit, keeper.leave()).await;
    if !matches!(left, Ok(Ok(()))) {
        tracing::warn!("the leases could not be given up; others take them when they time out");
    }
    ended
}

async fn sessions(shared: &Shared, settings: &RelaySettings, stop: &mut watch::Receiver<bool>) -> Result<()> {
    let mut failures = 0;
    let mut told = Told::default();
    while !*stop.borrow() {
        let began = Instant::now();
        let Err(error) = Session::run(shared, stop, &mut told).await else { return Ok(()) };
        if matches!(error.kind(), ErrorKind::Refused | ErrorKind::Configuration) {
            return Err(error);
        }
        failures = if began.elapsed() > settings.retry.limit { 1 } else { failures + 1 };
        if told.is_news(&error) {
            tracing::warn!(%error, "waiting, nothing is lost");
        }
        let wait = settings.retry.wait(failures, chance());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stopped(stop) => {}
        }
    }
    Ok(())
}
