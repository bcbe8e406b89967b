//! Groups in ZooKeeper: a member is an ephemeral node, which goes with its session. Who watches has one watch on all
//! of a group, and lists it again behind each event: nothing is asked for again and again, and what is told of a
//! change is not what has changed but that something has.

use std::time::Duration;

use async_trait::async_trait;
use zookeeper_client as zk;

use super::{Group, GroupOf, GroupSeen, GroupSession, Member};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{MemberId, Namespace};
use crate::zookeeper::{self, Connection, Effect, Paths, ZookeeperSettings};

const VERSION: u8 = 1;
/// How often a group's folder is made again that vanished while it was empty.
const JOIN_TRIES: u32 = 5;
/// Without a connection for this part of the session timeout, others may count what this session has as gone: the
/// client notices within the other two.
const GRACE: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// One group of a namespace.
pub struct ZookeeperGroup {
    settings: ZookeeperSettings,
    paths: Paths,
    folder: String,
}

impl ZookeeperGroup {
    /// ZooKeeper must have been prepared by [`init`](crate::zookeeper::init).
    pub fn new(settings: ZookeeperSettings, namespace: &Namespace, group: &GroupOf) -> Result<Self> {
        let paths = Paths::new(&settings, namespace)?;
        let folder = match group {
            GroupOf::Nodes => paths.nodes(),
            GroupOf::Named(name) => paths.group(name),
        };
        Ok(ZookeeperGroup { settings, paths, folder })
    }
}

#[async_trait]
impl Group for ZookeeperGroup {
    async fn open(&self) -> Result<Box<dyn GroupSession>> {
        let connection = Connection::open(&self.settings).await?;
        zookeeper::check_prepared(&connection, &self.paths).await?;
        connection.create_folders("open group", self.paths.groups().as_str()).await?;
        let session = Session { connection, folder: self.folder.clone() };
        session.make_folder("open group").await?;
        Ok(Box::new(session))
    }
}

struct Session {
    connection: Connection,
    folder: String,
}

impl Session {
    fn path(&self, id: MemberId) -> String {
        format!("{}/{id}", self.folder)
    }

    fn failed(&self, operation: &'static str, effect: Effect, error: zk::Error) -> Error {
        if self.connection.is_over() {
            let why = "the session with ZooKeeper has ended, and with it what it had joined: join again";
            return Error::new(ErrorKind::Fenced, operation, why).with("path", &self.folder).caused_by(error);
        }
        self.connection.error(operation, effect, error).with("path", &self.folder)
    }

    /// ZooKeeper removes it again once it is empty: a name that nobody uses any more leaves nothing.
    async fn make_folder(&self, operation: &'static str) -> Result<()> {
        let options = zk::CreateMode::Container.with_acls(self.connection.acls());
        match self.connection.call(self.connection.client().create(&self.folder, &[], &options)).await {
            Ok(_) | Err(zk::Error::NodeExists) => Ok(()),
            Err(error) => Err(self.failed(operation, Effect::Possible, error)),
        }
    }

    /// Whether there is such a node of this session: then it says something else from now on.
    async fn rewritten(&self, operation: &'static str, path: &str, data: &[u8]) -> Result<bool> {
        let client = self.connection.client();
        match self.connection.call(client.set_data(path, data, None)).await {
            Ok(stat) if stat.ephemeral_owner == self.connection.session() => Ok(true),
            Ok(_) => {
                let why = "this member was joined in another session: join under an id of its own";
                Err(Error::new(ErrorKind::Invalid, operation, why).with("path", path))
            }
            Err(zk::Error::NoNode) => Ok(false),
            Err(error) => Err(self.failed(operation, Effect::Possible, error)),
        }
    }

    async fn list(&self) -> Result<Vec<Member>> {
        const OPERATION: &str = "look at group";
        let failed = |error: Error| match self.connection.is_over() {
            true => self.failed(OPERATION, Effect::None, zk::Error::SessionExpired),
            false => error,
        };
        let names = self.connection.names(OPERATION, &self.folder).await.map_err(failed)?.unwrap_or_default();
        let paths: Vec<String> = names.iter().map(|name| format!("{}/{name}", self.folder)).collect();
        let nodes = self.connection.read(OPERATION, &paths).await.map_err(failed)?;
        let mut members = Vec::new();
        for ((name, path), node) in names.iter().zip(&paths).zip(nodes) {
            // Gone since it was listed.
            let Some(node) = node else { continue };
            let member = name.parse().ok().and_then(|id| decode(id, &node.data));
            let member = member.ok_or_else(|| foreign(OPERATION).with("path", path))?;
            members.push((node.created, member));
        }
        members.sort_by_key(|(created, member)| (*created, member.id));
        Ok(members.into_iter().map(|(_, member)| member).collect())
    }

    /// Waits until the group or the connection has changed. What is watched is all below the folder.
    async fn event(&self, seen: &GroupSeen) -> Result<GroupSeen> {
        const OPERATION: &str = "watch group";
        let mut states = self.connection.client().state_watcher();
        let connected = |state: zk::SessionState| state == zk::SessionState::SyncConnected;
        loop {
            let state = states.state();
            if state.is_terminated() {
                return Err(self.failed(OPERATION, Effect::None, zk::Error::SessionExpired));
            }
            if !connected(state) {
                let grace = self.connection.timeout() / GRACE;
                let waited = match seen.is_current {
                    true => tokio::time::timeout(grace, states.changed()).await.is_ok(),
                    false => {
                        states.changed().await;
                        true
                    }
                };
                if waited {
                    continue;
                }
                return Ok(GroupSeen { is_current: false, ..seen.clone() });
            }
            let mode = zk::AddWatchMode::PersistentRecursive;
            let watching = self.connection.call(self.connection.client().watch(&self.folder, mode)).await;
            let mut watcher = watching.map_err(|error| self.failed(OPERATION, Effect::None, error))?;
            let now = GroupSeen { members: self.list().await?, is_current: true };
            if now != *seen {
                return Ok(now);
            }
            tokio::select! {
                _ = watcher.changed() => {}
                _ = states.changed() => {}
            }
        }
    }
}

#[async_trait]
impl GroupSession for Session {
    async fn join(&mut self, member: &Member) -> Result<()> {
        const OPERATION: &str = "join group";
        let (path, data) = (self.path(member.id), encode(member));
        failpoint!("zookeeper_group.join.before_commit")?;
        for _ in 0..JOIN_TRIES {
            if self.rewritten(OPERATION, &path, &data).await? {
                return failpoint!("zookeeper_group.join.after_commit");
            }
            let options = zk::CreateMode::Ephemeral.with_acls(self.connection.acls());
            match self.connection.call(self.connection.client().create(&path, &data, &options)).await {
                Ok(_) => return failpoint!("zookeeper_group.join.after_commit"),
                // Its own, of which the answer was lost.
                Err(zk::Error::NodeExists) => {}
                Err(zk::Error::NoNode) => self.make_folder(OPERATION).await?,
                Err(error) => return Err(self.failed(OPERATION, Effect::Possible, error)),
            }
        }
        let why = "the group's folder vanishes again and again: find out who deletes it";
        Err(Error::new(ErrorKind::Unclear, OPERATION, why).with("path", &self.folder))
    }

    async fn leave(&mut self, id: MemberId) -> Result<()> {
        failpoint!("zookeeper_group.leave.before_commit")?;
        match self.connection.call(self.connection.client().delete(&self.path(id), None)).await {
            Ok(()) | Err(zk::Error::NoNode) => failpoint!("zookeeper_group.leave.after_commit"),
            Err(error) => Err(self.failed("leave group", Effect::Possible, error)),
        }
    }

    async fn members(&mut self) -> Result<Vec<Member>> {
        let synced = self.connection.call(self.connection.client().sync(&self.folder)).await;
        synced.map_err(|error| self.failed("look at group", Effect::None, error))?;
        self.list().await
    }

    async fn changed(&mut self, seen: &GroupSeen) -> Result<GroupSeen> {
        match self.event(seen).await {
            // A server that does not answer in time is as good as none; it is looked again.
            Err(error) if error.kind() == ErrorKind::Unreachable => {
                if seen.is_current {
                    return Ok(GroupSeen { is_current: false, ..seen.clone() });
                }
                tokio::time::sleep(PAUSE).await;
                self.event(seen).await
            }
            seen => seen,
        }
    }

    fn is_over(&self) -> bool {
        self.connection.is_over()
    }
}

/// A version, the length of the name in two bytes, the name, and the data.
fn encode(member: &Member) -> Vec<u8> {
    let name = member.name.as_bytes();
    let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
    let name = &name[..usize::from(length)];
    [&[VERSION][..], &length.to_be_bytes(), name, &member.data].concat()
}

fn decode(id: MemberId, bytes: &[u8]) -> Option<Member> {
    let (&[version, high, low], rest) = bytes.split_first_chunk()?;
    let (name, data) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    (version == VERSION).then(|| Member { id, name, data: data.to_vec() })
}

fn foreign(operation: &'static str) -> Error {
    let why = "a member of this group is not one that this release understands: run the release that made it, or find \
               out who did";
    Error::new(ErrorKind::Refused, operation, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_read_as_it_was_written_and_nothing_else_is() {
        let id = MemberId::random();
        for (name, data) in [("", &b""[..]), ("ä b", b"\0\xff"), ("x", &[7; 20_000])] {
            let member = Member { id, name: name.to_string(), data: data.to_vec() };
            assert_eq!(decode(id, &encode(&member)), Some(member));
        }
        for bytes in [&b""[..], b"\x01\0", b"\x02\0\0", b"\x01\0\x02a", b"\x01\0\x01\xff"] {
            assert_eq!(decode(id, bytes), None, "{bytes:?}");
        }
    }
}
