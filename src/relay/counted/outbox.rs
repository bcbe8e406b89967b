//! The outbox port, counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::tally::Tally;
use crate::error::Result;
use crate::id::{BarrierId, Epoch, ShardIndex};
use crate::outbox::{Backlog, Batch, Delivered, Installation, Outbox, OutboxSource, Pruned, ShardRow};
use crate::protocol::position::Position;
use crate::protocol::progress::DatabaseIdentity;

/// An outbox's source that is counted, with all that it opens.
pub struct CountedSource {
    inner: Arc<dyn OutboxSource>,
    tally: Arc<Tally>,
}

impl CountedSource {
    /// Passes everything on to `inner`, and counts it in `tally`.
    pub fn new(inner: Arc<dyn OutboxSource>, tally: Arc<Tally>) -> Self {
        CountedSource { inner, tally }
    }
}

#[async_trait]
impl OutboxSource for CountedSource {
    async fn connect(&self) -> Result<Box<dyn Outbox>> {
        let inner = self.tally.outbox.call("connect", self.inner.connect()).await?;
        Ok(Box::new(CountedOutbox { inner, tally: Arc::clone(&self.tally) }))
    }

    async fn init(&self, wanted: &Installation) -> Result<Installation> {
        self.inner.init(wanted).await
    }

    async fn found(&self) -> Result<Option<Installation>> {
        self.tally.outbox.call("open outbox", self.inner.found()).await
    }
}

struct CountedOutbox {
    inner: Box<dyn Outbox>,
    tally: Arc<Tally>,
}

#[async_trait]
impl Outbox for CountedOutbox {
    async fn identity(&mut self) -> Result<DatabaseIdentity> {
        self.tally.outbox.call("read identity", self.inner.identity()).await
    }

    async fn installation(&mut self) -> Result<Installation> {
        self.tally.outbox.call("read installation", self.inner.installation()).await
    }

    async fn shard(&mut self, shard: ShardIndex) -> Result<ShardRow> {
        self.tally.outbox.call("read shard", self.inner.shard(shard)).await
    }

    async fn claim(&mut self, shard: ShardIndex, epoch: Epoch) -> Result<()> {
        self.tally.outbox.call("claim shard", self.inner.claim(shard, epoch)).await
    }

    async fn note_birth(&mut self, shard: ShardIndex, epoch: Epoch) -> Result<()> {
        self.tally.outbox.call("note birth", self.inner.note_birth(shard, epoch)).await
    }

    async fn note_error(&mut self, shard: ShardIndex, epoch: Epoch, error: Option<&str>) -> Result<()> {
        self.tally.outbox.call("note error", self.inner.note_error(shard, epoch, error)).await
    }

    async fn has_barrier(&mut self, shard: ShardIndex, barrier: BarrierId) -> Result<bool> {
        self.tally.outbox.call("read barrier", self.inner.has_barrier(shard, barrier)).await
    }

    fn origin(&self) -> Position {
        self.inner.origin()
    }

    fn add(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        position: &Position,
        barrier: Option<BarrierId>,
    ) -> Result<()> {
        self.inner.add(shard, epoch, position, barrier)
    }

    fn remove(&mut self, shard: ShardIndex) {
        self.inner.remove(shard);
    }

    async fn read(&mut self) -> Result<Batch> {
        self.tally.outbox.call("read outbox", self.inner.read()).await
    }

    async fn prune(&mut self, delivered: &[Delivered], limit: u32) -> Result<Pruned> {
        // Not noted as under way: over millions of rows that wait it takes as many steps as it takes,
        // and would be called stuck.
        let pruned = self.inner.prune(delivered, limit).await;
        self.tally.outbox.note(&pruned);
        let pruned = pruned?;
        self.tally.pruned_messages.fetch_add(pruned.messages, Ordering::Relaxed);
        Ok(pruned)
    }

    async fn backlog(&mut self, shard: ShardIndex, position: &Position) -> Result<Backlog> {
        self.tally.outbox.call("count backlog", self.inner.backlog(shard, position)).await
    }
}
