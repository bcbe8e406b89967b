//! Writes one shard's messages into the delivery: each transaction holds messages and the progress
//! behind them, and is committed only once the barrier that the progress names is durable, and
//! everything that it passes over without delivering is recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::asides::Asides;
use super::committed::Committed;
use super::take::Taken;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{BarrierId, MessageId, ShardIndex};
use crate::message::StoredMessage;
use crate::outbox::{Barrier, Delivered, Voucher};
use crate::protocol::position::Position;
use crate::protocol::progress::Progress;
use crate::protocol::sieve::{Aside, Fate};
use crate::protocol::vouching::{Vouching, choose};

/// How long the barrier's small commit may take.
const BARRIER_LIMIT: Duration = Duration::from_secs(8);
/// How long an abort may take: it only saves consumers from waiting for the broker to do it.
const ABORT_LIMIT: Duration = Duration::from_secs(5);

/// What a transaction ends with.
#[derive(Default)]
pub(super) struct End {
    /// Where the shard stands behind it; None where it stays.
    pub(super) position: Option<Position>,
    /// Those of the windows that its messages come from.
    pub(super) barriers: Vec<Barrier>,
    /// Messages that were set aside, and are delivered in it or discarded.
    pub(super) cleared: Vec<MessageId>,
}

impl End {
    /// A barrier of a window that the transaction's messages come from, in the windows' order.
    pub(super) fn add_barrier(&mut self, barrier: &Barrier) {
        if self.barriers.last().is_none_or(|last| last.id != barrier.id) {
            self.barriers.push(barrier.clone());
        }
    }

    /// The last window's barrier.
    fn voucher(&self) -> Option<Voucher> {
        let last = self.barriers.last()?;
        Some(Voucher { id: last.id?, number: last.number })
    }
}

/// Messages on their way into one transaction.
#[derive(Default)]
pub(super) struct Sent {
    /// Those that go into it.
    pub(super) messages: u64,
    /// Which those are, of messages that were set aside before.
    pub(super) again: Vec<MessageId>,
    /// Those that it passes over, to be recorded first.
    pub(super) asides: Vec<Aside>,
}

/// One shard's writer.
pub(super) struct ShardWriter {
    pub(super) taken: Taken,
    pub(super) asides: Asides,
    committed: Arc<Committed>,
    runtime: Handle,
    /// Set at each commit: the shard delivers, whatever kept it before.
    delivers: Arc<AtomicBool>,
    /// What the last progress named, or a barrier that was committed with a record since.
    voucher: Option<Voucher>,
    /// The window's barrier that was last waited for: it was durable before any younger voucher.
    waited_for: Option<BarrierId>,
}

impl ShardWriter {
    pub(super) fn new(
        taken: Taken,
        voucher: Option<Voucher>,
        asides: Asides,
        committed: Arc<Committed>,
        delivers: Arc<AtomicBool>,
        runtime: Handle,
    ) -> Self {
        ShardWriter { taken, asides, committed, runtime, delivers, voucher, waited_for: None }
    }

    pub(super) fn shard(&self) -> ShardIndex {
        self.taken.shard
    }

    pub(super) fn begin(&mut self) -> Result<()> {
        self.taken.delivery.begin()
    }

    /// Gives up the open transaction, in which a message failed, and begins anew. Fails with `Fenced`
    /// where another relay has taken over: before it would be fenced by this, and again behind that.
    pub(super) fn renew(&mut self) -> Result<()> {
        failpoint!("relay.renew.before")?;
        self.asides.check_epoch()?;
        let found = self.taken.delivery.renew()?;
        if found.as_ref() == Some(&self.taken.progress) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Fenced, "begin anew", "another relay has delivered meanwhile"))
    }

    /// Gives the open transaction up, as far as that is possible.
    pub(super) fn abort(&mut self) {
        let _ = self.taken.delivery.abort(ABORT_LIMIT);
    }

    /// Sends messages in their order, except those that are passed over. A message that turns out
    /// not to be deliverable is passed over from then on, with those behind it.
    pub(super) fn send(&mut self, messages: &[StoredMessage], again: bool, sent: &mut Sent) -> Result<()> {
        let mut rest = messages;
        while let Some(first) = rest.first() {
            match self.asides.fate(first, again) {
                Fate::Recorded => rest = &rest[1..],
                Fate::SetAside(aside) => {
                    sent.asides.push(aside);
                    rest = &rest[1..];
                }
                Fate::Deliver => {
                    let open = self.asides.is_open();
                    let delivered =
                        |message: &&StoredMessage| open || self.asides.fate(message, again) == Fate::Deliver;
                    let run = rest.iter().take_while(delivered).count();
                    let fault = self.taken.delivery.send(&rest[..run])?;
                    let taken = fault.as_ref().map_or(run, |(index, _)| *index);
                    sent.messages += taken as u64;
                    if again {
                        sent.again.extend(rest[..taken].iter().map(|stored| stored.message_id));
                    }
                    rest = &rest[taken..];
                    if let Some((_, fault)) = fault {
                        self.asides.fault(&rest[0], fault)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Commits what was sent, with the progress behind it. What it passes over is recorded first, and
    /// behind the windows' barriers: the barrier committed with the record would otherwise vouch for
    /// a window whose rows a crash or a failover can still take back.
    pub(super) fn commit(&mut self, end: &End, sent: &Sent) -> Result<()> {
        failpoint!("relay.batch.sent")?;
        let known = match self.vouching(end, sent) {
            Vouching::Window => Some(end.voucher()),
            Vouching::Voucher => Some(self.voucher),
            Vouching::Fresh => None,
        };
        // Sent while the barriers become durable; it counts for nothing before the commit.
        let early = known.map(|voucher| self.seal(end, voucher)).transpose()?;
        for barrier in &end.barriers {
            self.wait_for(barrier)?;
        }
        let voucher = match known {
            Some(voucher) => voucher,
            None => Some(self.asides.record(&sent.asides)?),
        };
        // Whatever fails from here on: what is recorded is passed over from now on, and only a progress that
        // names this barrier, or a younger one, may do that.
        self.voucher = voucher;
        self.waited_for = end.barriers.last().and_then(|last| last.id).or(self.waited_for);
        let progress = early.map_or_else(|| self.seal(end, voucher), Ok)?;
        let began = Instant::now();
        self.taken.delivery.commit()?;
        let (shard, epoch, barrier) = (self.taken.shard, self.taken.epoch, progress.barrier());
        tracing::debug!(%shard, messages = sent.messages, took = ?began.elapsed(), "committed");
        self.committed.note(Delivered { shard, epoch, position: progress.position.clone(), barrier });
        self.committed.unpruned.add(sent.messages);
        self.delivers.store(true, Ordering::Relaxed);
        self.taken.progress = progress;
        failpoint!("relay.batch.committed")
    }

    /// Sends the progress that the open transaction ends with.
    fn seal(&mut self, end: &End, voucher: Option<Voucher>) -> Result<Progress> {
        let taken = &mut self.taken;
        let progress = Progress {
            epoch: taken.epoch.0,
            shards: taken.progress.shards,
            hash: taken.progress.hash,
            database: taken.database.clone(),
            position: end.position.clone().unwrap_or_else(|| taken.progress.position.clone()),
            barrier: voucher.map(|voucher| voucher.id.0),
            cleared: end.cleared.iter().map(|id| id.0).collect(),
        };
        taken.delivery.seal(&progress)?;
        Ok(progress)
    }

    /// From now on the progress names this barrier, or a younger one.
    pub(super) fn vouched(&mut self, voucher: Voucher) {
        self.voucher = Some(voucher);
    }

    /// Which barrier the progress names.
    fn vouching(&self, end: &End, sent: &Sent) -> Vouching {
        if !sent.asides.is_empty() || self.asides.has_unrecorded() {
            return Vouching::Fresh;
        }
        let Some(window) = end.voucher() else { return Vouching::Voucher };
        let position = end.position.as_ref().unwrap_or(&self.taken.progress.position);
        let voucher = self.voucher.map(|kept| kept.number);
        choose(voucher, window.number, position, self.waited_for == Some(window.id))
    }

    fn wait_for(&self, barrier: &Barrier) -> Result<()> {
        let durable =
            self.runtime.block_on(async { tokio::time::timeout(BARRIER_LIMIT, barrier.wait()).await });
        durable.unwrap_or_else(|_| {
            let why = "the barrier's commit did not end in time";
            Err(Error::new(ErrorKind::Unreachable, "commit barrier", why))
        })
    }
}
