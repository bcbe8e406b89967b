//! Runs one relay for each participant with an outbox.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::build;
use crate::config::{Config, Participant};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ParticipantName, RelayId};
use crate::outbox::{Installation, OutboxSource};
use crate::protocol::retry::Backoff;
use crate::relay::{Relay, RelaySettings, stopped};

/// Runs the relays until `stop` turns true; then batches in flight are finished and leases given
/// up. Servers that are away are waited for. A relay that a person has to look at ends, the others
/// go on; its error is returned at the end.
pub async fn run_relays(config: &Config, stop: watch::Receiver<bool>) -> Result<()> {
    let id = RelayId::random();
    let mut relays: JoinSet<Result<()>> = JoinSet::new();
    for (name, participant) in build::outboxes(config)? {
        let (config, name, participant, stop) =
            (config.clone(), name.clone(), participant.clone(), stop.clone());
        relays.spawn(async move {
            let ended = run_relay(&config, &name, &participant, id, stop).await;
            ended.map_err(|error| error.with("participant", name))
        });
    }
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
    failed.map_or(Ok(()), Err)
}

async fn run_relay(
    config: &Config,
    name: &ParticipantName,
    participant: &Participant,
    id: RelayId,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let settings = settings(config);
    let mut failures = 0;
    let mut told: Option<String> = None;
    loop {
        match assemble(config, name, participant, id, settings.clone()).await {
            Ok(relay) => return relay.run(stop).await,
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
            () = tokio::time::sleep(settings.retry.wait(failures, 0.5)) => {}
            () = stopped(&mut stop) => return Ok(()),
        }
    }
}

async fn assemble(
    config: &Config,
    name: &ParticipantName,
    participant: &Participant,
    id: RelayId,
    settings: RelaySettings,
) -> Result<Relay> {
    let source = build::source(config, participant);
    let installation = installed(config, name, participant, &*source).await?;
    let scope = build::scope(config, name, participant, installation.incarnation);
    let delivery = build::delivery(config, scope)?;
    let lease = build::lease(config, participant, &installation, id).await?;
    Ok(Relay { id, source, installation, delivery, lease, settings })
}

/// What `init` wrote, where it is what the configuration says.
pub(super) async fn installed(
    config: &Config,
    name: &ParticipantName,
    participant: &Participant,
    source: &dyn OutboxSource,
) -> Result<Installation> {
    let installation = source.found().await?.ok_or_else(|| {
        let why = "the outbox is not set up in this database: run `onecommit init`";
        Error::new(ErrorKind::Configuration, "open outbox", why)
    })?;
    if installation.namespace != config.namespace || installation.participant != *name {
        let why = "the outbox in this database belongs to another namespace or participant";
        return Err(Error::new(ErrorKind::Refused, "open outbox", why)
            .with("found", format!("{}/{}", installation.namespace, installation.participant)));
    }
    if installation.shards != participant.shards {
        let why = format!(
            "the outbox was set up with {} shards, the configuration says {}: give the number that it has",
            installation.shards, participant.shards
        );
        return Err(Error::new(ErrorKind::Refused, "open outbox", why));
    }
    Ok(installation)
}

fn settings(config: &Config) -> RelaySettings {
    let (relay, ms) = (&config.relay, Duration::from_millis);
    RelaySettings {
        batch_messages: relay.batch_messages,
        batch_bytes: relay.batch_bytes,
        buffer_bytes: relay.buffer_bytes,
        poll_busy: ms(relay.poll_busy_ms),
        poll_idle: ms(relay.poll_idle_ms),
        prune_messages: relay.prune_messages,
        retry: Backoff { first: ms(relay.retry_first_ms), limit: ms(relay.retry_limit_ms) },
        shutdown_limit: ms(relay.shutdown_timeout_ms),
    }
}
