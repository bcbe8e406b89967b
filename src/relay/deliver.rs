//! The deliverer of one shard, on a thread of its own: the delivery's calls block. It gathers what the
//! reader brings into batches, each a transaction of the delivery, and works off between them what is
//! due of the messages that were set aside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::asides::Look;
use super::careful::{self, PartSize};
use super::keeper::Seen;
use super::read::{Flow, Queued};
use super::settings::RelaySettings;
use super::writer::{End, Sent, ShardWriter};
use crate::config::Followed;
use crate::delivery::Blame;
use crate::error::{ErrorKind, Result};
use crate::failpoint;
use crate::message::StoredMessage;
use crate::outbox::Due;

/// A batch is begun and committed within this, as long as the delivery itself does not wait.
const BATCH_LIMIT: Duration = Duration::from_millis(500);
/// While a backlog drains, a batch waits for more until it is this old: a Kafka transaction of a
/// few hundred messages costs as much as one of thousands.
const FILL_LIMIT: Duration = Duration::from_millis(100);
/// How often it looks meanwhile whether the reader waits for it.
const FILL_LOOK: Duration = Duration::from_millis(5);
/// How often a paused deliverer looks whether its lease is fresh again.
const PAUSE: Duration = Duration::from_millis(20);

/// What a deliverer works with.
pub(super) struct Deliverer {
    pub(super) writer: ShardWriter,
    pub(super) chunks: mpsc::Receiver<Queued>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) lease: watch::Receiver<Seen>,
    pub(super) flow: Arc<Flow>,
    pub(super) settings: Followed<RelaySettings>,
    pub(super) runtime: Handle,
    pub(super) part_size: PartSize,
    pub(super) has_looked: bool,
}

enum Next {
    Chunk(Queued),
    /// It is time to look at what is set aside.
    Look,
    End,
}

impl Deliverer {
    /// Delivers until it is stopped or fails. A batch that was begun is finished first.
    pub(super) fn run(mut self) -> Result<()> {
        loop {
            let next = self.next();
            if matches!(next, Next::End) || !self.wait_for_lease() {
                return Ok(());
            }
            let goes_on = match next {
                Next::Chunk(first) => self.batch(first).map(|()| true),
                _ => {
                    self.has_looked = true;
                    self.work_off()
                }
            };
            match goes_on {
                Ok(true) if !self.stop.load(Ordering::SeqCst) => {}
                Ok(_) => return Ok(()),
                Err(error) => {
                    // An unknown commit must never be followed by an abort, and a fenced producer has
                    // nothing left to abort.
                    if !matches!(error.kind(), ErrorKind::Unclear | ErrorKind::Fenced) {
                        self.writer.abort();
                    }
                    return Err(error.with("shard", self.writer.shard()));
                }
            }
        }
    }

    /// What waits takes turns with what is due of what was set aside.
    fn next(&mut self) -> Next {
        if std::mem::take(&mut self.has_looked)
            && let Ok(queued) = self.chunks.try_recv()
        {
            return Next::Chunk(queued);
        }
        let Some(look_at) = self.writer.asides.next_look() else {
            return self.chunks.blocking_recv().map_or(Next::End, Next::Chunk);
        };
        let left = look_at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Next::Look;
        }
        let chunks = &mut self.chunks;
        let received = self.runtime.block_on(async { tokio::time::timeout(left, chunks.recv()).await });
        match received {
            Ok(received) => received.map_or(Next::End, Next::Chunk),
            Err(_) => Next::Look,
        }
    }

    /// Waits until the lease is fresh; false when stopped meanwhile. A relay that can't show that
    /// it lives begins no batch: it would only be fenced.
    fn wait_for_lease(&self) -> bool {
        while !self.stop.load(Ordering::SeqCst) {
            if self.lease.borrow().is_fresh() {
                return true;
            }
            std::thread::sleep(PAUSE);
        }
        false
    }

    fn batch(&mut self, first: Queued) -> Result<()> {
        // Kept until they are committed: they take that room, and may have to be sent once more.
        let mut load: Vec<Queued> = Vec::new();
        self.writer.begin()?;
        if let Err(error) = self.at_once(first, &mut load) {
            match careful::blame(&self.writer, &error) {
                Blame::Nobody => return Err(error),
                Blame::Somebody { .. } => self.writer.renew()?,
                Blame::These(faults) => {
                    self.writer.renew()?;
                    let messages: Vec<StoredMessage> =
                        load.iter().flat_map(|queued| queued.chunk.messages.iter().cloned()).collect();
                    careful::accuse(&mut self.writer, &messages, faults, error)?;
                }
            }
            // Chunk by chunk: what is in order does not have to be sent with what is not.
            for queued in &load {
                let mut end = End { position: Some(queued.chunk.position.clone()), ..End::default() };
                end.add_barrier(&queued.chunk.barrier);
                careful::deliver(
                    &mut self.writer,
                    &mut self.part_size,
                    &queued.chunk.messages,
                    &mut end,
                    false,
                )?;
                self.writer.asides.passed(&queued.chunk.messages);
            }
            return Ok(());
        }
        self.writer.asides.passed(load.iter().flat_map(|queued| &queued.chunk.messages));
        Ok(())
    }

    /// Gathers a batch, sends it as it comes, and commits it.
    fn at_once(&mut self, first: Queued, load: &mut Vec<Queued>) -> Result<()> {
        let began = Instant::now();
        let (mut messages, mut bytes) = (0, 0);
        let (mut end, mut sent) = (End::default(), Sent::default());
        let mut next = Some(first);
        while let Some(queued) = next.take() {
            messages += queued.chunk.messages.len();
            bytes += queued.bytes;
            end.add_barrier(&queued.chunk.barrier);
            end.position = Some(queued.chunk.position.clone());
            load.push(queued);
            let chunk = &load[load.len() - 1].chunk;
            self.writer.send(&chunk.messages, false, &mut sent)?;
            let (most, most_bytes) = {
                let settings = self.settings.now();
                (settings.batch_messages, settings.batch_bytes)
            };
            let full = messages >= most || bytes >= most_bytes || began.elapsed() >= BATCH_LIMIT;
            if !full {
                next = self.next_chunk(began);
            }
        }
        self.writer.commit(&end, &sent)
    }

    /// The next chunk of a batch that is not full: what waits already, or what the reader is about
    /// to bring.
    fn next_chunk(&mut self, began: Instant) -> Option<Queued> {
        loop {
            if let Ok(queued) = self.chunks.try_recv() {
                return Some(queued);
            }
            let waits = self.flow.brings_more() && began.elapsed() < FILL_LIMIT;
            if !waits || self.stop.load(Ordering::SeqCst) {
                return None;
            }
            let chunks = &mut self.chunks;
            let received =
                self.runtime.block_on(async { tokio::time::timeout(FILL_LOOK, chunks.recv()).await });
            if let Ok(received) = received {
                return received;
            }
        }
    }

    /// Looks whether anything is due of what is set aside, and delivers or discards it. False where
    /// the shard has to be begun anew.
    fn work_off(&mut self) -> Result<bool> {
        match self.writer.asides.look(&mut *self.writer.taken.delivery)? {
            Look::Nothing => Ok(true),
            Look::BeginAnew => Ok(false),
            Look::Due(due) => self.work_off_these(&due).map(|()| true),
        }
    }

    /// Once the transaction is committed the records are removed. Until they are, the progress names
    /// the messages, so that they are not delivered again whatever dies.
    fn work_off_these(&mut self, due: &[Due]) -> Result<()> {
        let messages: Vec<StoredMessage> = due.iter().filter_map(|due| due.message.clone()).collect();
        let gone = due.iter().filter(|due| due.message.is_none()).map(|due| due.message_id);
        let mut end = End { cleared: gone.collect(), ..End::default() };
        let sent = match due.is_empty() {
            true => Sent::default(),
            false => careful::deliver(&mut self.writer, &mut self.part_size, &messages, &mut end, true)?,
        };
        failpoint!("relay.aside.committed")?;
        if let Some(voucher) = self.writer.asides.clear(due, &end.cleared)? {
            self.writer.vouched(voucher);
        }
        if !sent.asides.is_empty() || self.writer.asides.has_unrecorded() {
            let voucher = self.writer.asides.judge_again(due, &sent.asides)?;
            self.writer.vouched(voucher);
        }
        let shard = self.writer.shard();
        tracing::info!(%shard, cleared = end.cleared.len(), failed = sent.asides.len(), "worked off what was set aside");
        Ok(())
    }
}
