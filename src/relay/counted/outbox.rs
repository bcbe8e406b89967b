//! The outbox port, counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;

use super::tally::Tally;
use crate::error::Result;
use crate::id::{BarrierId, Epoch, MessageId, ShardIndex};
use crate::message::StoredMessage;
use crate::outbox::{
    AsideCounts, Asked, Backlog, Batch, Contents, DeadLetter, Delivered, Due, HeldTopic, Installation,
    Outbox, OutboxSource, Pruned, Recorded, Request, Resumed, Selection, SetAside, ShardRow, Voucher,
};
use crate::protocol::position::Position;
use crate::protocol::progress::{DatabaseIdentity, Progress};
use crate::protocol::sieve::Aside;

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

    async fn connect_to_adopt(&self) -> Result<Box<dyn Outbox>> {
        self.inner.connect_to_adopt().await
    }

    async fn remove(&self) -> Result<()> {
        self.inner.remove().await
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

    fn hold(&mut self, above: Option<i64>) {
        self.inner.hold(above);
    }

    async fn has_proofs(&mut self, within: Duration) -> Result<bool> {
        self.inner.has_proofs(within).await
    }

    async fn backlog(&mut self, shard: ShardIndex, position: &Position) -> Result<Backlog> {
        self.tally.outbox.call("count backlog", self.inner.backlog(shard, position)).await
    }

    async fn contents(&mut self, shard: ShardIndex, progress: Option<&Progress>) -> Result<Contents> {
        self.inner.contents(shard, progress).await
    }

    async fn prepare_adoption(&mut self, claimed: &[(ShardIndex, Epoch)], anew: &[ShardIndex]) -> Result<()> {
        self.inner.prepare_adoption(claimed, anew).await
    }

    async fn note_adoption(
        &mut self,
        claimed: &[(ShardIndex, Epoch)],
        anew: &[ShardIndex],
        delivery_id: &str,
    ) -> Result<()> {
        self.inner.note_adoption(claimed, anew, delivery_id).await
    }
}

#[async_trait]
impl SetAside for CountedOutbox {
    async fn resume(&mut self, shard: ShardIndex, epoch: Epoch, progress: &Progress) -> Result<Resumed> {
        self.tally.outbox.call("resume set-aside messages", self.inner.resume(shard, epoch, progress)).await
    }

    async fn set_aside(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        asides: &[Aside],
        held: &[HeldTopic],
    ) -> Result<Recorded> {
        let recording = self.inner.set_aside(shard, epoch, asides, held);
        self.tally.outbox.call("set messages aside", recording).await
    }

    async fn asked(&mut self, shard: ShardIndex) -> Result<Asked> {
        self.tally.outbox.call("look for requests", self.inner.asked(shard)).await
    }

    async fn due(&mut self, shard: ShardIndex, held: &[String], limit: u32) -> Result<Vec<Due>> {
        self.tally.outbox.call("read due messages", self.inner.due(shard, held, limit)).await
    }

    async fn clear(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        cleared: &[MessageId],
        released: &[String],
    ) -> Result<Voucher> {
        let clearing = self.inner.clear(shard, epoch, cleared, released);
        self.tally.outbox.call("clear set-aside messages", clearing).await
    }

    async fn dead_letters(&mut self, selection: &Selection, limit: u32) -> Result<Vec<DeadLetter>> {
        self.inner.dead_letters(selection, limit).await
    }

    async fn message_set_aside(&mut self, message_id: MessageId) -> Result<Option<StoredMessage>> {
        self.inner.message_set_aside(message_id).await
    }

    async fn ask(&mut self, selection: &Selection, request: Request) -> Result<u64> {
        self.inner.ask(selection, request).await
    }

    async fn declare_topic(&mut self, topic: &str, dead: bool) -> Result<bool> {
        self.inner.declare_topic(topic, dead).await
    }

    async fn count_set_aside(&mut self, shard: ShardIndex) -> Result<AsideCounts> {
        self.tally.outbox.call("count dead letters", self.inner.count_set_aside(shard)).await
    }
}
