//! What `onecommit status` shows: for each shard its owner, how far it got, what waits, and what
//! keeps it; and what is not at its end of transactions over several databases.

use std::time::{Duration, Instant};

use super::build;
use super::init::blocking;
use super::installed::expect_outbox;
use super::node::{has_transactions, open_caretaker};
use crate::config::{Config, Participant};
use crate::coordinator::Survey;
use crate::decision_log::file::FileDecisionLog;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, ParticipantName, RelayId, ShardIndex};
use crate::lease::LeaseView;
use crate::outbox::{AsideCounts, Backlog, Installation, Outbox};
use crate::protocol::position::Position;

/// Pause between two looks for a sign of life of the owners.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// One participant's shards, as far as anything can be said of them.
#[derive(Debug)]
pub struct ParticipantStatus {
    /// Its name.
    pub participant: ParticipantName,
    /// Its shards; none where the outbox itself can't be asked.
    pub shards: Vec<ShardStatus>,
    /// What could not be asked: what a shard lacks is unknown then.
    pub errors: Vec<Error>,
}

/// One shard.
#[derive(Debug)]
pub struct ShardStatus {
    /// Its number.
    pub shard: ShardIndex,
    /// The relay that delivers it, None where none lives that does, or the leases can't be looked at.
    pub owner: Option<RelayId>,
    /// The epoch of its last owner.
    pub epoch: Epoch,
    /// How far it is delivered and what waits, None where the delivery can't be asked.
    pub progress: Option<(Position, Backlog)>,
    /// What is set aside in it.
    pub aside: AsideCounts,
    /// What keeps it, with the time in milliseconds since 1970.
    pub last_error: Option<(String, i64)>,
}

/// Looks at every participant with an outbox. Changes nothing. A server that is away leaves unknown
/// only what it alone knows. Where leases are kept in a table it takes up to
/// [`crate::config::Relay::lease_timeout_ms`]: only the standing still of its row shows that an owner
/// is dead.
pub async fn status(config: &Config) -> Result<Vec<ParticipantStatus>> {
    let mut all = Vec::new();
    for (name, participant) in build::outboxes(config)? {
        let mut errors = Vec::new();
        let shards = look(config, name, participant, &mut errors).await;
        let shards = known(shards, &mut errors).unwrap_or_default();
        all.push(ParticipantStatus { participant: name.clone(), shards, errors });
    }
    Ok(all)
}

/// Looks at transactions over several databases; None where there are none. Changes nothing.
pub async fn survey(config: &Config) -> Result<Option<Survey>> {
    // Where no decision log is, opening one would make it, for whoever looks.
    let is_there = config.zookeeper.is_some() || FileDecisionLog::is_in(&config.data_dir);
    if !is_there || !has_transactions(config).await? {
        return Ok(None);
    }
    open_caretaker(config).await?.survey().await.map(Some)
}

pub(super) async fn look(
    config: &Config,
    name: &ParticipantName,
    participant: &Participant,
    errors: &mut Vec<Error>,
) -> Result<Vec<ShardStatus>> {
    let source = build::source(config, participant);
    let installation = source.found().await?.ok_or_else(|| {
        Error::new(ErrorKind::Configuration, "read status", "the outbox is not set up: run `onecommit init`")
    })?;
    expect_outbox(&installation, "read status")?;
    let mut outbox = source.connect().await?;
    let leases = known(leases(config, participant, &installation).await, errors).unwrap_or_default();
    let owner = |shard| leases.owners.iter().find(|(other, _)| *other == shard).and_then(|(_, owner)| *owner);
    let scope = build::scope(config, name, participant, installation.incarnation);
    let delivery = build::delivery(config, scope)?;
    let mut answers = true;
    let mut shards = Vec::new();
    for shard in (0..installation.shards).map(ShardIndex) {
        let row = outbox.shard(shard).await?;
        let aside = outbox.count_set_aside(shard).await?;
        let delivery = delivery.clone();
        let peek = async { blocking(move || delivery.id().and_then(|_| delivery.peek(shard))).await };
        // Asked no more once it failed: each try may take as long as a server is waited for.
        let found = if answers { known(peek.await, errors) } else { None };
        answers = found.is_some();
        let progress = match found {
            None => None,
            Some(found) => {
                let position = found.map_or_else(|| outbox.origin(), |progress| progress.position);
                let backlog = backlog(&mut *outbox, shard, &position).await?;
                Some((position, backlog))
            }
        };
        let (owner, epoch, last_error) = (owner(shard), row.epoch, row.last_error);
        shards.push(ShardStatus { shard, owner, epoch, progress, aside, last_error });
    }
    Ok(shards)
}

/// Who owns what and lives. The lease is an observer's: it looks, and is never among the relays.
pub(super) async fn leases(
    config: &Config,
    participant: &Participant,
    installation: &Installation,
) -> Result<LeaseView> {
    if build::has_lease_file(config, participant) && !build::lease_path(config).exists() {
        // No relay ever ran. Opening the file would make it.
        return Ok(LeaseView::default());
    }
    let mut lease = build::lease(config, participant, installation, RelayId::random()).await?;
    let began = Instant::now();
    let mut last = lease.look().await?;
    let mut silent = last.beats.clone();
    while !silent.is_empty() && began.elapsed() <= lease.timeout() {
        tokio::time::sleep(LOOK_AGAIN).await;
        last = lease.look().await?;
        silent.retain(|shard, beat| last.beats.get(shard) == Some(beat));
    }
    let lives = |shard| !silent.contains_key(&shard);
    // Of the last look: whoever has released a shard in between is silent by being gone.
    let owners = last.owners.into_iter().map(|(shard, owner)| (shard, owner.filter(|_| lives(shard))));
    Ok(LeaseView { owners: owners.collect(), ..LeaseView::default() })
}

async fn backlog(outbox: &mut dyn Outbox, shard: ShardIndex, position: &Position) -> Result<Backlog> {
    outbox.backlog(shard, position).await.map_err(|error| error.with("shard", shard))
}

/// What was answered; what was not is noted.
fn known<T>(answer: Result<T>, errors: &mut Vec<Error>) -> Option<T> {
    answer.map_err(|error| errors.push(error)).ok()
}
