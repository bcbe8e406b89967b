//! What `onecommit init` wrote into a participant's database.

use std::collections::BTreeMap;

use super::build;
use crate::config::{Config, Participant};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ParticipantName;
use crate::outbox::{Installation, OutboxSource};

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
    if participant.outbox {
        expect_outbox(&installation, "open outbox")?;
    }
    if participant.outbox && installation.shards != participant.shards {
        let why = format!(
            "the outbox was set up with {} shards, the configuration says {}: give the number that it has",
            installation.shards, participant.shards
        );
        return Err(Error::new(ErrorKind::Refused, "open outbox", why));
    }
    Ok(installation)
}

/// What `init` wrote into each database in which it ran. `begin` is told each step.
pub(super) async fn all_found(
    config: &Config,
    begin: &(dyn Fn(&str) + Sync),
) -> Result<BTreeMap<ParticipantName, Installation>> {
    let mut known = BTreeMap::new();
    for (name, participant) in &config.participants {
        begin(&format!("looking at the database of {name}"));
        let found = build::source(config, participant).found().await;
        if let Some(found) = found.map_err(|error| error.with("participant", name))? {
            known.insert(name.clone(), found);
        }
    }
    Ok(known)
}

/// `init` gives an outbox to a participant that had none.
pub(super) fn expect_outbox(installation: &Installation, operation: &'static str) -> Result<()> {
    if installation.shards > 0 {
        return Ok(());
    }
    let why = "this participant was set up without an outbox: run `onecommit init`, which makes it";
    Err(Error::new(ErrorKind::Configuration, operation, why))
}
