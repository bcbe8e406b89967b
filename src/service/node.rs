//! Opens this process's part in transactions over several databases.

use std::sync::Arc;
use std::time::Duration;

use super::build;
use crate::config::{Config, DatabaseUrl};
use crate::coordinator::{CoordinatorSettings, Member, Node};
use crate::decision_log::DecisionLog;
use crate::decision_log::file::FileDecisionLog;
use crate::decision_log::zookeeper::ZookeeperDecisionLog;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Incarnation, Namespace};
use crate::participant::postgres::PostgresParticipant;
use crate::protocol::retry::Backoff;

const OPERATION: &str = "open";

/// What a node works with.
pub(super) struct Opened {
    pub(super) namespace: Namespace,
    pub(super) incarnation: Incarnation,
    pub(super) members: Vec<Member>,
    pub(super) log: Arc<dyn DecisionLog>,
}

/// Opens a node in the tokio runtime that this is called in. The databases have to answer; ZooKeeper need
/// not, until something is to be decided there.
pub async fn open_node(config: &Config) -> Result<Node> {
    let Opened { namespace, incarnation, members, log } = open_stores(config).await?;
    let files = config.participants.iter().filter(|(_, one)| matches!(one.url, DatabaseUrl::Sqlite(_)));
    let files = files.map(|(name, _)| name.clone()).collect();
    Ok(Node::open(namespace, incarnation, members, log, settings(config)).with_files(files))
}

/// The databases that can take part, and the decision log.
pub(super) async fn open_stores(config: &Config) -> Result<Opened> {
    let mut members = Vec::new();
    let mut incarnation: Option<Incarnation> = None;
    for (name, participant) in &config.participants {
        // A file can't prepare: it takes part in no transaction with others.
        let DatabaseUrl::Postgres(url) = &participant.url else { continue };
        let found =
            super::relay::installed(config, name, participant, &*build::source(config, participant)).await;
        let found = found.map_err(|error| error.with("participant", name))?;
        if incarnation.is_some_and(|known| known != found.incarnation) {
            let why = "the participants belong to different installations: one of them is a copy, or was set up for \
                       another namespace";
            return Err(Error::new(ErrorKind::Refused, OPERATION, why).with("participant", name));
        }
        incarnation = Some(found.incarnation);
        let limit = Duration::from_millis(config.coordinator.request_timeout_ms);
        let port = PostgresParticipant::new(url, &config.schema, config.coordinator.connections, limit);
        let outbox = participant.outbox.then(|| config.schema.clone());
        members.push(Member::new(name.clone(), Arc::new(port), outbox));
    }
    let Some(incarnation) = incarnation else {
        let why = "no participant is a PostgreSQL database: a SQLite file can't be prepared, so it takes part in no \
                   transaction with others. Publish through it with onecommit.Outbox";
        return Err(Error::new(ErrorKind::Configuration, OPERATION, why));
    };
    let log = decision_log(config, incarnation)?;
    Ok(Opened { namespace: config.namespace.clone(), incarnation, members, log })
}

/// In ZooKeeper where it is configured, otherwise in a file of this machine.
pub(super) fn decision_log(config: &Config, incarnation: Incarnation) -> Result<Arc<dyn DecisionLog>> {
    Ok(match build::zookeeper(config) {
        Some(settings) => Arc::new(ZookeeperDecisionLog::new(settings, &config.namespace, incarnation)?),
        None => Arc::new(FileDecisionLog::new(&config.data_dir, incarnation)),
    })
}

fn settings(config: &Config) -> CoordinatorSettings {
    let (given, ms) = (&config.coordinator, Duration::from_millis);
    CoordinatorSettings {
        deadline: ms(given.deadline_ms),
        home_wait: ms(given.home_wait_ms),
        in_flight_max: given.in_flight_max,
        sweep_interval: ms(given.sweep_interval_ms),
        retry: Backoff { first: ms(given.retry_first_ms), limit: ms(given.retry_limit_ms) },
        keep_days: given.keep_days,
        outcomes_max: given.outcomes_max,
        ..CoordinatorSettings::default()
    }
}
