//! What was found of a participant's stores, as a person is shown it.

use crate::error::Result;
use crate::id::{Incarnation, ParticipantName, RelayId, ShardIndex};
use crate::outbox::{Contents, Installation, ShardRow};
use crate::protocol::progress::{DatabaseIdentity, Progress};
use crate::service::alone::living;

/// One participant's stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub participant: ParticipantName,
    /// What `init`, or the last adoption, noted in the outbox.
    pub installation: Installation,
    /// The database behind the address.
    pub database: DatabaseIdentity,
    /// The Kafka cluster's id, or the topic log's, that is there now; None where its file is not.
    pub delivery_id: Option<String>,
    /// Whether the progress topic (or the topic log's file) is there.
    pub has_progress_topic: bool,
    /// What ZooKeeper has; None where it keeps no leases.
    pub zookeeper: Option<FoundZookeeper>,
    /// Why the outbox can't be read as it is; None where it can.
    pub unreadable: Option<String>,
    /// The relays that live and deliver some shard.
    pub relays: Vec<RelayId>,
    /// Each shard.
    pub shards: Vec<FoundShard>,
}

/// What ZooKeeper has of the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundZookeeper {
    /// This installation.
    Known,
    /// Nothing.
    Unknown,
    /// Another installation.
    Other(Incarnation),
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundShard {
    /// Its number.
    pub shard: ShardIndex,
    /// Its row in the outbox.
    pub row: ShardRow,
    /// Its last committed progress; None where there is none, or it can't be read.
    pub progress: Option<Progress>,
    /// Why it does not fit, so that it has to be born again; None where it goes on as it is.
    pub unfit: Option<String>,
    /// What the outbox holds of it.
    pub contents: Contents,
    /// At most so many messages may be delivered for the second time.
    pub twice_at_most: u64,
}

impl Found {
    /// Whether anything is another than before.
    pub fn is_to_adopt(&self) -> bool {
        let other_zookeeper = self.zookeeper.is_some_and(|found| found != FoundZookeeper::Known);
        self.is_other_delivery()
            || !self.has_progress_topic
            || other_zookeeper
            || self.unreadable.is_some()
            || self.shards.iter().any(|shard| shard.unfit.is_some())
    }

    /// Whether Kafka (or the topic log) is another one than was noted.
    pub fn is_other_delivery(&self) -> bool {
        self.delivery_id.as_ref() != Some(&self.installation.delivery_id)
    }

    /// Refused where a relay was found living.
    pub fn expect_no_relay(&self, operation: &'static str) -> Result<()> {
        if self.relays.is_empty() {
            return Ok(());
        }
        let relays: Vec<String> = self.relays.iter().map(ToString::to_string).collect();
        Err(living(operation, &relays.join(", ")))
    }

    /// How many messages are delivered by the shards that are born again.
    pub fn delivers(&self) -> u64 {
        let anew = self.shards.iter().filter(|shard| shard.unfit.is_some());
        anew.map(|shard| shard.contents.messages).sum()
    }

    /// How many of all messages may be delivered for the second time.
    pub fn twice_at_most(&self) -> u64 {
        self.shards.iter().map(|shard| shard.twice_at_most).sum()
    }
}
