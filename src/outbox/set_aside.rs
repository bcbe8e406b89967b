//! What a relay, and the people who run it, need of an outbox for messages that are set aside: dead
//! letters, and what waits behind them or for a topic on hold. They stay in the outbox's table, and
//! pruning leaves them there; their records say that progress has passed over them.

use std::collections::HashSet;

use async_trait::async_trait;

use crate::error::Result;
use crate::id::{BarrierId, Epoch, MessageId, ShardIndex};
use crate::message::StoredMessage;
use crate::protocol::progress::Progress;
use crate::protocol::sieve::{Aside, ParkedKey};

/// A durable barrier, and its place among the barriers of its outbox: a higher number was drawn later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voucher {
    /// The row's id.
    pub id: BarrierId,
    /// Its number.
    pub number: i64,
}

/// What a shard's new owner has to know of the messages that are set aside.
#[derive(Clone, Debug, Default)]
pub struct Resumed {
    /// Ids that are recorded and that the position has not passed: whoever recorded them never
    /// committed the progress over them.
    pub recorded: Vec<i64>,
    /// The parked keys, each with how many messages of it are set aside.
    pub parked: Vec<(ParkedKey, u32)>,
    /// Topics on hold.
    pub held: Vec<String>,
    /// Topics that a person has declared dead.
    pub dead: Vec<String>,
    /// How many messages are set aside in this shard.
    pub count: u64,
    /// The barrier that the next progress names unless its window has a later one; None where the
    /// progress names none. It is younger than everything above.
    pub voucher: Option<Voucher>,
}

/// What [`SetAside::set_aside`] wrote.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Ids that were not recorded before.
    pub new: HashSet<i64>,
    /// A barrier committed with the records: the progress that passes over them names it, or a later
    /// one. With an older one a failover could keep the barrier and lose the record, and the message.
    pub voucher: Voucher,
}

/// A topic on hold: whose messages wait because it is not there, or may not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldTopic {
    /// Its name.
    pub topic: String,
    /// What Kafka said.
    pub reason: String,
}

/// Whether anything is to be done with what is set aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// A person has asked for something.
    pub anything: bool,
    /// Topics that a person has declared dead.
    pub dead: Vec<String>,
}

/// A message that was set aside and is to be delivered or discarded now.
#[derive(Clone, Debug)]
pub struct Due {
    /// Its place in the outbox.
    pub id: i64,
    /// Its id.
    pub message_id: MessageId,
    /// What it parks.
    pub parked_key: Option<ParkedKey>,
    /// To be delivered; None where it is discarded, or where somebody has deleted its row by hand.
    pub message: Option<StoredMessage>,
}

/// What a person may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To try once more, and what waits behind it after it.
    Retry,
    /// To give the message up, and deliver what waits behind it.
    Discard,
}

/// Which dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of the outbox.
    All,
    /// Those of a topic.
    Topic(String),
    /// These.
    Messages(Vec<MessageId>),
}

/// A dead letter as a person sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its shard.
    pub shard: ShardIndex,
    /// Its id, the one its consumers would see.
    pub message_id: MessageId,
    /// Its topic.
    pub topic: String,
    /// Its key; None where it has none, or where somebody has deleted its row by hand.
    pub key: Option<Vec<u8>>,
    /// Why it can't be delivered.
    pub reason: String,
    /// What was asked for and is not done yet.
    pub request: Option<Request>,
    /// When it was set aside, in milliseconds since 1970 (UTC).
    pub set_aside_at_ms: i64,
    /// How many messages of its key wait behind it.
    pub waiting: u64,
}

/// How much is set aside in a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsideCounts {
    /// Messages that can't be delivered.
    pub dead_letters: u64,
    /// Messages that wait behind them, or for a topic on hold.
    pub waiting: u64,
    /// The topics on hold.
    pub held: Vec<HeldTopic>,
}

/// The set-aside half of an outbox's connection.
///
/// Every backend promises: what is recorded is durable when the call returns; every write of an
/// epoch that is not the shard's newest fails with `Fenced` and changes nothing; a record is made
/// once, however often it is written; with a record its message is gone from the outbox, too.
#[async_trait]
pub trait SetAside: Send {
    /// Removes the records that `progress` has cleared, makes dead letters of what waits for dead
    /// topics, and reads what the owner has to know, all in one transaction.
    async fn resume(&mut self, shard: ShardIndex, epoch: Epoch, progress: &Progress) -> Result<Resumed>;

    /// Records messages that progress is about to pass over, and topics on hold. With nothing to
    /// record it is a fresh barrier.
    async fn set_aside(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        asides: &[Aside],
        held: &[HeldTopic],
    ) -> Result<Recorded>;

    /// Looks whether a person has asked for anything. Cheap: it is called all the time.
    async fn asked(&mut self, shard: ShardIndex) -> Result<Asked>;

    /// The messages, at most `limit`, by id, that are to be delivered or discarded now: those that a
    /// person asked for, and those that nothing keeps back any more. `held` topics keep theirs back.
    async fn due(&mut self, shard: ShardIndex, held: &[String], limit: u32) -> Result<Vec<Due>>;

    /// Removes the records of messages that committed progress has cleared, with the messages, and
    /// the holds of `released` topics. The progress that no longer names them names this barrier.
    async fn clear(
        &mut self,
        shard: ShardIndex,
        epoch: Epoch,
        cleared: &[MessageId],
        released: &[String],
    ) -> Result<Voucher>;

    /// Dead letters, the oldest first, at most `limit`.
    async fn dead_letters(&mut self, selection: &Selection, limit: u32) -> Result<Vec<DeadLetter>>;

    /// The message of a record, None where there is none.
    async fn message_set_aside(&mut self, message_id: MessageId) -> Result<Option<StoredMessage>>;

    /// Asks the shards' owners to do something with dead letters; returns how many were asked for.
    async fn ask(&mut self, selection: &Selection, request: Request) -> Result<u64>;

    /// Declares a topic dead, or takes that back. Returns whether that changed anything.
    async fn declare_topic(&mut self, topic: &str, dead: bool) -> Result<bool>;

    /// How much is set aside in a shard.
    async fn count_set_aside(&mut self, shard: ShardIndex) -> Result<AsideCounts>;
}
