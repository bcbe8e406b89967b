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
use onecommit::lock::LockStore;
use onecommit::lock::file::FileLocks;
use onecommit::lock::zookeeper::ZookeeperLocks;
use onecommit::participant::postgres::PostgresParticipant;
use onecommit::zookeeper::{self, ZookeeperSettings};
use onecommit::{Message, Namespace};
use tokio_postgres::Client;

use super::update;
use crate::Result;
use crate::backlog::VALUE_BYTES;

/// Of our own, to each database: as many as a user has who says nothing.
const CONNECTIONS: usize = 16;
const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const NAMES: [&str; 2] = ["one", "two"];

/// Where decisions and locks are kept.
#[derive(Clone)]
pub(crate) struct Stores {
    pub(super) log: Arc<dyn DecisionLog>,
    locks: Arc<dyn LockStore>,
    incarnation: Incarnation,
}

/// A namespace of nobody else's.
pub(crate) fn namespace() -> Result<Namespace> {
    Ok(format!("b{}", &uuid::Uuid::new_v4().simple().to_string()[..20]).parse()?)
}

/// A namespace of this run's own in ZooKeeper.
pub(super) async fn in_zookeeper(servers: &str, session_timeout: Duration) -> Result<Stores> {
    stores_of(servers, session_timeout, &namespace()?, Incarnation::random()).await
}

/// Those of a namespace in ZooKeeper, made where they are missing.
pub(crate) async fn stores_of(
    servers: &str,
    session_timeout: Duration,
    namespace: &Namespace,
    incarnation: Incarnation,
) -> Result<Stores> {
    let settings = ZookeeperSettings {
        servers: servers.to_string(),
        chroot: None,
        session_timeout,
        user: None,
        password: None,
        require_acl: false,
        tls: None,
    };
    zookeeper::init(&settings, namespace, incarnation).await?;
    let log = ZookeeperDecisionLog::new(settings.clone(), namespace, incarnation)?;
    let locks = ZookeeperLocks::new(settings, namespace, incarnation)?;
    Ok(Stores { log: Arc::new(log), locks: Arc::new(locks), incarnation })
}

/// In a file.
pub(super) fn in_file(folder: &Path) -> Stores {
    let incarnation = Incarnation::random();
    let log = Arc::new(FileDecisionLog::new(folder, incarnation));
    Stores { log, locks: Arc::new(FileLocks::new(folder, incarnation)), incarnation }
}

/// A node with a database for each name; the first one has an outbox.
pub(crate) fn open(urls: &[String; 2], stores: Stores, settings: CoordinatorSettings) -> Result<Node> {
    let mut members = Vec::new();
    for ((name, url), outbox) in NAMES.into_iter().zip(urls).zip([Some("onecommit".to_string()), None]) {
        let port = PostgresParticipant::new(&url.parse()?, "onecommit", CONNECTIONS, LIMIT);
        members.push(Member::new(name.parse()?, Arc::new(port), outbox));
    }
    let Stores { log, locks, incarnation } = stores;
    Ok(Node::open("bench".parse()?, incarnation, members, log, locks, settings))
}

/// A change of one database with a message: nothing is prepared.
pub(super) async fn change(node: &Node, connection: &Client, account: i32) -> Result<()> {
    let mut transaction = node.transaction(&[(NAMES[0].parse()?, connection)], Options::default()).await?;
    connection.batch_execute(&update(account)).await?;
    transaction.publish(message(account)?, None)?;
    transaction.commit().await?;
    Ok(())
}

/// The same as it is written by hand.
pub(super) async fn change_by_hand(connection: &Client, account: i32) -> Result<()> {
    let value = "x".repeat(VALUE_BYTES);
    let insert =
        format!("insert into onecommit.outbox (topic, key, value) values ('bench', '{account}', '{value}')");
    for sql in ["begin", &update(account), &insert, "commit"] {
        connection.batch_execute(sql).await?;
    }
    Ok(())
}

fn message(account: i32) -> Result<Message> {
    Ok(Message::new("bench", account.to_string(), "x".repeat(VALUE_BYTES))?)
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
        transaction.publish(message(account)?, None)?;
    }
    transaction.commit().await?;
    Ok(())
}
