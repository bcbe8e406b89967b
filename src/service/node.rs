//! Opens this process's part in transactions over several databases.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::build;
use super::follow::Follower;
use super::installed::installed;
use super::limits::coordinator_settings;
use super::presence::Presence;
use crate::config::{Config, DatabaseUrl, Followed, PostgresUrl};
use crate::coordinator::{Caretaker, CoordinatorSettings, Member, Node};
use crate::decision_log::DecisionLog;
use crate::decision_log::file::FileDecisionLog;
use crate::decision_log::zookeeper::ZookeeperDecisionLog;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Incarnation, Namespace, ParticipantName};
use crate::lock::LockStore;
use crate::lock::file::FileLocks;
use crate::lock::zookeeper::ZookeeperLocks;
use crate::participant::postgres::PostgresParticipant;
use crate::process;
use crate::zookeeper;

const OPERATION: &str = "open";

/// What a node works with.
pub(super) struct Opened {
    pub(super) namespace: Namespace,
    pub(super) incarnation: Incarnation,
    pub(super) members: Vec<Member>,
    pub(super) log: Arc<dyn DecisionLog>,
    pub(super) locks: Arc<dyn LockStore>,
}

/// Opens a node in the tokio runtime that this is called in. The databases have to answer; ZooKeeper need
/// not, until something is to be decided there.
pub async fn open_node(config: &Config) -> Result<Node> {
    // Here, and not only where it is first needed, which would be in the middle of a commit.
    let _opening = process::opening(OPERATION)?;
    let following = Arc::default();
    let (follower, changing) = Follower::new(config, Arc::clone(&following))?;
    let node = open_following(config, changing.coordinator).await?;
    process::opens(OPERATION)?;
    // In the background: nothing waits for ZooKeeper until something is to be decided there. It ends before the
    // runtime does: ZooKeeper's client panics in who waits for a change while its session's task is dropped.
    let follow = |mut closed: watch::Receiver<bool>| {
        tokio::spawn(async move {
            tokio::select! {
                () = follower.run() => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
        })
    };
    let holdings = Arc::new(OnceLock::from(node.holdings()));
    let presence =
        Presence { config: config.clone(), started: SystemTime::now(), relay: None, holdings, following };
    Ok(node.with_companion(follow).with_companion(|closed| presence.spawn(closed)))
}

/// The same, with settings that somebody follows already.
pub(super) async fn open_following(config: &Config, settings: Followed<CoordinatorSettings>) -> Result<Node> {
    let Opened { namespace, incarnation, members, log, locks } = open_stores(config).await?;
    let files = config.participants.iter().filter(|(_, one)| matches!(one.url, DatabaseUrl::Sqlite(_)));
    let files = files.map(|(name, _)| name.clone()).collect();
    Ok(Node::open(namespace, incarnation, members, log, locks, settings).with_files(files))
}

/// Opens what a person sees and has done about transactions. One database has to answer.
pub async fn open_caretaker(config: &Config) -> Result<Caretaker> {
    let mut away = BTreeMap::new();
    let note = |name: &ParticipantName, error| {
        away.insert(name.clone(), error);
        Ok(())
    };
    let Some(opened) = open_with(config, note).await? else {
        return Err(away.pop_first().map_or_else(no_postgres, |(_, error)| error));
    };
    let Opened { namespace, incarnation, members, log, .. } = opened;
    Caretaker::open(namespace, incarnation, members, away, log, coordinator_settings(config)).await
}

/// The databases that can take part, all of them, and the decision log.
pub(super) async fn open_stores(config: &Config) -> Result<Opened> {
    open_with(config, |_, error| Err(error)).await?.ok_or_else(no_postgres)
}

/// The same, where `failed` says what comes of a database that can't be used now; None where no other is
/// configured.
async fn open_with(
    config: &Config,
    mut failed: impl FnMut(&ParticipantName, Error) -> Result<()>,
) -> Result<Option<Opened>> {
    let mut members = Vec::new();
    let mut incarnation: Option<Incarnation> = None;
    for (name, configured) in &config.participants {
        // A file can't prepare: it takes part in no transaction with others.
        let DatabaseUrl::Postgres(url) = &configured.url else { continue };
        let found = installed(config, name, configured, &*build::source(config, configured)).await;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                failed(name, error.with("participant", name))?;
                continue;
            }
        };
        if incarnation.is_some_and(|known| known != found.incarnation) {
            let why = "the participants belong to different installations: one of them is a copy, or was set up for \
                       another namespace";
            return Err(Error::new(ErrorKind::Refused, OPERATION, why).with("participant", name));
        }
        incarnation = Some(found.incarnation);
        let outbox = configured.outbox.then(|| config.schema.clone());
        members.push(Member::new(name.clone(), Arc::new(participant(config, url)), outbox));
    }
    let Some(incarnation) = incarnation else { return Ok(None) };
    let (log, locks) = (decision_log(config, incarnation)?, locks(config, incarnation)?);
    Ok(Some(Opened { namespace: config.namespace.clone(), incarnation, members, log, locks }))
}

fn no_postgres() -> Error {
    let why = "no participant is a PostgreSQL database: a SQLite file can't be prepared, so it takes part in no \
               transaction with others. Publish through it with onecommit.Outbox";
    Error::new(ErrorKind::Configuration, OPERATION, why)
}

/// Whether there can be transactions over several databases: two that take part are configured, or were, and
/// the decision log still has something of it. Opens no decision log, which would make it.
pub(super) async fn has_transactions(config: &Config) -> Result<bool> {
    match (postgres_participants(config), build::zookeeper(config)) {
        (0, _) => Ok(false),
        (1, Some(settings)) => zookeeper::has_coordinators(&settings, &config.namespace).await,
        (1, None) => Ok(FileDecisionLog::is_in(&config.data_dir)),
        _ => Ok(true),
    }
}

fn postgres_participants(config: &Config) -> usize {
    let is_postgres = |url: &DatabaseUrl| matches!(url, DatabaseUrl::Postgres(_));
    config.participants.values().filter(|participant| is_postgres(&participant.url)).count()
}

/// A database that takes part, over connections of our own.
pub(super) fn participant(config: &Config, url: &PostgresUrl) -> PostgresParticipant {
    let limit = Duration::from_millis(config.coordinator.request_timeout_ms);
    PostgresParticipant::new(url, &config.schema, config.coordinator.connections, limit)
}

/// In ZooKeeper where it is configured, otherwise in a file of this machine.
pub(super) fn decision_log(config: &Config, incarnation: Incarnation) -> Result<Arc<dyn DecisionLog>> {
    Ok(match build::zookeeper(config) {
        Some(settings) => Arc::new(ZookeeperDecisionLog::new(settings, &config.namespace, incarnation)?),
        None => Arc::new(FileDecisionLog::new(&config.data_dir, incarnation)),
    })
}

/// Where the decisions are.
fn locks(config: &Config, incarnation: Incarnation) -> Result<Arc<dyn LockStore>> {
    Ok(match build::zookeeper(config) {
        Some(settings) => Arc::new(ZookeeperLocks::new(settings, &config.namespace, incarnation)?),
        None => Arc::new(FileLocks::new(&config.data_dir, incarnation)),
    })
}
