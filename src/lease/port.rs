//! What a relay needs of the store that keeps its leases.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::id::{Epoch, RelayId, ShardIndex};

/// Who lives, and who owns what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseView {
    /// The relays that live.
    pub live: Vec<RelayId>,
    /// Every shard with the live relay that owns it, None where it is free.
    pub owners: Vec<(ShardIndex, Option<RelayId>)>,
    /// What [`Lease::look`] found where a record outlives its owner: for each owned shard a number that
    /// changes within [`Lease::timeout`] while the owner lives.
    pub beats: BTreeMap<ShardIndex, i64>,
}

/// One relay's leases of one participant's shards.
///
/// Every backend promises: at most one relay's `take` of a shard succeeds until it releases it or
/// counts as dead; an epoch that `take` returned is above every one returned before; a relay
/// killed at any point counts as dead after the timeout at most, as others see it.
#[async_trait]
pub trait Lease: Send {
    /// Shows that this relay lives, keeps what it holds, and looks at everybody.
    async fn renew(&mut self) -> Result<LeaseView>;

    /// Only looks: who owns what, as recorded. The one who looks is never among the living.
    async fn look(&mut self) -> Result<LeaseView>;

    /// Takes a shard that is free or already this relay's, with an epoch above `above`. None where
    /// another relay was faster.
    async fn take(&mut self, shard: ShardIndex, above: Epoch) -> Result<Option<Epoch>>;

    /// Gives a shard up. No error if it was lost already.
    async fn release(&mut self, shard: ShardIndex) -> Result<()>;

    /// Gives everything up and is no longer among the living.
    async fn leave(&mut self) -> Result<()>;

    /// After this long without a successful [`Lease::renew`] others may own the shards: no new
    /// batch may begin.
    fn timeout(&self) -> Duration;
}
