//! The lease port on ZooKeeper.

use std::time::Duration;

use async_trait::async_trait;
use zookeeper_client as zk;

use super::read::{Owner, Scope, Shard};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{Epoch, Incarnation, Namespace, ParticipantName, RelayId, ShardIndex};
use crate::lease::{Lease, LeaseView};
use crate::zookeeper::{self, Connection, Effect, Paths, ZookeeperSettings};

/// How often a relay joins anew while it is being taken from among the living.
const JOIN_TRIES: u32 = 3;

/// One relay's leases of one participant's shards, with a ZooKeeper session of its own.
pub struct ZookeeperLease {
    settings: ZookeeperSettings,
    scope: Scope,
    timeout: Duration,
    /// None after `leave`, and where no new session could be opened for a lost one.
    connection: Option<Connection>,
}

impl ZookeeperLease {
    /// Opens a session. ZooKeeper must have been prepared by [`init`] for this very incarnation.
    pub async fn connect(
        settings: ZookeeperSettings,
        namespace: &Namespace,
        incarnation: Incarnation,
        participant: ParticipantName,
        shards: u16,
        relay: RelayId,
    ) -> Result<Self> {
        let paths = Paths::new(&settings, namespace)?;
        let timeout = settings.session_timeout;
        let mut lease = ZookeeperLease {
            settings,
            scope: Scope { paths, incarnation, participant, shards, relay },
            timeout,
            connection: None,
        };
        lease.open().await?;
        Ok(lease)
    }

    /// Opens a session, also in the place of one that is over. Every check is made anew: these may be
    /// other servers than before, or emptied ones.
    async fn open(&mut self) -> Result<()> {
        self.connection = None;
        let connection = Connection::open(&self.settings).await?;
        zookeeper::check(&connection, &self.scope.paths, self.scope.incarnation).await?;
        for folder in [
            self.scope.paths.relays(&self.scope.participant),
            self.scope.paths.shards(&self.scope.participant),
        ] {
            connection.create_folders("join relays in ZooKeeper", &folder).await?;
        }
        self.timeout = connection.timeout();
        self.connection = Some(connection);
        Ok(())
    }

    /// Makes this relay's node one of this session's. Where it changed at that very moment, nothing
    /// is done: it has to be looked at again.
    async fn join(&self, connection: &Connection) -> Result<()> {
        let path = self.scope.paths.relay(&self.scope.participant, self.scope.relay);
        let failed =
            |effect, error| connection.error("join relays in ZooKeeper", effect, error).with("path", &path);
        let seen = connection.call(connection.client().check_stat(&path)).await;
        let seen = seen.map_err(|error| failed(Effect::None, error))?;
        let mut writer = connection.client().new_multi_writer();
        if let Some(stat) = seen {
            if stat.ephemeral_owner == connection.session() {
                return Ok(());
            }
            // Left by a session of this relay that ZooKeeper has not ended yet: with its end this
            // relay would drop out from among the living.
            let deleted = writer.add_delete(&path, Some(stat.version));
            deleted.map_err(|error| failed(Effect::None, error))?;
        }
        let about = serde_json::json!({ "host": host(), "pid": std::process::id() }).to_string();
        let options = zk::CreateMode::Ephemeral.with_acls(connection.acls());
        let created = writer.add_create(&path, about.as_bytes(), &options);
        created.map_err(|error| failed(Effect::None, error))?;
        failpoint!("zookeeper_lease.join.before_commit")?;
        match connection.call(writer.commit()).await {
            Ok(_) => {}
            Err(zk::Error::NodeExists) => return Ok(()),
            // Gone is the earlier session's node; without one, the folder above.
            Err(zk::Error::NoNode) if seen.is_some() => return Ok(()),
            Err(error) => return Err(failed(Effect::Possible, error)),
        }
        failpoint!("zookeeper_lease.join.after_commit")
    }

    /// Raises the epoch and becomes the owner, all or nothing. Whoever took the shard meanwhile
    /// raised the epoch too, so that its node has another version and nothing happens.
    async fn write(
        &self,
        connection: &Connection,
        shard: ShardIndex,
        seen: &Shard,
        epoch: Epoch,
    ) -> Result<(), zk::Error> {
        let (path, owner) = (
            self.scope.paths.shard(&self.scope.participant, shard),
            self.scope.paths.owner(&self.scope.participant, shard),
        );
        let text = epoch.to_string();
        let mut writer = connection.client().new_multi_writer();
        match seen.version {
            Some(version) => writer.add_set_data(&path, text.as_bytes(), Some(version))?,
            None => {
                let options = zk::CreateMode::Persistent.with_acls(connection.acls());
                writer.add_create(&path, text.as_bytes(), &options)?;
            }
        }
        if seen.owner == Owner::EarlierSession {
            writer.add_delete(&owner, None)?;
        }
        if seen.owner != Owner::ThisSession {
            let options = zk::CreateMode::Ephemeral.with_acls(connection.acls());
            writer.add_create(&owner, self.scope.relay.to_string().as_bytes(), &options)?;
        }
        connection.call(writer.commit()).await.map(|_| ())
    }

    async fn reopen_if_over(&mut self) -> Result<()> {
        if self.connection.as_ref().is_none_or(Connection::is_over) {
            self.open().await?;
        }
        Ok(())
    }

    fn connection(&self) -> Result<&Connection> {
        self.connection.as_ref().ok_or_else(|| {
            let message = "there is no ZooKeeper session: renew the lease first";
            let error = Error::new(ErrorKind::Unreachable, "use lease", message);
            error.with("servers", &self.settings.servers)
        })
    }
}

#[async_trait]
impl Lease for ZookeeperLease {
    async fn renew(&mut self) -> Result<LeaseView> {
        self.reopen_if_over().await?;
        let connection = self.connection()?;
        for _ in 0..JOIN_TRIES {
            if let (view, true) = self.scope.read(connection).await? {
                return Ok(view);
            }
            self.join(connection).await?;
        }
        let message = "this relay's node vanishes again and again: is its id used by another process?";
        Err(Error::new(ErrorKind::Unclear, "renew lease", message).with("relay", self.scope.relay))
    }

    async fn look(&mut self) -> Result<LeaseView> {
        self.reopen_if_over().await?;
        let (mut view, _) = self.scope.read(self.connection()?).await?;
        view.live.retain(|relay| *relay != self.scope.relay);
        Ok(view)
    }

    async fn take(&mut self, shard: ShardIndex, above: Epoch) -> Result<Option<Epoch>> {
        let connection = self.connection()?;
        let seen = self.scope.look_at(connection, shard).await?;
        if matches!(seen.owner, Owner::Other(_)) {
            return Ok(None);
        }
        let epoch = seen.epoch.max(above).next();
        failpoint!("zookeeper_lease.take.before_commit")?;
        match self.write(connection, shard, &seen, epoch).await {
            Ok(()) => {}
            Err(zk::Error::NodeExists | zk::Error::BadVersion) => return Ok(None),
            // Gone is the earlier session's node; without one, the folder above the shards.
            Err(zk::Error::NoNode) if seen.version.is_some() => return Ok(None),
            Err(error) => {
                let error = connection.error("take shard", Effect::Possible, error);
                return Err(error.with("shard", shard));
            }
        }
        failpoint!("zookeeper_lease.take.after_commit")?;
        Ok(Some(epoch))
    }

    async fn release(&mut self, shard: ShardIndex) -> Result<()> {
        // With its session a relay has lost everything already.
        let Some(connection) = self.connection.as_ref().filter(|connection| !connection.is_over()) else {
            return Ok(());
        };
        let failed = |effect, error| connection.error("release shard", effect, error).with("shard", shard);
        let owner = self.scope.paths.owner(&self.scope.participant, shard);
        match connection.call(connection.client().check_stat(&owner)).await {
            Ok(Some(stat)) if stat.ephemeral_owner == connection.session() => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(failed(Effect::None, error)),
        }
        failpoint!("zookeeper_lease.release.before_commit")?;
        // While its session lasts nobody else can have put another node in this one's place.
        match connection.call(connection.client().delete(&owner, None)).await {
            Ok(()) | Err(zk::Error::NoNode) => {}
            Err(error) => return Err(failed(Effect::Possible, error)),
        }
        failpoint!("zookeeper_lease.release.after_commit")
    }

    async fn leave(&mut self) -> Result<()> {
        // Closing the session deletes, in one transaction, all that this relay holds.
        let Some(connection) = self.connection.take() else { return Ok(()) };
        failpoint!("zookeeper_lease.leave.before_commit")?;
        connection.close().await?;
        failpoint!("zookeeper_lease.leave.after_commit")
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// For people who look at ZooKeeper; nothing depends on it.
fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("HOSTNAME").map_err(std::io::Error::other));
    name.ok().map(|name| name.trim().to_string())
}
