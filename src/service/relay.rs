//! Runs one relay for each participant with an outbox.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::follow::Follower;
use super::installed::installed;
use super::limits::relay_settings;
use super::presence::Presence;
use super::relay_id::OwnId;
use super::{Observed, build, look, recover};
use crate::config::{Config, Followed, Participant};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ParticipantName;
use crate::outbox::OutboxSource;
use crate::relay::{CountedDelivery, CountedLease, CountedSource, Relay, RelaySettings, Tally, stopped};

/// Runs the relays until `stop` turns true; then batches in flight are finished and leases given
/// up. Servers that are away are waited for. A relay that a person has to look at ends, the others
/// go on; its error is returned at the end.
pub async fn run_relays(config: &Config, stop: watch::Receiver<bool>) -> Result<()> {
    run_observed(config, &Observed::new(config)?, stop).await
}

/// The same; `observed` tells meanwhile what they do.
pub async fn run_observed(config: &Config, observed: &Observed, stop: watch::Receiver<bool>) -> Result<()> {
    let (mut follower, changing) = Follower::new(config, Arc::clone(&observed.settings))?;
    follower.begin().await;
    tokio::spawn(follower.run());
    let mut relays: JoinSet<Result<()>> = JoinSet::new();
    for ((name, participant), (_, tally)) in build::outboxes(config)?.into_iter().zip(&observed.participants)
    {
        let one = One {
            config: config.clone(),
            name: name.clone(),
            participant: participant.clone(),
            id: Arc::clone(&observed.id),
            tally: Arc::clone(tally),
            looks: observed.looks,
            settings: changing.relay.clone(),
        };
        let stop = stop.clone();
        // Every line of the log says whose relay it is.
        let span = tracing::info_span!("relay", participant = %name);
        let run = async move {
            let ended = one.run(stop).await;
            one.tally.note_end(ended.as_ref().err().map(ToString::to_string));
            ended.map_err(|error| error.with("participant", &one.name))
        };
        relays.spawn(run.instrument(span));
    }
    let settings = relay_settings(config);
    let holdings = Arc::default();
    let presence = Presence {
        config: config.clone(),
        started: observed.started,
        relay: Some((Arc::clone(&observed.id), observed.participants.clone())),
        holdings: Arc::clone(&holdings),
        following: Arc::clone(&observed.settings),
    };
    let present = presence.spawn(stop.clone());
    let mut recovering = tokio::spawn(recover::run(
        config.clone(),
        changing.coordinator,
        settings.retry,
        Arc::clone(&observed.recovery),
        Arc::clone(&holdings),
        stop.clone(),
    ));
    let mut failed = None;
    while let Some(ended) = relays.join_next().await {
        let ended = ended.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Failed, "run relay", "the relay ended early").caused_by(error))
        });
        if let Err(error) = ended {
            tracing::error!(%error, "this participant's relay has stopped");
            failed = Some(error);
        }
    }
    if *stop.borrow() {
        let _ = tokio::time::timeout(settings.shutdown_limit, &mut recovering).await;
    }
    recovering.abort();
    if *stop.borrow() {
        let _ = present.await;
    } else {
        present.abort();
    }
    failed.map_or(Ok(()), Err)
}

/// What the relay of one participant is made of.
struct One {
    config: Config,
    name: ParticipantName,
    participant: Participant,
    id: Arc<OwnId>,
    tally: Arc<Tally>,
    looks: bool,
    settings: Followed<RelaySettings>,
}

impl One {
    async fn run(&self, mut stop: watch::Receiver<bool>) -> Result<()> {
        let retry = relay_settings(&self.config).retry;
        let source: Arc<dyn OutboxSource> = Arc::new(CountedSource::new(
            build::source(&self.config, &self.participant),
            Arc::clone(&self.tally),
        ));
        let mut failures = 0;
        let mut told: Option<String> = None;
        loop {
            self.tally.note_turn();
            match self.assemble(&source).await {
                Ok(relay) => return self.run_and_look(relay, stop).await,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Refused | ErrorKind::Configuration | ErrorKind::Invalid
                    ) =>
                {
                    return Err(error);
                }
                Err(error) => {
                    let text = error.to_string();
                    if told.as_ref() != Some(&text) {
                        tracing::warn!(%error, "waiting, nothing is lost");
                        told = Some(text);
                    }
                }
            }
            failures += 1;
            tokio::select! {
                () = tokio::time::sleep(retry.wait(failures, 0.5)) => {}
                () = stopped(&mut stop) => return Ok(()),
            }
        }
    }

    async fn run_and_look(&self, relay: Relay, stop: watch::Receiver<bool>) -> Result<()> {
        if !self.looks {
            return relay.run(stop).await;
        }
        let (source, delivery) = (Arc::clone(&relay.source), Arc::clone(&relay.delivery));
        tokio::select! {
            ended = relay.run(stop) => ended,
            never = look::run(source, delivery, Arc::clone(&self.tally)) => match never {},
        }
    }

    async fn assemble(&self, source: &Arc<dyn OutboxSource>) -> Result<Relay> {
        let One { config, name, participant, tally, .. } = self;
        let settings = self.settings.clone();
        let installation = installed(config, name, participant, &**source).await?;
        let id = self.id.get();
        let scope = build::scope(config, name, participant, installation.incarnation);
        let delivery = Arc::new(CountedDelivery::new(build::delivery(config, scope)?, Arc::clone(tally)));
        let lease = build::lease(config, participant, &installation, id).await;
        tally.leases.note(&lease);
        let lease = Box::new(CountedLease::new(lease?, Arc::clone(tally), id));
        let source = Arc::clone(source);
        Ok(Relay { id, source, installation, delivery, lease, settings, tally: Arc::clone(tally) })
    }
}
