//! `init --remove`: removes what `init` made, and with it all that is known of what was delivered.
//!
//! The delivery first and the outbox behind it, which tells the names that the delivery has; so it may
//! be cut off anywhere and run again.

use super::adopt::{Found, FoundShard, FoundZookeeper, look_before_adopting};
use super::alone::wait_until_alone;
use super::build;
use super::init::blocking;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Incarnation, ParticipantName, RelayId};
use crate::relay::Keeper;
use crate::zookeeper;

const OPERATION: &str = "remove";
/// What there is to remove.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The installation; None where nothing is known of any.
    pub incarnation: Option<Incarnation>,
    /// Each participant with an outbox, with what is found of it; None where it has none any more.
    pub participants: Vec<(ParticipantName, Option<Found>)>,
    /// Whether ZooKeeper has the namespace.
    pub in_zookeeper: bool,
}

impl Removal {
    /// Messages in all outboxes that were not delivered, or not for certain.
    pub fn undelivered(&self) -> u64 {
        self.found().map(undelivered).sum()
    }

    /// The relays that live.
    pub fn relays(&self) -> Vec<RelayId> {
        self.found().flat_map(|found| found.relays.clone()).collect()
    }

    fn found(&self) -> impl Iterator<Item = &Found> {
        self.participants.iter().filter_map(|(_, found)| found.as_ref())
    }
}

/// How many messages of an outbox were not delivered, or not for certain.
pub fn undelivered(found: &Found) -> u64 {
    let of_shard = |shard: &FoundShard| match shard.unfit {
        None => shard.contents.messages - shard.contents.covered,
        Some(_) => shard.contents.messages,
    };
    found.shards.iter().map(of_shard).sum()
}

/// What removing would remove. Changes nothing.
pub async fn look_before_removing(config: &Config) -> Result<Removal> {
    let mut removal = Removal { incarnation: None, participants: Vec::new(), in_zookeeper: false };
    if let Some(settings) = build::zookeeper(config) {
        removal.incarnation = zookeeper::found_incarnation(&settings, &config.namespace).await?;
        removal.in_zookeeper = removal.incarnation.is_some();
    }
    for (name, participant) in build::outboxes(config)? {
        let found = match build::source(config, participant).found().await? {
            Some(_) => {
                Some(look_before_adopting(config, name).await.map_err(|e| e.with("participant", name))?)
            }
            None => None,
        };
        let known = found.as_ref().map(|found| found.installation.incarnation);
        if let (Some(one), Some(other)) = (removal.incarnation, known)
            && one != other
        {
            let why =
                "the stores belong to different installations: nothing was removed. Give the right addresses";
            let refused = Error::new(ErrorKind::Refused, OPERATION, why);
            return Err(refused.with("one", one).with("other", other));
        }
        removal.incarnation = removal.incarnation.or(known);
        removal.participants.push((name.clone(), found));
    }
    Ok(removal)
}

/// Removes what was found. Refused while a relay lives. May be run again after any error. `begin` is
/// told each step.
pub async fn remove(config: &Config, removal: &Removal, begin: &(dyn Fn(&str) + Sync)) -> Result<()> {
    let Some(incarnation) = removal.incarnation else { return Ok(()) };
    begin("waiting until no relay lives");
    for (name, found) in &removal.participants {
        let Some(found) = found else { continue };
        wait_until_no_relay_lives(config, found).await.map_err(|error| error.with("participant", name))?;
    }
    for (name, _) in &removal.participants {
        let participant = build::outbox(config, name)?;
        begin(&format!("removing the progress of {name}"));
        let delivery = build::delivery(config, build::scope(config, name, participant, incarnation))?;
        blocking(move || delivery.remove()).await?;
        begin(&format!("removing the outbox of {name}"));
        build::source(config, participant).remove().await?;
    }
    if let (Some(settings), true) = (build::zookeeper(config), removal.in_zookeeper) {
        begin("removing the namespace from ZooKeeper");
        zookeeper::remove(&settings, &config.namespace, incarnation).await?;
    }
    Ok(())
}

async fn wait_until_no_relay_lives(config: &Config, found: &Found) -> Result<()> {
    found.expect_no_relay(OPERATION)?;
    if found.zookeeper.is_some_and(|zookeeper| zookeeper != FoundZookeeper::Known) {
        // No relay can live where its leases are not known.
        return Ok(());
    }
    let (participant, me) = (build::outbox(config, &found.participant)?, RelayId::random());
    let keeper = Keeper::start(build::lease(config, participant, &found.installation, me).await?);
    keeper.join().await?;
    wait_until_alone(&keeper, me, OPERATION).await?;
    keeper.leave().await
}
