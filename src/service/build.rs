//! One adapter for each port, as the configuration says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, DatabaseUrl, Participant, PostgresUrl};
use crate::delivery::kafka::{self, KafkaDelivery};
use crate::delivery::topic_log::TopicLogDelivery;
use crate::delivery::{Delivery, DeliveryScope};
use crate::error::{Error, ErrorKind, Result};
use crate::group::file::FileGroup;
use crate::group::zookeeper::ZookeeperGroup;
use crate::group::{Group, GroupOf};
use crate::id::{Incarnation, ParticipantName, RelayId};
use crate::lease::Lease;
use crate::lease::file::FileLease;
use crate::lease::postgres::PostgresLease;
use crate::lease::zookeeper::ZookeeperLease;
use crate::outbox::postgres::{Limits, PostgresSource};
use crate::outbox::sqlite::SqliteSource;
use crate::outbox::{Installation, OutboxSource};
use crate::settings::SettingsStore;
use crate::settings::file::FileSettingsStore;
use crate::settings::zookeeper::ZookeeperSettingsStore;
use crate::zookeeper::{ZookeeperSettings, ZookeeperTls};

/// One participant with an outbox, by its name.
pub(super) fn outbox<'a>(config: &'a Config, name: &ParticipantName) -> Result<&'a Participant> {
    let known = outboxes(config)?;
    known.iter().find(|(other, _)| *other == name).map(|(_, participant)| *participant).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
        let why = format!("there is no participant of this name with an outbox: {}", names.join(", "));
        Error::new(ErrorKind::Configuration, "read configuration", why).with("participant", name)
    })
}

/// The participants with an outbox; an error where there is none.
pub(super) fn outboxes(config: &Config) -> Result<Vec<(&ParticipantName, &Participant)>> {
    let found: Vec<_> = config.outboxes().collect();
    if found.is_empty() {
        let why = "no participant has an outbox: set `outbox = true` in one of [participants.…]";
        return Err(Error::new(ErrorKind::Configuration, "read configuration", why));
    }
    Ok(found)
}

pub(super) fn request_limit(config: &Config) -> Duration {
    Duration::from_millis(config.relay.request_timeout_ms)
}

pub(super) fn source(config: &Config, participant: &Participant) -> Arc<dyn OutboxSource> {
    source_within(config, participant, request_limit(config))
}

/// The same with another limit for each request.
pub(super) fn source_within(
    config: &Config,
    participant: &Participant,
    request_limit: Duration,
) -> Arc<dyn OutboxSource> {
    match &participant.url {
        DatabaseUrl::Postgres(url) => Arc::new(postgres_source(config, url, request_limit)),
        DatabaseUrl::Sqlite(path) => Arc::new(SqliteSource { path: path.clone(), busy_limit: request_limit }),
    }
}

pub(super) fn postgres_source(config: &Config, url: &PostgresUrl, request_limit: Duration) -> PostgresSource {
    let (truncate_bytes, truncate_lock_ms) = (config.relay.truncate_bytes, config.relay.truncate_lock_ms);
    let limits = Limits { truncate_bytes, truncate_lock_ms, ..Limits::default() };
    PostgresSource { url: url.clone(), schema: config.schema.clone(), request_limit, limits }
}

/// The topic log's file, where no Kafka is configured.
pub(super) fn topic_log_path(config: &Config) -> PathBuf {
    config.data_dir.join("topics.db")
}

/// The names under which a participant's messages are delivered.
pub fn scope(
    config: &Config,
    name: &ParticipantName,
    participant: &Participant,
    incarnation: Incarnation,
) -> DeliveryScope {
    let prefix = format!("{}{incarnation}", config.kafka_prefix());
    DeliveryScope { prefix, participant: name.clone(), shards: participant.shards }
}

/// An error where librdkafka does not take a property's value.
pub(super) fn delivery(config: &Config, scope: DeliveryScope) -> Result<Arc<dyn Delivery>> {
    Ok(match &config.kafka {
        Some(properties) => {
            kafka::check_properties(properties)?;
            Arc::new(KafkaDelivery::new((**properties).clone(), scope))
        }
        None => Arc::new(TopicLogDelivery::new(topic_log_path(config), scope)),
    })
}

pub(super) fn zookeeper(config: &Config) -> Option<ZookeeperSettings> {
    config.zookeeper.as_ref().map(|zookeeper| ZookeeperSettings {
        servers: zookeeper.servers.clone(),
        chroot: zookeeper.chroot.clone(),
        session_timeout: Duration::from_millis(zookeeper.session_timeout_ms),
        user: zookeeper.user.clone(),
        password: zookeeper.password.as_ref().map(|password| password.expose().to_string()),
        require_acl: zookeeper.require_acl,
        tls: zookeeper
            .tls
            .as_ref()
            .map(|tls| ZookeeperTls { ca: tls.ca.clone(), identity: tls.identity.clone() }),
    })
}

/// Settings that change at run time are kept in ZooKeeper where it is configured, otherwise in a file.
pub(super) fn settings_store(config: &Config) -> Result<Box<dyn SettingsStore>> {
    Ok(match zookeeper(config) {
        Some(settings) => Box::new(ZookeeperSettingsStore::new(settings, &config.namespace)?),
        None => Box::new(FileSettingsStore::new(config.data_dir.join("settings.db"))),
    })
}

/// Groups are kept in ZooKeeper where it is configured, otherwise in a file.
pub(super) fn group(config: &Config, of: &GroupOf) -> Result<Box<dyn Group>> {
    Ok(match zookeeper(config) {
        Some(settings) => Box::new(ZookeeperGroup::new(settings, &config.namespace, of)?),
        None => Box::new(FileGroup::new(&config.data_dir, of)),
    })
}

/// The file with the leases of SQLite participants, where ZooKeeper does not keep them.
pub(super) fn lease_path(config: &Config) -> PathBuf {
    config.data_dir.join("leases.db")
}

/// Whether the leases are in that file.
pub(super) fn has_lease_file(config: &Config, participant: &Participant) -> bool {
    config.zookeeper.is_none() && matches!(participant.url, DatabaseUrl::Sqlite(_))
}

/// Leases are kept in ZooKeeper where it is configured, otherwise beside the outbox.
pub(super) async fn lease(
    config: &Config,
    participant: &Participant,
    installation: &Installation,
    relay: RelayId,
) -> Result<Box<dyn Lease>> {
    let timeout = Duration::from_millis(config.relay.lease_timeout_ms);
    let (name, shards) = (installation.participant.clone(), installation.shards);
    if let Some(settings) = zookeeper(config) {
        let (namespace, incarnation) = (&config.namespace, installation.incarnation);
        let lease = ZookeeperLease::connect(settings, namespace, incarnation, name, shards, relay).await?;
        return Ok(Box::new(lease));
    }
    match &participant.url {
        DatabaseUrl::Postgres(url) => {
            Ok(Box::new(PostgresLease::connect(url, &config.schema, shards, relay, timeout).await?))
        }
        DatabaseUrl::Sqlite(_) => {
            Ok(Box::new(FileLease::open(lease_path(config), name, shards, relay, timeout)?))
        }
    }
}
