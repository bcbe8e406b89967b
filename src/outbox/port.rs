//! What a relay needs of an outbox, whatever database it lives in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::set_aside::{SetAside, Voucher};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BarrierId, Epoch, Incarnation, Namespace, ParticipantName, ShardIndex};
use crate::outbox::adopt::Contents;
use crate::protocol::position::Position;
use crate::protocol::progress::{DatabaseIdentity, Progress};
use crate::protocol::window;

/// The oldest version of a backend's tables that this release still works with, so that relays can be
/// replaced one by one before `onecommit init` brings the tables up to date. Without what came since:
/// under version 1 a message that can't be delivered keeps its shard.
pub const SCHEMA_VERSION_OLDEST: i32 = 1;
/// From this version on the tables can hold messages that are set aside.
pub(super) const SET_ASIDE_SINCE: i32 = 2;

/// Fails where this release, whose own tables have version `newest`, can't work with those of `version`.
pub(super) fn check_version(version: i32, newest: i32) -> Result<()> {
    if (SCHEMA_VERSION_OLDEST..=newest).contains(&version) {
        return Ok(());
    }
    let why = format!(
        "the outbox's tables have version {version}, this release works with {SCHEMA_VERSION_OLDEST} to \
         {newest}: run the release that made them, or a later one"
    );
    Err(Error::new(ErrorKind::Refused, "read installation", why))
}

/// What only tables of version 2 can do, asked of older ones.
pub(super) fn tables_too_old(operation: &'static str) -> Error {
    let why = "the outbox's tables are of an earlier release and can't hold dead letters: run `onecommit init`, \
               once no relay of that release runs any more";
    Error::new(ErrorKind::Configuration, operation, why)
}

/// What an outbox says of itself, written by `onecommit init`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The id the namespace was born with.
    pub incarnation: Incarnation,
    /// The installation's name.
    pub namespace: Namespace,
    /// The participant that the outbox lives in.
    pub participant: ParticipantName,
    /// How many shards it has; 0 where no messages wait in this participant.
    pub shards: u16,
    /// Which hash maps keys to slots.
    pub hash_version: u8,
    /// The Kafka cluster's id, or the topic log's, to which it delivers.
    pub delivery_id: String,
}

/// What the outbox keeps about one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardRow {
    /// The last epoch that claimed it.
    pub epoch: Epoch,
    /// Whether its birth record is known to be in the delivery.
    pub born: bool,
    /// Whether delivered messages were removed, so that progress can't be at its birth any more.
    pub pruned: bool,
    /// The last error of its relay, with the time in milliseconds since 1970.
    pub last_error: Option<(String, i64)>,
}

/// A window's barrier: its id, and whether its small commit is durable yet.
#[derive(Clone, Debug)]
pub struct Barrier {
    /// The row's id; none for a shard that has never delivered.
    pub id: Option<BarrierId>,
    /// Its place among the barriers of its outbox; 0 where it is a former owner's.
    pub number: i64,
    committed: watch::Receiver<Option<Result<(), Arc<Error>>>>,
}

/// The other end of a [`Barrier`]: who commits it says how that ended.
pub type BarrierOutcome = watch::Sender<Option<Result<(), Arc<Error>>>>;

impl Barrier {
    /// A barrier whose commit is under way.
    pub fn pending(id: BarrierId, number: i64) -> (Self, BarrierOutcome) {
        let (sender, committed) = watch::channel(None);
        (Barrier { id: Some(id), number, committed }, sender)
    }

    /// A barrier known to be durable.
    pub fn durable(voucher: Voucher) -> Self {
        let (id, number) = (Some(voucher.id), voucher.number);
        Barrier { number, ..Barrier::inherited(id) }
    }

    /// What a former owner's progress names; it was found in the database.
    pub fn inherited(id: Option<BarrierId>) -> Self {
        Barrier { id, number: 0, committed: watch::channel(Some(Ok(()))).1 }
    }

    /// Waits until the barrier is durable. Fails where its commit failed or its outcome was lost:
    /// then nothing of the window may be committed to the delivery.
    pub async fn wait(&self) -> Result<()> {
        let mut committed = self.committed.clone();
        let failed = |why: String| Error::new(ErrorKind::Unclear, "commit barrier", why);
        match committed.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(error))) => {
                Err(Error::new(error.kind(), "commit barrier", "not durable").caused_by(error.clone()))
            }
            _ => Err(failed("its outcome was lost with the connection".to_string())),
        }
    }
}

/// Messages of one shard with the barrier behind them.
pub type Chunk = window::Chunk<Barrier>;

/// The most that one [`Outbox::read`] returns, in bytes of messages, unless a single message is larger.
pub const READ_BYTES: usize = 4 * 1024 * 1024;

/// What one [`Outbox::read`] found.
#[derive(Debug, Default)]
pub struct Batch {
    /// By shard, in order within each shard.
    pub chunks: Vec<Chunk>,
    /// Whether more is known to wait, so that the next read follows at once and not after a pause.
    pub more: bool,
    /// Whether the backlog path was used: pruning is deferred meanwhile.
    pub backlog: bool,
    /// About how many messages of the backlog are still to be read, where that is known.
    pub waiting: u64,
}

/// How far a shard's delivery is known to be committed, for [`Outbox::prune`].
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The shard.
    pub shard: ShardIndex,
    /// The lease under which pruning is done.
    pub epoch: Epoch,
    /// The last committed position.
    pub position: Position,
    /// The barrier that the committed progress names; older ones may go.
    pub barrier: Option<BarrierId>,
}

/// What one [`Outbox::prune`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// How many messages went; about, where a large table was emptied at once.
    pub messages: u64,
    /// Whether all is gone that was delivered before. Where it is not and fewer messages went than
    /// were asked for, the rest is left for a later call: it would cost too much to look for it now.
    pub all: bool,
}

/// What waits in a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages not yet delivered, as far as they were counted.
    pub messages: u64,
    /// The age of the oldest of them, in milliseconds.
    pub oldest_ms: u64,
    /// Whether more may wait than were counted: it is counted up to a bound.
    pub more: bool,
}

/// The outbox of one participant, seen through one connection of a relay.
///
/// Every backend promises: a committed message is read exactly once by whoever starts from a
/// position and goes on; positions only move over messages that were read; a barrier that is
/// durable survives any crash together with all that its window saw; every write of an epoch that
/// is not the shard's newest fails with `Fenced` and changes nothing.
#[async_trait]
pub trait Outbox: SetAside {
    /// The very database behind the connection. Refuses one that is in recovery: a standby's
    /// snapshot lacks running transactions, and rows would be lost.
    async fn identity(&mut self) -> Result<DatabaseIdentity>;

    /// What `init` wrote. `Configuration` where it was never run here.
    async fn installation(&mut self) -> Result<Installation>;

    /// The shard's row.
    async fn shard(&mut self, shard: ShardIndex) -> Result<ShardRow>;

    /// Writes `epoch` into the shard's row; `Fenced` where a higher one is there.
    async fn claim(&mut self, shard: ShardIndex, epoch: Epoch) -> Result<()>;

    /// Notes that the shard's birth record is committed in the delivery.
    async fn note_birth(&mut self, shard: ShardIndex, epoch: Epoch) -> Result<()>;

    /// Notes the error that stops the shard, None when it delivers again.
    async fn note_error(&mut self, shard: ShardIndex, epoch: Epoch, error: Option<&str>) -> Result<()>;

    /// Whether the barrier row is there.
    async fn has_barrier(&mut self, shard: ShardIndex, barrier: BarrierId) -> Result<bool>;

    /// The position before everything.
    fn origin(&self) -> Position;

    /// Begins to read a shard at a position; `barrier` is what its progress names.
    fn add(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        position: &Position,
        barrier: Option<BarrierId>,
    ) -> Result<()>;

    /// Ends reading a shard.
    fn remove(&mut self, shard: ShardIndex);

    /// One bounded read for all added shards; empty when nothing waits. After any error the
    /// connection, what it read and where it stood are worth nothing: drop it, and begin again
    /// from the progress in the delivery. `fenced` shards are named in the error's context.
    async fn read(&mut self) -> Result<Batch>;

    /// Removes at most `limit` delivered messages, and barrier rows older than the named ones.
    async fn prune(&mut self, delivered: &[Delivered], limit: u32) -> Result<Pruned>;

    /// From now on [`Outbox::prune`] leaves rows whose id is above this one, delivered or not; None: none.
    fn hold(&mut self, above: Option<i64>);

    /// Whether a transaction over several databases has written a message here within this time, or may
    /// have.
    async fn has_proofs(&mut self, within: Duration) -> Result<bool>;

    /// Counts what a shard at `position` has not delivered yet, with a bounded effort, however much
    /// waits or is dead.
    async fn backlog(&mut self, shard: ShardIndex, position: &Position) -> Result<Backlog>;

    /// Counts all that the table holds of a shard, and what of it `progress` covers, whichever database
    /// that speaks of.
    async fn contents(&mut self, shard: ShardIndex, progress: Option<&Progress>) -> Result<Contents>;

    /// Readies the outbox for an adoption: from its origin, a shard of `anew` is then read to the end,
    /// whatever the rows were written by; no progress from before fits any more; no id comes again.
    /// `claimed` is every shard with the epoch under which it is done.
    async fn prepare_adoption(&mut self, claimed: &[(ShardIndex, Epoch)], anew: &[ShardIndex]) -> Result<()>;

    /// Notes, all at once, that the shards of `anew` have been born again, and where the outbox delivers
    /// to from now on.
    async fn note_adoption(
        &mut self,
        claimed: &[(ShardIndex, Epoch)],
        anew: &[ShardIndex],
        delivery_id: &str,
    ) -> Result<()>;
}

/// Opens connections to one participant's outbox.
#[async_trait]
pub trait OutboxSource: Send + Sync {
    /// A fresh connection.
    async fn connect(&self) -> Result<Box<dyn Outbox>>;

    /// The same to an outbox that can't be read as it is, to be adopted: its ids or transaction numbers
    /// may be those of another database.
    async fn connect_to_adopt(&self) -> Result<Box<dyn Outbox>>;

    /// Makes the tables where they are missing, or checks those that are there; returns what is
    /// now written there. Idempotent.
    async fn init(&self, wanted: &Installation) -> Result<Installation>;

    /// Removes what `init` made, with the messages in it. Idempotent.
    async fn remove(&self) -> Result<()>;

    /// What was written by an earlier `init`, None where there is nothing.
    async fn found(&self) -> Result<Option<Installation>>;
}

/// The shards' barriers of one window.
pub type Barriers = BTreeMap<ShardIndex, Barrier>;
