//! Runs sessions one after another until the relay is stopped. A session ends with any error of the
//! outbox; a server that is away is waited for with backoff, and told once. A relay lives for the
//! others only while it reaches outbox and delivery: otherwise it would keep its share of the shards
//! from those that can deliver them.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::counted::Tally;
use super::keeper::Keeper;
use super::part::Part;
use super::session::{Session, Shared};
use super::settings::RelaySettings;
use super::take::Taker;
use super::told::Told;
use super::wait::{chance, stopped};
use crate::config::Followed;
use crate::delivery::Delivery;
use crate::error::{Error, ErrorKind, Result};
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
    pub settings: Followed<RelaySettings>,
    /// Where its loop tells that it turns. The ports above are counted there, too.
    pub tally: Arc<Tally>,
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
    let Relay { id, source, installation, delivery, lease, settings, tally } = relay;
    // `status` names owners by this id: here a person finds which process that is.
    tracing::info!(relay = %id, "starts");
    let keeper = Keeper::start(lease);
    let taker = Taker { source: Arc::clone(&source), installation, delivery, keeper: keeper.clone() };
    let shared = Shared { id, source, taker, keeper, settings, tally };
    let ended = sessions(&shared, &mut stop).await;
    failpoint!("relay.leave.before")?;
    leave(&shared).await;
    ended
}

async fn sessions(shared: &Shared, stop: &mut watch::Receiver<bool>) -> Result<()> {
    let mut failures = 0;
    let mut told = Told::default();
    let mut part = Part::new(shared.keeper.seen.borrow().timeout);
    join(shared, &mut part, stop, &mut told).await?;
    while !*stop.borrow() {
        let began = Instant::now();
        let Err(error) = Session::run(shared, stop, &mut told, &mut part).await else { return Ok(()) };
        failures = if began.elapsed() > shared.settings.now().retry.limit { 1 } else { failures + 1 };
        part.failed();
        waits(shared, error, failures, stop, &mut told).await?;
        if part.is_in_doubt() {
            tracing::warn!("leaves its shards to other relays until it can deliver again");
            leave(shared).await;
            join(shared, &mut part, stop, &mut told).await?;
        }
    }
    Ok(())
}

/// Joins the relays as soon as outbox and delivery answer, or returns because of a stop.
async fn join(
    shared: &Shared,
    part: &mut Part,
    stop: &mut watch::Receiver<bool>,
    told: &mut Told,
) -> Result<()> {
    let mut failures = 0;
    loop {
        let checked = tokio::select! {
            checked = shared.taker.clone().check() => checked,
            () = stopped(stop) => return Ok(()),
        };
        let Err(error) = checked else { break };
        failures += 1;
        waits(shared, error, failures, stop, told).await?;
    }
    part.worked();
    shared.keeper.join().await
}

/// Gives up what this relay holds, and that it lives.
async fn leave(shared: &Shared) {
    let limit = shared.settings.now().shutdown_limit;
    let left = tokio::time::timeout(limit, shared.keeper.leave()).await;
    if !matches!(left, Ok(Ok(()))) {
        tracing::warn!("the leases could not be given up; others take them when they time out");
    }
}

/// Waits before the next try, and tells once why. Fails where waiting would not help.
async fn waits(
    shared: &Shared,
    error: Error,
    failures: u32,
    stop: &mut watch::Receiver<bool>,
    told: &mut Told,
) -> Result<()> {
    if matches!(error.kind(), ErrorKind::Refused | ErrorKind::Configuration) {
        return Err(error);
    }
    if told.is_news(&error) {
        tracing::warn!(%error, "waiting, nothing is lost");
    }
    shared.tally.note_turn();
    let wait = shared.settings.now().retry.wait(failures, chance());
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = stopped(stop) => {}
    }
    Ok(())
}
