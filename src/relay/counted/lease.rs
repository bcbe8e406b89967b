//! The lease port, counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::tally::Tally;
use crate::error::Result;
use crate::id::{Epoch, RelayId, ShardIndex};
use crate::lease::{Lease, LeaseView};

/// Leases that are counted.
pub struct CountedLease {
    inner: Box<dyn Lease>,
    tally: Arc<Tally>,
    relay: RelayId,
}

impl CountedLease {
    /// Passes everything on to `inner`, the leases of `relay`, and counts it in `tally`.
    pub fn new(inner: Box<dyn Lease>, tally: Arc<Tally>, relay: RelayId) -> Self {
        CountedLease { inner, tally, relay }
    }

    fn note_view(&self, view: &LeaseView) {
        self.tally.live_relays.store(view.live.len() as u64, Ordering::Relaxed);
        for (shard, owner) in &view.owners {
            if let Some(shard) = self.tally.shard(*shard) {
                shard.note_owned(*owner == Some(self.relay));
            }
        }
    }
}

#[async_trait]
impl Lease for CountedLease {
    async fn renew(&mut self) -> Result<LeaseView> {
        let began = Instant::now();
        let view = self.tally.leases.call("renew lease", self.inner.renew()).await?;
        self.tally.note_renewal(began, self.inner.timeout());
        self.note_view(&view);
        Ok(view)
    }

    async fn look(&mut self) -> Result<LeaseView> {
        self.tally.leases.call("look at leases", self.inner.look()).await
    }

    async fn take(&mut self, shard: ShardIndex, above: Epoch) -> Result<Option<Epoch>> {
        let taken = self.tally.leases.call("take shard", self.inner.take(shard, above)).await?;
        if let (Some(epoch), Some(tally)) = (taken, self.tally.shard(shard)) {
            tally.note_epoch(epoch);
        }
        Ok(taken)
    }

    async fn release(&mut self, shard: ShardIndex) -> Result<()> {
        self.tally.leases.call("release shard", self.inner.release(shard)).await
    }

    async fn leave(&mut self) -> Result<()> {
        self.tally.note_left();
        self.tally.leases.call("leave relays", self.inner.leave()).await
    }

    fn timeout(&self) -> Duration {
        self.inner.timeout()
    }
}
