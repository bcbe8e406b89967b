//! Where the queues are, and how a session is opened.

use async_trait::async_trait;

use super::session::Session;
use crate::error::Result;
use crate::id::{Incarnation, Namespace};
use crate::lock::{LockSession, LockStore};
use crate::zookeeper::{self, Connection, Paths, ZookeeperSettings};

/// The locks of a namespace in ZooKeeper.
pub struct ZookeeperLocks {
    settings: ZookeeperSettings,
    paths: Paths,
    incarnation: Incarnation,
}

impl ZookeeperLocks {
    /// ZooKeeper must have been prepared by [`init`](crate::zookeeper::init) for this very incarnation.
    pub fn new(settings: ZookeeperSettings, namespace: &Namespace, incarnation: Incarnation) -> Result<Self> {
        let paths = Paths::new(&settings, namespace)?;
        Ok(ZookeeperLocks { settings, paths, incarnation })
    }
}

#[async_trait]
impl LockStore for ZookeeperLocks {
    async fn open(&self) -> Result<Box<dyn LockSession>> {
        let connection = Connection::open(&self.settings).await?;
        zookeeper::check(&connection, &self.paths, self.incarnation).await?;
        for folder in self.paths.locks() {
            connection.create_folders("open locks", &folder).await?;
        }
        Ok(Box::new(Session { connection, paths: self.paths.clone() }))
    }
}
