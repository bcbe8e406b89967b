//! Where things are: the paths below `/onecommit/<namespace>/`, under the configured chroot.

use super::connection::ZookeeperSettings;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, Namespace, ParticipantName, RelayId, ShardIndex, TransactionId};

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
    fn everything_lies_below_the_chroot() {
        assert_eq!(layout_under(None).unwrap(), "/onecommit/shop/layout");
        assert_eq!(layout_under(Some("/apps/a")).unwrap(), "/apps/a/onecommit/shop/layout");
        for wrong in ["apps", "/", "/apps/", "/a//b", "/a/../b"] {
            assert_eq!(layout_under(Some(wrong)).unwrap_err().kind(), ErrorKind::Configuration, "{wrong}");
        }
    }
}
