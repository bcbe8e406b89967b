//! The deliverer of one shard, on a thread of its own: the delivery's calls block. A batch is one
//! transaction of the delivery: messages and the progress behind them. It is committed only once
//! the barrier behind its windows is durable.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::keeper::Seen;
use super::read::{Flow, Queued, Room};
use super::settings::RelaySettings;
use super::take::Taken;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{BarrierId, ShardIndex};
use crate::outbox::{Barrier, Delivered};
use crate::protocol::position::Position;
use crate::protocol::progress::Progress;

/// A batch is begun and committed within this, as long as the delivery itself does not wait.
const BATCH_LIMIT: Duration = Duration::from_millis(500);
/// How long the barrier's small commit may take.
const BARRIER_LIMIT: Duration = Duration::from_secs(8);
/// While a backlog drains, a batch waits for more until it is this old: a Kafka transaction of a
/// few hundred messages costs as much as one of thousands.
const FILL_LIMIT: Duration = Duration::from_millis(100);
/// How often it looks meanwhile whether the reader waits for it.
const FILL_LOOK: Duration = Duration::from_millis(5);
/// How long an abort may take: it only saves consumers from waiting for the broker to do it.
const ABORT_LIMIT: Duration = Duration::from_secs(5);
/// How often a paused deliverer looks whether its lease is fresh again.
const PAUSE: Duration = Duration::from_millis(20);

/// What is known to be committed, by shard, for the pruner.
#[derive(Default)]
pub(super) struct Committed {
    shards: Mutex<BTreeMap<ShardIndex, Delivered>>,
    /// Messages delivered and not yet pruned, about.
    pub(super) unpruned: AtomicU64,
}

impl Committed {
    pub(super) fn note(&self, delivered: Delivered) {
        if self.lock().insert(delivered.shard, delivered).is_none() {
            // Just taken: what a former owner left unpruned is counted nowhere, and without a sign
            // it would stay until the next message.
            self.unpruned.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn forget(&self, shard: ShardIndex) {
        self.lock().remove(&shard);
    }

    pub(super) fn all(&self) -> Vec<Delivered> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ShardIndex, Delivered>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a deliverer works with.
pub(super) struct Deliverer {
    pub(super) taken: Taken,
    pub(super) chunks: mpsc::Receiver<Queued>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) lease: watch::Receiver<Seen>,
    pub(super) committed: Arc<Committed>,
    pub(super) flow: Arc<Flow>,
    pub(super) settings: RelaySettings,
    pub(super) runtime: Handle,
    /// Set at each commit: the shard delivers, whatever kept it before.
    pub(super) delivers: Arc<AtomicBool>,
}

impl Deliverer {
    /// Delivers until it is stopped or fails. A batch that was begun is finished first.
    pub(super) fn run(mut self) -> Result<()> {
        while let Some(first) = self.chunks.blocking_recv() {
            if !self.wait_for_lease() {
                return Ok(());
            }
            if let Err(error) = self.batch(first) {
                // An unknown commit must never be followed by an abort, and a fenced producer has
                // nothing left to abort.
                if !matches!(error.kind(), ErrorKind::Unclear | ErrorKind::Fenced) {
                    let _ = self.taken.delivery.abort(ABORT_LIMIT);
                }
                return Err(error.with("shard", self.taken.shard));
            }
            if self.stop.load(Ordering::SeqCst) {
                return Ok(());
            }
        }
        Ok(())
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
        let began = Instant::now();
        self.taken.delivery.begin()?;
        let (mut messages, mut bytes) = (0, 0);
        let mut barriers: Vec<Barrier> = Vec::new();
        let mut next = Some(first);
        let mut position = None;
        // The delivery has copied the messages; until they are committed they take that room.
        let mut in_flight: Vec<Room> = Vec::new();
        while let Some(Queued { chunk, bytes: chunk_bytes, room }) = next.take() {
            self.taken.delivery.send(&chunk.messages)?;
            messages += chunk.messages.len();
            bytes += chunk_bytes;
            if barriers.last().is_none_or(|last| last.id != chunk.barrier.id) {
                barriers.push(chunk.barrier);
            }
            position = Some(chunk.position);
            in_flight.push(room);
            let full = messages >= self.settings.batch_messages
                || bytes >= self.settings.batch_bytes
                || began.elapsed() >= BATCH_LIMIT;
            if !full {
                next = self.next_chunk(began);
            }
        }
        failpoint!("relay.batch.sent")?;
        for barrier in &barriers {
            self.wait_for_barrier(barrier)?;
        }
        let Some((position, barrier)) = position.zip(barriers.last()) else { return Ok(()) };
        self.commit(position, barrier.id, messages as u64)
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

    fn wait_for_barrier(&self, barrier: &Barrier) -> Result<()> {
        let durable =
            self.runtime.block_on(async { tokio::time::timeout(BARRIER_LIMIT, barrier.wait()).await });
        durable.unwrap_or_else(|_| {
            let why = "the barrier's commit did not end in time";
            Err(Error::new(ErrorKind::Unreachable, "commit barrier", why))
        })
    }

    fn commit(&mut self, position: Position, barrier: Option<BarrierId>, messages: u64) -> Result<()> {
        let taken = &mut self.taken;
        let progress = Progress {
            epoch: taken.epoch.0,
            shards: taken.progress.shards,
            hash: taken.progress.hash,
            database: taken.database.clone(),
            position: position.clone(),
            barrier: barrier.map(|barrier| barrier.0),
        };
        let began = Instant::now();
        taken.delivery.commit(&progress)?;
        tracing::debug!(shard = %taken.shard, messages, took = ?began.elapsed(), "committed");
        self.committed.note(Delivered { shard: taken.shard, epoch: taken.epoch, position, barrier });
        self.committed.unpruned.fetch_add(messages, Ordering::Relaxed);
        self.delivers.store(true, Ordering::Relaxed);
        failpoint!("relay.batch.committed")
    }
}
