//! This process among the nodes: that it is there, and what it holds, said anew when that changes. For people who
//! look; nothing rests on it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::build;
use super::follow::Following;
use super::membership::{GroupView, Keeper};
use super::relay_id::OwnId;
use crate::config::Config;
use crate::coordinator::Holdings;
use crate::error::Result;
use crate::group::{GroupOf, Member};
use crate::id::{MemberId, ParticipantName};
use crate::protocol::lock::{Purpose, Queue};
use crate::relay::{Tally, stopped};

const VERSION: u32 = 1;
/// Between two looks at what this process holds.
const PAUSE: Duration = Duration::from_millis(500);
/// Locks that were taken later are not said: what one transaction after the other takes for a moment would have this
/// written anew at every look.
const LOCK_AGE: Duration = PAUSE;
/// Most locks that are named.
const LOCKS_NAMED_MAX: usize = 20;
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    version: u32,
    /// `relay`, or `program` for one that has opened onecommit.
    pub kind: String,
    /// The machine.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// When it was started, in milliseconds since 1970.
    pub since_ms: u64,
    /// Under which a relay is known to others.
    pub relay: Option<String>,
    /// The shards that it holds the leases of, by participant.
    pub shards: BTreeMap<String, Vec<usize>>,
    /// Its own coordinator; None until something was to be decided.
    pub coordinator: Option<String>,
    /// Those of the dead that it recovers.
    pub recovering: Vec<String>,
    /// Locks and leaderships that it has held for half a second at least, those held longest first: 20 at most.
    #[serde(default)]
    pub locks: Vec<LockFacts>,
    /// How many they are in all.
    #[serde(default)]
    pub locks_held: usize,
    /// Which settings it follows that change at run time.
    pub settings_revision: u64,
    /// Whether it does not understand those that are stored.
    pub settings_refused: bool,
}

/// A lock that a node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockFacts {
    /// `lock`, or `leader` for a leadership.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its fencing number, or the term.
    pub number: i64,
}

impl NodeFacts {
    /// None for what another release says.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|facts: &NodeFacts| facts.version == VERSION)
    }
}

/// The id of a relay process, and what it counts of each participant.
type Relays = (Arc<OwnId>, Vec<(ParticipantName, Arc<Tally>)>);

/// What is said of this process.
pub(super) struct Presence {
    pub(super) config: Config,
    pub(super) started: SystemTime,
    /// Only of a relay.
    pub(super) relay: Option<Relays>,
    /// Empty until this process has a part in transactions.
    pub(super) holdings: Arc<OnceLock<Arc<Holdings>>>,
    pub(super) following: Arc<Following>,
}

impl Presence {
    /// Has it be there, in the background, until `stop` turns true or nobody can turn it any more.
    pub(super) fn spawn(self, stop: watch::Receiver<bool>) -> JoinHandle<()> {
        tokio::spawn(async move {
            if let Err(error) = self.run(stop).await {
                tracing::debug!(%error, "this process is not among the nodes");
            }
        })
    }

    async fn run(self, mut stop: watch::Receiver<bool>) -> Result<()> {
        // Whoever has nothing set up makes nothing, either.
        while self.config.zookeeper.is_none() && !self.config.data_dir.exists() {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopped(&mut stop) => return Ok(()),
            }
        }
        let group = build::group(&self.config, &GroupOf::Nodes)?;
        let mut facts = self.facts();
        let (says, data) = watch::channel(encode(&facts));
        let (view, _views) = watch::channel(GroupView::default());
        let member = Member { id: MemberId::random(), name: String::new(), data: Vec::new() };
        let keeper = Keeper { group, member, data, view, watches: false };
        let mut keeping = tokio::spawn(keeper.keep(None));
        loop {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopped(&mut stop) => break,
            }
            let now = self.facts();
            if now != facts {
                says.send_replace(encode(&now));
                facts = now;
            }
        }
        drop(says);
        if timeout(LEAVE_LIMIT, &mut keeping).await.is_err() {
            keeping.abort();
        }
        Ok(())
    }

    fn facts(&self) -> NodeFacts {
        let holdings = self.holdings.get();
        let since = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let owned = |tally: &Tally| {
            let shards = tally.shards.iter().enumerate();
            let mine = shards.filter(|(_, shard)| shard.owned.load(std::sync::atomic::Ordering::Relaxed));
            mine.map(|(number, _)| number).collect::<Vec<_>>()
        };
        let locks = holdings.map(|held| held.locks(LOCK_AGE)).unwrap_or_default();
        let tallies = self.relay.iter().flat_map(|(_, tallies)| tallies);
        NodeFacts {
            version: VERSION,
            kind: if self.relay.is_some() { "relay" } else { "program" }.to_string(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            since_ms: u64::try_from(since.as_millis()).unwrap_or_default(),
            relay: self.relay.as_ref().map(|(id, _)| id.get().to_string()),
            shards: tallies.map(|(name, tally)| (name.to_string(), owned(tally))).collect(),
            coordinator: holdings.and_then(|held| held.own()).map(|id| id.to_string()),
            recovering: holdings
                .map(|held| held.recovering().iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            locks: locks.iter().take(LOCKS_NAMED_MAX).map(lock_facts).collect(),
            locks_held: locks.len(),
            settings_revision: self.following.revision(),
            settings_refused: self.following.refused().is_some(),
        }
    }
}

fn lock_facts((queue, number): &(Queue, i64)) -> LockFacts {
    let kind = match queue.purpose {
        Purpose::Lock => "lock",
        Purpose::Leader => "leader",
    };
    LockFacts { kind: kind.to_string(), name: queue.name.to_string(), number: *number }
}

fn encode(facts: &NodeFacts) -> Vec<u8> {
    // Of texts and numbers it can't fail.
    serde_json::to_vec(facts).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was said before nodes told their locks.
    const OLDER: &str = r#"{"version":1,"kind":"program","host":"app1","pid":815,"since_ms":7,"relay":null,"shards":{},
        "coordinator":null,"recovering":[],"settings_revision":3,"settings_refused":false}"#;

    #[test]
    fn what_other_releases_say_of_themselves_is_read_where_it_is_understood() {
        let older = NodeFacts::decode(OLDER.as_bytes()).unwrap();
        assert_eq!((older.pid, older.locks.len(), older.locks_held), (815, 0, 0));
        let later = OLDER.replacen('{', r#"{"holds_more":[1],"#, 1);
        assert_eq!(NodeFacts::decode(later.as_bytes()), Some(older));
        let other = OLDER.replace(r#""version":1"#, r#""version":2"#);
        assert_eq!(NodeFacts::decode(other.as_bytes()), None);
    }
}
