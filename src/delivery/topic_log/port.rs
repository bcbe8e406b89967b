//! The delivery port on a topic log.

use std::path::PathBuf;

use super::append::TopicLogShard;
use super::file;
use crate::delivery::{Delivery, DeliveryScope, ShardDelivery};
use crate::error::Result;
use crate::failpoint;
use crate::id::{Epoch, ShardIndex};
use crate::protocol::progress::Progress;
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{begin, commit};

/// One participant's delivery to a topic log.
pub struct TopicLogDelivery {
    path: PathBuf,
    scope: DeliveryScope,
}

impl TopicLogDelivery {
    /// Delivers to the file `path`, which `init` makes, with its directory.
    pub fn new(path: impl Into<PathBuf>, scope: DeliveryScope) -> Self {
        TopicLogDelivery { path: path.into(), scope }
    }
}

impl Delivery for TopicLogDelivery {
    fn id(&self) -> Result<String> {
        file::id(&file::open_existing(&self.path)?, &self.path)
    }

    fn is_there(&self) -> Result<bool> {
        Ok(self.path.exists())
    }

    /// The file stays: it holds the messages, and other participants' progress.
    fn remove(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let mut connection = file::open_existing(&self.path)?;
        let transaction = begin(&mut connection, "remove progress")?;
        for shard in (0..self.scope.shards).map(ShardIndex) {
            let name = self.scope.transactional_id(shard);
            let removed = transaction.execute("delete from deliverer where name = ?1", [name]);
            removed.map_err(|error| from_sqlite("remove progress", error))?;
        }
        failpoint!("topic_log.remove.before_commit")?;
        commit(transaction, "remove progress")?;
        failpoint!("topic_log.remove.after_commit")
    }

    fn init(&self) -> Result<()> {
        file::open_or_make(&self.path).map(drop)
    }

    /// Topics appear with their first message too. They have no fixed number of partitions.
    fn check(&self) -> Result<()> {
        // The file has no settings of its own.
        Ok(())
    }

    fn create_topic(&self, topic: &str, _partitions: Option<u32>) -> Result<bool> {
        let mut connection = file::open_or_make(&self.path)?;
        let transaction = begin(&mut connection, "create topic")?;
        let made = transaction.execute("insert or ignore into topic (name) values (?1)", [topic]);
        let made = made.map_err(|error| from_sqlite("create topic", error).with("topic", topic))?;
        failpoint!("topic_log.create_topic.before_commit")?;
        commit(transaction, "create topic")?;
        failpoint!("topic_log.create_topic.after_commit")?;
        Ok(made == 1)
    }

    fn peek(&self, shard: ShardIndex) -> Result<Option<Progress>> {
        file::progress(&file::open_existing(&self.path)?, &self.scope.transactional_id(shard))
    }

    fn open(&self, shard: ShardIndex, epoch: Epoch) -> Result<Box<dyn ShardDelivery>> {
        let name = self.scope.transactional_id(shard);
        let taken = TopicLogShard::take(&self.path, name, epoch);
        Ok(Box::new(taken.map_err(|error| error.with("shard", shard).with("file", self.path.display()))?))
    }
}
