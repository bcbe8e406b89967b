//! What `onecommit status` shows: for each shard its owner, how far it got, what waits, and what
//! keeps it.

use super::build;
use super::init::blocking;
use crate::config::{Config, Participant};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, ParticipantName, RelayId, ShardIndex};
use crate::outbox::{Backlog, Outbox};
use crate::protocol::position::Position;

/// One participant's shards, or why nothing can be said of them.
#[derive(Debug)]
pub struct ParticipantStatus {
    /// Its name.
    pub participant: ParticipantName,
    /// Its shards.
    pub shards: Result<Vec<ShardStatus>>,
}

/// One shard.
#[derive(Debug)]
pub struct ShardStatus {
    /// Its number.
    pub shard: ShardIndex,
    /// The relay that delivers it, None where none does.
    pub owner: Option<RelayId>,
    /// The epoch of its last owner.
    pub epoch: Epoch,
    /// How far it is delivered.
    pub position: Position,
    /// What waits.
    pub backlog: Backlog,
    /// What keeps it, with the time in milliseconds since 1970.
    pub last_error: Option<(String, i64)>,
}

/// Looks at every participant with an outbox. Changes nothing.
pub async fn status(config: &Config) -> Result<Vec<ParticipantStatus>> {
    let mut all = Vec::new();
    for (name, participant) in build::outboxes(config)? {
        let shards = shards(config, name, participant).await;
        all.push(ParticipantStatus { participant: name.clone(), shards });
    }
    Ok(all)
}

async fn shards(
    config: &Config,
    name: &ParticipantName,
    participant: &Participant,
) -> Result<Vec<ShardStatus>> {
    let source = build::source(config, participant);
    let installation = source.found().await?.ok_or_else(|| {
        Error::new(ErrorKind::Configuration, "read status", "the outbox is not set up: run `onecommit init`")
    })?;
    let mut outbox = source.connect().await?;
    // An observer's lease: it looks, and is never among the relays.
    let mut lease = build::lease(config, participant, &installation, RelayId::random()).await?;
    let view = lease.look().await?;
    let delivery = build::delivery(config, build::scope(config, name, participant, installation.incarnation));
    let mut shards = Vec::new();
    for (shard, owner) in view.owners {
        let (delivery, row) = (delivery.clone(), outbox.shard(shard).await?);
        let progress = blocking(move || delivery.peek(shard)).await?;
        let position = progress.map_or_else(|| outbox.origin(), |progress| progress.position);
        let backlog = backlog(&mut *outbox, shard, &position).await?;
        shards.push(ShardStatus {
            shard,
            owner,
            epoch: row.epoch,
            position,
            backlog,
            last_error: row.last_error,
        });
    }
    Ok(shards)
}

async fn backlog(outbox: &mut dyn Outbox, shard: ShardIndex, position: &Position) -> Result<Backlog> {
    outbox.backlog(shard, position).await.map_err(|error| error.with("shard", shard))
}
