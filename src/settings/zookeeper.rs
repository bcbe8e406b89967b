//! Settings in ZooKeeper: one node, whose version is the revision. Who follows has a watch on it, which outlives
//! a lost connection and ends with the session; nothing is asked for again and again.

use async_trait::async_trait;
use zookeeper_client as zk;

use super::{SettingsStore, StoredSettings};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::Namespace;
use crate::zookeeper::{self, Connection, Effect, Paths, ZookeeperSettings};

/// The settings of a namespace, with a ZooKeeper session of their own from the first call on.
pub struct ZookeeperSettingsStore {
    settings: ZookeeperSettings,
    paths: Paths,
    connection: Option<Connection>,
}

impl ZookeeperSettingsStore {
    /// ZooKeeper must have been prepared by [`init`](crate::zookeeper::init).
    pub fn new(settings: ZookeeperSettings, namespace: &Namespace) -> Result<Self> {
        let paths = Paths::new(&settings, namespace)?;
        Ok(ZookeeperSettingsStore { settings, paths, connection: None })
    }

    /// The session; a new one in the place of one that is over.
    async fn connection(&mut self) -> Result<&Connection> {
        let kept = self.connection.take().filter(|connection| !connection.is_over());
        let connection = match kept {
            Some(connection) => connection,
            None => {
                let connection = Connection::open(&self.settings).await?;
                zookeeper::check_prepared(&connection, &self.paths).await?;
                connection
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// What is stored, and a watch that tells of the next change.
    async fn watched(&mut self) -> Result<(StoredSettings, zk::OneshotWatcher)> {
        let path = self.paths.settings();
        let connection = self.connection().await?;
        let failed = |error| connection.error("follow settings", Effect::None, error).with("path", &path);
        loop {
            match connection.call(connection.client().get_and_watch_data(&path)).await {
                Ok((bytes, stat, watcher)) => {
                    return Ok((StoredSettings { revision: revision(stat.version), bytes }, watcher));
                }
                Err(zk::Error::NoNode) => {}
                Err(error) => return Err(failed(error)),
            }
            let found = connection.call(connection.client().check_and_watch_stat(&path)).await;
            // Where it is there by now, it is read.
            if let (None, watcher) = found.map_err(failed)? {
                return Ok((StoredSettings::default(), watcher));
            }
        }
    }
}

#[async_trait]
impl SettingsStore for ZookeeperSettingsStore {
    async fn read(&mut self) -> Result<StoredSettings> {
        let path = self.paths.settings();
        let connection = self.connection().await?;
        let failed = |error| connection.error("read settings", Effect::None, error).with("path", &path);
        // A server that lags behind its leader does not know yet what was stored elsewhere.
        connection.call(connection.client().sync(&path)).await.map_err(failed)?;
        match connection.call(connection.client().get_data(&path)).await {
            Ok((bytes, stat)) => Ok(StoredSettings { revision: revision(stat.version), bytes }),
            Err(zk::Error::NoNode) => Ok(StoredSettings::default()),
            Err(error) => Err(failed(error)),
        }
    }

    async fn write(&mut self, seen: u64, bytes: &[u8]) -> Result<u64> {
        let path = self.paths.settings();
        let connection = self.connection().await?;
        let client = connection.client();
        failpoint!("zookeeper_settings.write.before_commit")?;
        let written = match version(seen) {
            Some(version) => {
                let written = connection.call(client.set_data(&path, bytes, Some(version))).await;
                written.map(|stat| revision(stat.version))
            }
            None => {
                let options = zk::CreateMode::Persistent.with_acls(connection.acls());
                let made = connection.call(client.create(&path, bytes, &options)).await;
                made.map(|(stat, _)| revision(stat.version))
            }
        };
        let written = written.map_err(|error| match error {
            zk::Error::BadVersion | zk::Error::NodeExists | zk::Error::NoNode => {
                let why =
                    "somebody else has changed the settings meanwhile: look at them, and run this again";
                Error::new(ErrorKind::Conflict, "store settings", why).with("path", &path)
            }
            error => connection.error("store settings", Effect::Possible, error).with("path", &path),
        })?;
        failpoint!("zookeeper_settings.write.after_commit")?;
        Ok(written)
    }

    async fn changed(&mut self, seen: u64) -> Result<StoredSettings> {
        loop {
            let (stored, watcher) = self.watched().await?;
            if stored.revision != seen {
                return Ok(stored);
            }
            // Also where the session has ended: then there is another one, whose servers are asked anew.
            watcher.changed().await;
        }
    }
}

/// A node's first version is 0.
fn revision(version: i32) -> u64 {
    u64::try_from(version).map_or(0, |version| version + 1)
}

fn version(revision: u64) -> Option<i32> {
    revision.checked_sub(1).and_then(|version| i32::try_from(version).ok())
}
