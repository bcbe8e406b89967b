//! The one reader of a relay: reads for all its shards over one connection, and hands chunks to
//! their deliverers. Memory is bounded by bytes over all shards together: a read begins only when
//! what it may return has room. [`Flow`] tells the others how it goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::committed::Committed;
use super::settings::RelaySettings;
use crate::config::Followed;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BarrierId, Epoch, ShardIndex};
use crate::message::StoredMessage;
use crate::outbox::{Batch, Chunk, Outbox, READ_BYTES};
use crate::protocol::position::Position;

/// The buffer is counted in units of this many bytes.
const UNIT_BYTES: usize = 1024;
/// What a message takes in memory beside its contents: here, then in the delivery's own queue.
const MESSAGE_OVERHEAD_BYTES: usize = size_of::<StoredMessage>() + 64;
/// Chunks that may wait for one deliverer; bytes are the bound that is met first.
pub(super) const CHUNKS: usize = 4096;
/// After the last message, polls stay frequent for this long.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// A chunk on its way to a deliverer, with the room it takes.
pub(super) struct Queued {
    pub(super) chunk: Chunk,
    pub(super) bytes: usize,
    pub(super) _room: Room,
}

/// Room in the buffer; dropping it gives it back.
pub(super) struct Room {
    _permit: Option<OwnedSemaphorePermit>,
}

/// How reading goes, for those who work behind the reader.
#[derive(Default)]
pub(super) struct Flow {
    draining: AtomicBool,
    crowded: AtomicBool,
    waiting: AtomicU64,
    largest: AtomicU64,
}

impl Flow {
    /// Whether a backlog drains.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// How many messages of it are still to be read.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The most messages that waited since it began to.
    pub(super) fn largest_backlog(&self) -> u64 {
        self.largest.load(Ordering::Relaxed)
    }

    pub(super) fn note(&self, batch: &Batch) {
        // First, so that nobody takes what waits for more than there ever was.
        match batch.backlog {
            true => self.largest.fetch_max(batch.waiting, Ordering::Relaxed),
            false => self.largest.swap(0, Ordering::Relaxed),
        };
        self.draining.store(batch.backlog, Ordering::Relaxed);
        self.waiting.store(batch.waiting, Ordering::Relaxed);
    }

    /// Whether more messages are on their way, so that a batch that is not full may wait for them.
    /// They are not while the reader itself waits for the room that such batches take.
    pub(super) fn brings_more(&self) -> bool {
        self.is_draining() && !self.crowded.load(Ordering::Relaxed)
    }
}

/// What the supervisor tells the reader.
pub(super) enum Command {
    /// All that begin together: added one by one, a read may begin between them, and each of them would
    /// have the whole backlog read once more.
    Add(Vec<Begin>),
    Remove(ShardIndex),
}

/// A shard that was taken, and where it begins.
pub(super) struct Begin {
    pub(super) shard: ShardIndex,
    pub(super) epoch: Epoch,
    pub(super) position: Position,
    pub(super) barrier: Option<BarrierId>,
    pub(super) chunks: mpsc::Sender<Queued>,
}

/// A reader and the deliverers it serves.
pub(super) struct Reader {
    pub(super) outbox: Box<dyn Outbox>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) settings: Followed<RelaySettings>,
    pub(super) flow: Arc<Flow>,
    pub(super) committed: Arc<Committed>,
}

impl Reader {
    /// Reads until an error, or until the supervisor is gone.
    pub(super) async fn run(mut self) -> Result<()> {
        let units = self.settings.now().buffer_bytes.max(READ_BYTES) / UNIT_BYTES;
        let next = NextRead {
            room: Arc::new(Semaphore::new(units)),
            units: u32::try_from(READ_BYTES / UNIT_BYTES).unwrap_or(u32::MAX),
            flow: Arc::clone(&self.flow),
            committed: Arc::clone(&self.committed),
        };
        let mut deliverers: BTreeMap<ShardIndex, mpsc::Sender<Queued>> = BTreeMap::new();
        let mut last_message = Instant::now();
        let mut wait = Duration::ZERO;
        loop {
            let reserved = tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    None => return Ok(()),
                    Some(command) => {
                        self.obey(command, &mut deliverers)?;
                        continue;
                    }
                },
                reserved = next.room(wait), if !deliverers.is_empty() => reserved?,
            };
            let batch = self.outbox.read().await?;
            self.flow.note(&batch);
            // Before anything of it can be delivered, and then pruned.
            self.committed.proofs.read(&batch.chunks, Instant::now());
            let idle = batch.chunks.is_empty();
            if !idle {
                last_message = Instant::now();
            }
            wait = match (batch.more, last_message.elapsed() < BUSY_FOR) {
                (true, _) => Duration::ZERO,
                (false, true) => self.settings.now().poll_busy,
                (false, false) => self.settings.now().poll_idle,
            };
            hand_out(batch.chunks, reserved, &deliverers).await;
        }
    }

    fn obey(
        &mut self,
        command: Command,
        deliverers: &mut BTreeMap<ShardIndex, mpsc::Sender<Queued>>,
    ) -> Result<()> {
        match command {
            Command::Add(all) => {
                for Begin { shard, epoch, position, barrier, chunks } in all {
                    self.outbox.add(shard, epoch, &position, barrier)?;
                    deliverers.insert(shard, chunks);
                }
            }
            Command::Remove(shard) => {
                self.outbox.remove(shard);
                deliverers.remove(&shard);
            }
        }
        Ok(())
    }
}

/// What the next read waits for.
struct NextRead {
    room: Arc<Semaphore>,
    /// The room that one read may take.
    units: u32,
    flow: Arc<Flow>,
    committed: Arc<Committed>,
}

impl NextRead {
    /// Waits for `wait`, then until the read has room.
    async fn room(&self, wait: Duration) -> Result<OwnedSemaphorePermit> {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if self.flow.is_draining() {
            self.committed.unpruned.make_way().await;
        }
        let immediate = Arc::clone(&self.room).try_acquire_many_owned(self.units);
        self.flow.crowded.store(immediate.is_err(), Ordering::Relaxed);
        if let Ok(reserved) = immediate {
            return Ok(reserved);
        }
        let closed = |_| Error::new(ErrorKind::Failed, "read outbox", "the relay's buffer is closed");
        let reserved = Arc::clone(&self.room).acquire_many_owned(self.units).await.map_err(closed);
        self.flow.crowded.store(false, Ordering::Relaxed);
        reserved
    }
}

/// Each chunk keeps what it takes of the reserved room; the rest is free again at once.
async fn hand_out(
    chunks: Vec<Chunk>,
    mut reserved: OwnedSemaphorePermit,
    deliverers: &BTreeMap<ShardIndex, mpsc::Sender<Queued>>,
) {
    for chunk in chunks {
        let bytes: usize =
            chunk.messages.iter().map(|stored| stored.message.size() + MESSAGE_OVERHEAD_BYTES).sum();
        let units = bytes.div_ceil(UNIT_BYTES).min(reserved.num_permits());
        let room = Room { _permit: reserved.split(units) };
        if let Some(deliverer) = deliverers.get(&chunk.shard) {
            // A deliverer that ended is told to the supervisor by itself; its chunks are read
            // again by whoever takes the shard next.
            let _ = deliverer.send(Queued { chunk, bytes, _room: room }).await;
        }
    }
}
