//! A transfer as users make it: a node, and its decision log.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use onecommit::coordinator::{CoordinatorSettings, Member, Node, Options};
use onecommit::decision_log::DecisionLog;
use onecommit::decision_log::file::FileDecisionLog;
use onecommit::decision_log::zookeeper::ZookeeperDecisionLog;
use onecommit::id::Incarnation;
use onecommit::participant::postgres::PostgresParticipant;
use onecommit::zookeeper::{self, ZookeeperSettings};
use onecommit::{Message, Namespace};
use tokio_postgres::Client;

use super::update;
use crate::Result;
use crate::backlog::VALUE_BYTES;

/// Of our own, to each database.
const CONNECTIONS: usize = 64;
const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const NAMES: [&str; 2] = ["one", "two"];

/// A namespace of nobody else's.
pub(crate) fn namespace() -> Result<Namespace> {
    Ok(format!("b{}", &uuid::Uuid::new_v4().simple().to_string()[..20]).parse()?)
}

/// A namespace of this run's own in ZooKeeper.
pub(super) async fn in_zookeeper(servers: &str, session_timeout: Duration) -> Result<Arc<dyn DecisionLog>> {
    log_of(servers, session_timeout, &namespace()?, Incarnation::random()).await
}

/// The decision log of a namespace, made where it is missing.
pub(crate) async fn log_of(
    servers: &str,
    session_timeout: Duration,
    namespace: &Namespace,
    incarnation: Incarnation,
) -> Result<Arc<dyn DecisionLog>> {
    let settings = ZookeeperSettings {
        servers: servers.to_string(),
        chroot: None,
        session_timeout,
        user: None,
        password: None,
        tls: None,
    };
    zookeeper::init(&settings, namespace, incarnation).await?;
    Ok(Arc::new(ZookeeperDecisionLog::new(settings, namespace, incarnation)?))
}

/// In a file.
pub(super) fn in_file(folder: &Path) -> Arc<dyn DecisionLog> {
    Arc::new(FileDecisionLog::new(folder, Incarnation::random()))
}

/// A node with a database for each name; the first one has an outbox.
pub(crate) fn open(urls: &[String; 2], log: Arc<dyn DecisionLog>, incarnation: Incarnation) -> Result<Node> {
    let mut members = Vec::new();
    for ((name, url), outbox) in NAMES.into_iter().zip(urls).zip([Some("onecommit".to_string()), None]) {
        let port = PostgresParticipant::new(&url.parse()?, "onecommit", CONNECTIONS, LIMIT);
        members.push(Member::new(name.parse()?, Arc::new(port), outbox));
    }
    Ok(Node::open("bench".parse()?, incarnation, members, log, CoordinatorSettings::default()))
}

/// Makes one, with a message where it is to have one.
pub(super) async fn transfer(
    node: &Node,
    connections: &[Client; 2],
    account: i32,
    has_message: bool,
) -> Result<()> {
    let branches = [(NAMES[0].parse()?, &connections[0]), (NAMES[1].parse()?, &connections[1])];
    let mut transaction = node.transaction(&branches, Options::default()).await?;
    let update = update(account);
    try_join_all(connections.iter().map(|connection| connection.batch_execute(&update))).await?;
    if has_message {
        let message = Message::new("bench", account.to_string(), "x".repeat(VALUE_BYTES))?;
        transaction.publish(message, None)?;
    }
    transaction.commit().await?;
    Ok(())
}
