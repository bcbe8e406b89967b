//! The delivery port, counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::tally::Tally;
use crate::delivery::{Blame, Delivery, Fault, ShardDelivery};
use crate::error::Result;
use crate::id::{Epoch, ShardIndex};
use crate::message::StoredMessage;
use crate::protocol::position::Position;
use crate::protocol::progress::Progress;

/// A delivery that is counted.
pub struct CountedDelivery {
    inner: Arc<dyn Delivery>,
    tally: Arc<Tally>,
}

impl CountedDelivery {
    /// Passes everything on to `inner`, and counts it in `tally`.
    pub fn new(inner: Arc<dyn Delivery>, tally: Arc<Tally>) -> Self {
        CountedDelivery { inner, tally }
    }
}

impl Delivery for CountedDelivery {
    fn id(&self) -> Result<String> {
        self.tally.delivery.block("ask for the delivery's id", || self.inner.id())
    }

    fn is_there(&self) -> Result<bool> {
        self.inner.is_there()
    }

    fn remove(&self) -> Result<()> {
        self.inner.remove()
    }

    fn init(&self) -> Result<()> {
        self.inner.init()
    }

    fn check(&self) -> Result<()> {
        self.tally.delivery.block("check topic", || self.inner.check())
    }

    fn create_topic(&self, topic: &str, partitions: Option<u32>) -> Result<bool> {
        self.inner.create_topic(topic, partitions)
    }

    fn peek(&self, shard: ShardIndex) -> Result<Option<Progress>> {
        self.tally.delivery.block("read progress", || self.inner.peek(shard))
    }

    fn peek_settled(&self, shard: ShardIndex) -> Result<Option<Progress>> {
        self.tally.delivery.block("read progress", || self.inner.peek_settled(shard))
    }

    fn open(&self, shard: ShardIndex, epoch: Epoch) -> Result<Box<dyn ShardDelivery>> {
        let inner = self.tally.delivery.block("open shard", || self.inner.open(shard, epoch))?;
        let tally = Arc::clone(&self.tally);
        Ok(Box::new(CountedShard { inner, tally, shard, batch: None, sealed: None }))
    }
}

struct CountedShard {
    inner: Box<dyn ShardDelivery>,
    tally: Arc<Tally>,
    shard: ShardIndex,
    /// Messages and bytes of the batch that is begun.
    batch: Option<(u64, u64)>,
    /// Where the shard stands behind that batch.
    sealed: Option<Position>,
}

impl CountedShard {
    /// Runs a step of a batch; with its failure the batch has failed.
    fn step<T>(
        &mut self,
        operation: &'static str,
        step: impl FnOnce(&mut dyn ShardDelivery) -> Result<T>,
    ) -> Result<T> {
        let (tally, inner) = (Arc::clone(&self.tally), &mut *self.inner);
        let done = tally.delivery.block(operation, || step(inner));
        if done.is_err() {
            self.batch_failed();
        }
        done
    }

    fn batch_failed(&mut self) {
        if let (Some(_), Some(shard)) = (self.batch.take(), self.tally.shard(self.shard)) {
            shard.failed_commits.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl ShardDelivery for CountedShard {
    fn progress(&mut self) -> Result<Option<Progress>> {
        let inner = &mut self.inner;
        let found = self.tally.delivery.block("read progress", || inner.progress())?;
        if let (Some(shard), Some(progress)) = (self.tally.shard(self.shard), &found) {
            shard.note_position(progress.position.clone());
        }
        Ok(found)
    }

    fn begin(&mut self) -> Result<()> {
        self.batch = Some((0, 0));
        self.step("begin batch", |inner| inner.begin())
    }

    fn send(&mut self, messages: &[StoredMessage]) -> Result<Option<(usize, Fault)>> {
        let fault = self.step("send messages", |inner| inner.send(messages))?;
        let sent = fault.as_ref().map_or(messages, |(index, _)| &messages[..*index]);
        if let Some((count, bytes)) = &mut self.batch {
            *count += sent.len() as u64;
            *bytes += sent.iter().map(|stored| stored.message.size() as u64).sum::<u64>();
        }
        Ok(fault)
    }

    fn flush(&mut self) -> Result<()> {
        self.step("send messages", |inner| inner.flush())
    }

    fn blame(&self) -> Blame {
        self.inner.blame()
    }

    fn topic_fault(&mut self, topic: &str) -> Result<Option<Fault>> {
        let inner = &mut self.inner;
        self.tally.delivery.block("look up topic", || inner.topic_fault(topic))
    }

    fn seal(&mut self, progress: &Progress) -> Result<()> {
        self.sealed = Some(progress.position.clone());
        self.step("send progress", |inner| inner.seal(progress))
    }

    fn commit(&mut self) -> Result<()> {
        let began = Instant::now();
        self.step("commit batch", |inner| inner.commit())?;
        let (messages, bytes) = self.batch.take().unwrap_or_default();
        if let Some(shard) = self.tally.shard(self.shard) {
            shard.note_committed(messages, bytes, began.elapsed());
            if let Some(position) = self.sealed.take() {
                shard.note_position(position);
            }
        }
        Ok(())
    }

    fn renew(&mut self) -> Result<Option<Progress>> {
        self.batch_failed();
        let inner = &mut self.inner;
        self.tally.delivery.block("begin anew", || inner.renew())
    }

    fn abort(&mut self, limit: Duration) -> Result<()> {
        self.batch_failed();
        let inner = &mut self.inner;
        self.tally.delivery.block("abort batch", || inner.abort(limit))
    }
}
