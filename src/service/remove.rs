//! `init --remove`: removes what `init` made, and with it all that is known of what was delivered.
//!
//! The delivery first and the outbox behind it, which tells the names that the delivery has; so it may
//! be cut off anywhere and run again. Nothing is removed while a coordinator has a record: its branches may
//! be prepared, and without the decision log nobody could tell how they end.

use super::adopt::{Found, FoundShard, FoundZookeeper, look_before_adopting};
use super::alone::wait_until_alone;
use super::build;
use super::init::{blocking, others};
use super::installed::installed;
use super::node::decision_log;
use crate::config::{Config, Participant};
use crate::decision_log::Registered;
use crate::decision_log::file::FileDecisionLog;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{Incarnation, ParticipantName, RelayId};
use crate::lock::file::FileLocks;
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
    /// Each PostgreSQL participant without an outbox, with whether its tables are there.
    pub others: Vec<(ParticipantName, bool)>,
    /// The coordinators that have a record in the decision log.
    pub coordinators: Vec<Registered>,
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

    /// Refused while any coordinator has a record.
    pub fn expect_settled(&self) -> Result<()> {
        expect_settled(&self.coordinators)
    }

    fn know(&mut self, known: Option<Incarnation>) -> Result<()> {
        if let (Some(one), Some(other)) = (self.incarnation, known)
            && one != other
        {
            let why =
                "the stores belong to different installations: nothing was removed. Give the right addresses";
            let refused = Error::new(ErrorKind::Refused, OPERATION, why);
            return Err(refused.with("one", one).with("other", other));
        }
        self.incarnation = self.incarnation.or(known);
        Ok(())
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
    let mut removal = Removal {
        incarnation: None,
        participants: Vec::new(),
        others: Vec::new(),
        coordinators: Vec::new(),
        in_zookeeper: false,
    };
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
        removal.know(found.as_ref().map(|found| found.installation.incarnation))?;
        removal.participants.push((name.clone(), found));
    }
    for (name, participant) in others(config) {
        let found = look_without_outbox(config, name, participant).await;
        let known = found.map_err(|error| error.with("participant", name))?;
        removal.know(known)?;
        removal.others.push((name.clone(), known.is_some()));
    }
    removal.coordinators = coordinators(config, &removal).await?;
    Ok(removal)
}

/// Whose the tables are, None where there are none. Refused where messages may wait in them.
async fn look_without_outbox(
    config: &Config,
    name: &ParticipantName,
    participant: &Participant,
) -> Result<Option<Incarnation>> {
    let source = build::source(config, participant);
    if source.found().await?.is_none() {
        return Ok(None);
    }
    let found = installed(config, name, participant, &*source).await?;
    if found.shards > 0 {
        let why = "this participant was set up with an outbox, in which messages may wait, and is configured without \
                   one: set `outbox = true` and the number of shards that it has, and run this again";
        return Err(Error::new(ErrorKind::Refused, OPERATION, why).with("shards", found.shards));
    }
    Ok(Some(found.incarnation))
}

/// The coordinators with a record; none where there is no decision log, which opening would make.
async fn coordinators(config: &Config, removal: &Removal) -> Result<Vec<Registered>> {
    let Some(incarnation) = removal.incarnation else { return Ok(Vec::new()) };
    let is_there = match &config.zookeeper {
        Some(_) => removal.in_zookeeper,
        None => FileDecisionLog::is_in(&config.data_dir),
    };
    if !is_there {
        return Ok(Vec::new());
    }
    decision_log(config, incarnation)?.open().await?.coordinators().await
}

fn expect_settled(coordinators: &[Registered]) -> Result<()> {
    if coordinators.is_empty() {
        return Ok(());
    }
    let why = "coordinators have a record in the decision log, and branches of theirs may be prepared: stop the \
               programs of those that live; let a relay, or a program that opens onecommit and makes no \
               transaction, run until it has settled what they left; stop it, and run this again";
    let mut refused = Error::new(ErrorKind::Refused, OPERATION, why);
    for (state, is_live) in [("living", true), ("dead", false)] {
        let found = coordinators.iter().filter(|one| one.is_live == is_live);
        let ids: Vec<String> = found.map(|one| one.coordinator.to_string()).collect();
        if !ids.is_empty() {
            refused = refused.with(state, ids.join(", "));
        }
    }
    Err(refused)
}

/// Removes what was found. Refused while a relay lives or a coordinator has a record. May be run again after any error. `begin` is
/// told each step.
pub async fn remove(config: &Config, removal: &Removal, begin: &(dyn Fn(&str) + Sync)) -> Result<()> {
    let Some(incarnation) = removal.incarnation else { return Ok(()) };
    begin("waiting until no relay lives");
    for (name, found) in &removal.participants {
        let Some(found) = found else { continue };
        wait_until_no_relay_lives(config, found).await.map_err(|error| error.with("participant", name))?;
    }
    // Once more: whoever was asked took their time to answer.
    expect_settled(&coordinators(config, removal).await?)?;
    if config.zookeeper.is_none() {
        // Before the tables, which tell whose it is.
        begin("removing the decision log");
        let log = FileDecisionLog::new(&config.data_dir, incarnation);
        let locks = FileLocks::new(&config.data_dir, incarnation);
        failpoint!("decision_log.remove.before_commit")?;
        blocking(move || log.remove().and_then(|()| locks.remove())).await?;
        failpoint!("decision_log.remove.after_commit")?;
    }
    for (name, _) in &removal.participants {
        let participant = build::outbox(config, name)?;
        begin(&format!("removing the progress of {name}"));
        let delivery = build::delivery(config, build::scope(config, name, participant, incarnation))?;
        blocking(move || delivery.remove()).await?;
        begin(&format!("removing the outbox of {name}"));
        build::source(config, participant).remove().await?;
    }
    for (name, participant) in others(config) {
        begin(&format!("removing the tables of {name}"));
        let removed = build::source(config, participant).remove().await;
        removed.map_err(|error| error.with("participant", name))?;
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
