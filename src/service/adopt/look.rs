//! Looks at all stores of a participant, and changes none of them.

use std::sync::Arc;
use std::time::Duration;

use super::found::{Found, FoundShard, FoundZookeeper};
use crate::config::{Config, Participant};
use crate::delivery::Delivery;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ParticipantName, RelayId, ShardIndex};
use crate::outbox::{Contents, Installation, Outbox, ShardRow};
use crate::protocol::progress::{DatabaseIdentity, Progress};
use crate::relay::check_progress;
use crate::service::build;
use crate::service::emptied::expect_nothing_prepared;
use crate::service::init::blocking;
use crate::service::installed::{all_found, installed};
use crate::service::status::leases;
use crate::zookeeper;

const OPERATION: &str = "look before adopting";
/// Counting millions of rows takes longer than any request of a relay.
pub(super) const LONG_REQUEST: Duration = Duration::from_secs(300);

/// What is there, and what adopting it would mean. Changes nothing. Refused where the difference is
/// none that can be adopted: the way on is then another one, and the error says which.
pub async fn look_before_adopting(config: &Config, name: &ParticipantName) -> Result<Found> {
    let participant = build::outbox(config, name)?;
    // Within a relay's own limits, so that a server that is away is said at once.
    let source = build::source(config, participant);
    let installation = installed(config, name, participant, &*source).await?;
    let zookeeper = look_at_zookeeper(config, &installation).await?;
    if zookeeper.is_some_and(|found| found != FoundZookeeper::Known) {
        let known = all_found(config, &|_| ()).await?;
        expect_nothing_prepared(OPERATION, config, &known).await?;
    }
    let scope = build::scope(config, name, participant, installation.incarnation);
    let delivery = build::delivery(config, scope)?;
    let (delivery_id, has_progress_topic) = look_at_delivery(config, Arc::clone(&delivery)).await?;
    let unreadable = match source.connect().await {
        Ok(_) => None,
        Err(error) if error.kind() == ErrorKind::Refused => Some(shortened(&error)),
        Err(error) => return Err(error),
    };
    let mut outbox = build::source_within(config, participant, LONG_REQUEST).connect_to_adopt().await?;
    let mut found = Found {
        participant: name.clone(),
        database: outbox.identity().await?,
        delivery_id,
        has_progress_topic,
        zookeeper,
        unreadable,
        relays: Vec::new(),
        shards: Vec::new(),
        installation,
    };
    for shard in (0..found.installation.shards).map(ShardIndex) {
        let looked = look_at_shard(&found, &mut *outbox, &delivery, shard).await;
        let looked = looked.map_err(|error| error.with("shard", shard))?;
        found.shards.push(looked);
    }
    found.relays = living(config, participant, &found).await?;
    expect_unchanged(&delivery, &found).await?;
    Ok(found)
}

async fn look_at_zookeeper(config: &Config, installation: &Installation) -> Result<Option<FoundZookeeper>> {
    let Some(settings) = build::zookeeper(config) else { return Ok(None) };
    Ok(Some(match zookeeper::found_incarnation(&settings, &config.namespace).await? {
        Some(found) if found == installation.incarnation => FoundZookeeper::Known,
        Some(other) => FoundZookeeper::Other(other),
        None => FoundZookeeper::Unknown,
    }))
}

/// The id of what is delivered to, and whether the progress can be there.
async fn look_at_delivery(config: &Config, delivery: Arc<dyn Delivery>) -> Result<(Option<String>, bool)> {
    let is_file = config.kafka.is_none();
    blocking(move || {
        let is_there = delivery.is_there()?;
        if is_there {
            delivery.check()?;
        }
        let id = if is_there || !is_file { Some(delivery.id()?) } else { None };
        Ok((id, is_there))
    })
    .await
}

async fn look_at_shard(
    found: &Found,
    outbox: &mut dyn Outbox,
    delivery: &Arc<dyn Delivery>,
    shard: ShardIndex,
) -> Result<FoundShard> {
    let row = outbox.shard(shard).await?;
    let seen = if found.has_progress_topic { peek(delivery, shard).await? } else { Ok(None) };
    let (progress, mut unfit) = match seen {
        Ok(progress) => (progress, None),
        Err(unreadable) => (None, Some(shortened(&unreadable))),
    };
    if unfit.is_none() {
        let (installation, database) = (&found.installation, &found.database);
        let checked = check_progress(installation, outbox, shard, &row, database, progress.as_ref()).await;
        unfit = match checked {
            Ok(()) => None,
            Err(error) if error.kind() == ErrorKind::Refused => Some(shortened(&error)),
            Err(error) => return Err(error),
        };
    }
    if unfit.is_none() && found.is_other_delivery() {
        unfit = Some("what was delivered stood in another Kafka cluster (or topic log)".to_string());
    }
    let contents = outbox.contents(shard, progress.as_ref()).await?;
    let twice_at_most = match (&unfit, &progress) {
        (None, _) => contents.foreign,
        (Some(_), Some(progress)) if !found.is_other_delivery() => covered(progress, &row, &contents, found),
        (Some(_), _) => contents.messages,
    };
    Ok(FoundShard { shard, row, progress, unfit, contents, twice_at_most })
}

/// How many messages may have been delivered, as the progress tells it: all of them where it does not
/// tell all that was delivered, or not in a way that can be counted.
fn covered(progress: &Progress, row: &ShardRow, contents: &Contents, found: &Found) -> u64 {
    let is_birth_of_old = progress.barrier.is_none() && row.pruned;
    let is_of_other_shards = progress.shards != found.installation.shards;
    let is_of_other_kind = is_of_other_kind(&progress.database, &found.database);
    if contents.is_ahead || is_birth_of_old || is_of_other_shards || is_of_other_kind {
        return contents.messages;
    }
    contents.covered
}

/// PostgreSQL's databases have numbers, SQLite's are all `main`.
fn is_of_other_kind(one: &DatabaseIdentity, other: &DatabaseIdentity) -> bool {
    (one.database == "main") != (other.database == "main")
}

/// The shard's progress, or why it can't be read. What a later release wrote stays that one's.
async fn peek(delivery: &Arc<dyn Delivery>, shard: ShardIndex) -> Result<Result<Option<Progress>>> {
    let delivery = Arc::clone(delivery);
    match blocking(move || delivery.peek_settled(shard)).await {
        Err(error) if error.kind() != ErrorKind::Refused || is_of_later_release(&error) => Err(error),
        seen => Ok(seen),
    }
}

fn is_of_later_release(error: &Error) -> bool {
    error.context().iter().any(|(key, _)| *key == "format")
}

/// Who delivers a shard now. Where ZooKeeper does not know the namespace, no relay of this installation
/// can live.
async fn living(config: &Config, participant: &Participant, found: &Found) -> Result<Vec<RelayId>> {
    if found.zookeeper.is_some_and(|zookeeper| zookeeper != FoundZookeeper::Known) {
        return Ok(Vec::new());
    }
    let view = leases(config, participant, &found.installation).await?;
    let mut relays: Vec<RelayId> = view.owners.into_iter().filter_map(|(_, owner)| owner).collect();
    relays.sort();
    relays.dedup();
    Ok(relays)
}

/// Fails where the progress of a shard is no longer what was found: somebody delivers.
pub(super) async fn expect_unchanged(delivery: &Arc<dyn Delivery>, found: &Found) -> Result<()> {
    if !found.has_progress_topic {
        return Ok(());
    }
    for shard in &found.shards {
        let seen = peek(delivery, shard.shard).await?;
        expect_same(shard, seen.ok().flatten().as_ref()).map_err(|error| error.with("shard", shard.shard))?;
    }
    Ok(())
}

pub(super) fn expect_same(shard: &FoundShard, seen: Option<&Progress>) -> Result<()> {
    if seen == shard.progress.as_ref() {
        return Ok(());
    }
    let why = "the progress changed while it was looked at: a relay delivers, perhaps from the database of which \
               this one is a copy. Stop it, and run this again";
    Err(Error::new(ErrorKind::Refused, OPERATION, why))
}

/// What is wrong, without the way on that this command is.
fn shortened(error: &Error) -> String {
    error.message().split(". ").next().unwrap_or_default().to_string()
}
