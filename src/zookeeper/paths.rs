//! Where things are: the paths below `/onecommit/<namespace>/`, under the configured chroot.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::connection::ZookeeperSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, GroupName, Namespace, ParticipantName, RelayId, ShardIndex, TransactionId};
use crate::protocol::lock::{Owner, Purpose, Queue};

/// What a lock's name has as it is; all else would be a path, or no name of a node.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// Where things are.
#[derive(Clone)]
pub(crate) struct Paths {
    root: String,
}

impl Paths {
    pub(crate) fn new(settings: &ZookeeperSettings, namespace: &Namespace) -> Result<Paths> {
        let chroot = settings.chroot.as_deref().unwrap_or("");
        let is_path = chroot.strip_prefix('/').is_some_and(|below| {
            below.split('/').all(|name| !matches!(name, "" | "." | "..") && !name.contains(char::is_control))
        });
        if !chroot.is_empty() && !is_path {
            let message = "[zookeeper] chroot is no path: write it as /a/b, without a slash at its end";
            return Err(Error::new(ErrorKind::Configuration, "connect to ZooKeeper", message)
                .with("chroot", format!("{chroot:?}")));
        }
        Ok(Paths { root: format!("{chroot}/onecommit/{namespace}") })
    }

    pub(crate) fn layout(&self) -> String {
        format!("{}/layout", self.root)
    }

    pub(crate) fn settings(&self) -> String {
        format!("{}/settings", self.root)
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    pub(super) fn all_relays(&self) -> String {
        format!("{}/relays", self.root)
    }

    pub(crate) fn relays(&self, participant: &ParticipantName) -> String {
        format!("{}/relays/{participant}", self.root)
    }

    pub(crate) fn relay(&self, participant: &ParticipantName, relay: RelayId) -> String {
        format!("{}/relays/{participant}/{relay}", self.root)
    }

    pub(crate) fn shards(&self, participant: &ParticipantName) -> String {
        format!("{}/shards/{participant}", self.root)
    }

    pub(crate) fn shard(&self, participant: &ParticipantName, shard: ShardIndex) -> String {
        format!("{}/shards/{participant}/{shard}", self.root)
    }

    pub(crate) fn owner(&self, participant: &ParticipantName, shard: ShardIndex) -> String {
        format!("{}/shards/{participant}/{shard}/owner", self.root)
    }

    /// What has to be there before anything is written for coordinators.
    pub(crate) fn decision_log(&self) -> [String; 4] {
        [self.all_coordinators(), self.all_live(), self.all_decisions(), self.all_outcomes()]
    }

    pub(crate) fn all_coordinators(&self) -> String {
        format!("{}/coordinators", self.root)
    }

    pub(crate) fn coordinator(&self, id: CoordinatorId) -> String {
        format!("{}/coordinators/{id}", self.root)
    }

    pub(crate) fn fence(&self, id: CoordinatorId) -> String {
        format!("{}/coordinators/{id}/fence", self.root)
    }

    pub(crate) fn all_live(&self) -> String {
        format!("{}/live", self.root)
    }

    pub(crate) fn live(&self, id: CoordinatorId) -> String {
        format!("{}/live/{id}", self.root)
    }

    pub(crate) fn all_decisions(&self) -> String {
        format!("{}/decisions", self.root)
    }

    pub(crate) fn decisions(&self, id: CoordinatorId) -> String {
        format!("{}/decisions/{id}", self.root)
    }

    /// All 20 digits, so that whoever lists them has them in their order.
    pub(crate) fn batch(&self, id: CoordinatorId, batch: u64) -> String {
        format!("{}/decisions/{id}/{batch:020}", self.root)
    }

    pub(crate) fn all_outcomes(&self) -> String {
        format!("{}/outcomes", self.root)
    }

    /// Of this transaction and later ones of its coordinator.
    pub(crate) fn outcomes(&self, first: TransactionId) -> String {
        format!("{}/outcomes/{}:{:020}", self.root, first.coordinator, first.number)
    }

    pub(crate) fn nodes(&self) -> String {
        format!("{}/nodes", self.root)
    }

    /// What has to be there before a group is made.
    pub(crate) fn groups(&self) -> String {
        format!("{}/groups", self.root)
    }

    pub(crate) fn group(&self, name: &GroupName) -> String {
        format!("{}/groups/{}", self.root, utf8_percent_encode(name.as_str(), PLAIN))
    }

    /// What has to be there before anything is locked.
    pub(crate) fn locks(&self) -> [String; 3] {
        [self.all_queues(Purpose::Lock), self.all_queues(Purpose::Leader), self.all_waits()]
    }

    pub(crate) fn all_queues(&self, purpose: Purpose) -> String {
        let folder = match purpose {
            Purpose::Lock => "locks",
            Purpose::Leader => "leaders",
        };
        format!("{}/{folder}", self.root)
    }

    pub(crate) fn queue(&self, queue: &Queue) -> String {
        let name = utf8_percent_encode(queue.name.as_str(), PLAIN);
        format!("{}/{name}", self.all_queues(queue.purpose))
    }

    /// By its owner, so that who did not hear of its making finds its own.
    pub(crate) fn entry(&self, queue: &Queue, owner: Owner) -> String {
        let name = match owner {
            Owner::Transaction(id) => format!("t:{id}"),
            Owner::Holder(id) => format!("h:{id}"),
        };
        format!("{}/{name}", self.queue(queue))
    }

    pub(crate) fn all_waits(&self) -> String {
        format!("{}/waits", self.root)
    }

    pub(crate) fn wait(&self, transaction: TransactionId) -> String {
        format!("{}/waits/{transaction}", self.root)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn layout_under(chroot: Option<&str>) -> Result<String> {
        let settings = ZookeeperSettings {
            servers: "127.0.0.1:2181".into(),
            chroot: chroot.map(str::to_string),
            session_timeout: Duration::from_secs(2),
            user: None,
            password: None,
            require_acl: false,
            tls: None,
        };
        Ok(Paths::new(&settings, &"shop".parse()?)?.layout())
    }

    #[test]
    fn any_name_of_a_lock_is_one_nodes_name() {
        let paths = Paths { root: "/onecommit/shop".into() };
        let path = |name: &str| paths.queue(&Queue { purpose: Purpose::Lock, name: name.parse().unwrap() });
        assert_eq!(path("account/42"), "/onecommit/shop/locks/account%2F42");
        for name in [".", "..", "a/../b", "\u{0}", "\n", "ä", "%2F", " "] {
            let below = path(name).strip_prefix("/onecommit/shop/locks/").unwrap().to_string();
            assert!(
                below.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%-_".contains(&byte)),
                "{below}"
            );
        }
        assert_ne!(path("%2F"), path("/"));
    }

    #[test]
    fn everything_lies_below_the_chroot() {
        assert_eq!(layout_under(None).unwrap(), "/onecommit/shop/layout");
        assert_eq!(layout_under(Some("/apps/a")).unwrap(), "/apps/a/onecommit/shop/layout");
        for wrong in ["apps", "/", "/apps/", "/a//b", "/a/../b"] {
            assert_eq!(layout_under(Some(wrong)).unwrap_err().kind(), ErrorKind::Configuration, "{wrong}");
        }
    }
}
