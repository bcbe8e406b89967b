//! What is read: who lives, who owns what, and a shard as it stands.

use zookeeper_client as zk;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, Incarnation, ParticipantName, RelayId, ShardIndex};
use crate::lease::LeaseView;
use crate::zookeeper::{self, Connection, Effect, Paths};

/// Whose leases, and where.
pub(super) struct Scope {
    pub(super) paths: Paths,
    pub(super) incarnation: Incarnation,
    pub(super) participant: ParticipantName,
    pub(super) shards: u16,
    pub(super) relay: RelayId,
}

/// A shard as it was found.
pub(super) struct Shard {
    pub(super) epoch: Epoch,
    pub(super) version: Option<i32>,
    pub(super) owner: Owner,
}

#[derive(PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    ThisSession,
    /// This relay, in a session that it has lost and ZooKeeper has not ended yet. Not held, but
    /// nobody else's to take, so that this relay need not wait for the end.
    EarlierSession,
    Other(RelayId),
}

impl Scope {
    /// Reads, in one transaction, who lives and who owns what, and whether this relay's own node is
    /// there and this session's. Refuses what was emptied or made anew under a living session.
    pub(super) async fn read(&self, connection: &Connection) -> Result<(LeaseView, bool)> {
        let failed = |error| connection.error("look at relays in ZooKeeper", Effect::None, error);
        // A server that was cut off from its leader answers reads with what it last knew, when the
        // leader has long ended this session. This goes through the leader.
        connection.call(connection.client().sync(&self.paths.layout())).await.map_err(failed)?;
        let mut reader = connection.client().new_multi_reader();
        reader.add_get_data(&self.paths.layout()).map_err(failed)?;
        reader.add_get_data(&self.paths.relay(&self.participant, self.relay)).map_err(failed)?;
        reader.add_get_children(&self.paths.relays(&self.participant)).map_err(failed)?;
        for shard in (0..self.shards).map(ShardIndex) {
            reader.add_get_data(&self.paths.owner(&self.participant, shard)).map_err(failed)?;
        }
        let mut answers = connection.call(reader.commit()).await.map_err(failed)?.into_iter();
        let layout = node(connection, answers.next())?.map(|found| found.data);
        zookeeper::expect(&self.paths, layout.as_deref(), self.incarnation)?;
        let own = node(connection, answers.next())?;
        let joined = own.is_some_and(|own| own.session == connection.session());
        let mut view = LeaseView::default();
        match answers.next() {
            Some(zk::MultiReadResult::Children { children }) => {
                view.live = children.iter().filter_map(|name| name.parse().ok()).collect();
            }
            other => drop(node(connection, other)?),
        }
        for shard in (0..self.shards).map(ShardIndex) {
            let owner = match node(connection, answers.next())? {
                Some(found) => self.owner(connection, shard, &found)?,
                None => Owner::Nobody,
            };
            let relay = match owner {
                Owner::ThisSession => Some(self.relay),
                Owner::Other(relay) => Some(relay),
                Owner::EarlierSession | Owner::Nobody => None,
            };
            view.owners.push((shard, relay));
        }
        Ok((view, joined))
    }

    /// Reads a shard's epoch, the version of its node (None where there is none) and its owner.
    pub(super) async fn look_at(&self, connection: &Connection, shard: ShardIndex) -> Result<Shard> {
        let failed = |error| connection.error("take shard", Effect::None, error).with("shard", shard);
        let path = self.paths.shard(&self.participant, shard);
        let mut reader = connection.client().new_multi_reader();
        reader.add_get_data(&path).map_err(failed)?;
        reader.add_get_data(&self.paths.owner(&self.participant, shard)).map_err(failed)?;
        let mut answers = connection.call(reader.commit()).await.map_err(failed)?.into_iter();
        let (epoch, version) = match node(connection, answers.next())? {
            Some(found) => (parse(&path, &found.data).map(Epoch)?, Some(found.version)),
            None => (Epoch::ZERO, None),
        };
        let owner = match node(connection, answers.next())? {
            Some(found) => self.owner(connection, shard, &found)?,
            None => Owner::Nobody,
        };
        Ok(Shard { epoch, version, owner })
    }

    fn owner(&self, connection: &Connection, shard: ShardIndex, found: &Node) -> Result<Owner> {
        if found.session == connection.session() {
            return Ok(Owner::ThisSession);
        }
        let relay: RelayId = parse(&self.paths.owner(&self.participant, shard), &found.data)?;
        Ok(if relay == self.relay { Owner::EarlierSession } else { Owner::Other(relay) })
    }
}

struct Node {
    data: Vec<u8>,
    version: i32,
    /// 0 for a persistent node.
    session: i64,
}

/// One answer of a multi-read; None where there is no such node.
fn node(connection: &Connection, answer: Option<zk::MultiReadResult>) -> Result<Option<Node>> {
    let failed = |error| connection.error("read from ZooKeeper", Effect::None, error);
    match answer {
        Some(zk::MultiReadResult::Data { data, stat }) => {
            Ok(Some(Node { data, version: stat.version, session: stat.ephemeral_owner }))
        }
        Some(zk::MultiReadResult::Error { err: zk::Error::NoNode }) => Ok(None),
        Some(zk::MultiReadResult::Error { err }) => Err(failed(err)),
        other => Err(failed(zk::Error::UnexpectedError(format!("node data expected, got {other:?}")))),
    }
}

fn parse<T: std::str::FromStr>(path: &str, data: &[u8]) -> Result<T> {
    std::str::from_utf8(data).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        let message = "a node holds something that Onecommit did not write: find out who did, and delete it";
        Error::new(ErrorKind::Refused, "read from ZooKeeper", message).with("path", path)
    })
}
