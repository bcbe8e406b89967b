//! What a relay needs of the place it delivers to. Calls block: each shard has a thread of its own.

use std::time::Duration;

use crate::error::Result;
use crate::id::{Epoch, MessageId, ShardIndex};
use crate::message::StoredMessage;
use crate::protocol::progress::Progress;

/// Whose deliveries these are: it names the progress and the producers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryScope {
    /// The start of every name of ours, ending with the incarnation.
    pub prefix: String,
    /// The participant whose outbox is delivered.
    pub participant: crate::id::ParticipantName,
    /// The number of its shards.
    pub shards: u16,
}

impl DeliveryScope {
    /// The progress topic: one partition a shard.
    pub fn progress_topic(&self) -> String {
        format!("{}.progress.{}", self.prefix, self.participant)
    }

    /// The `transactional.id` of a shard's producer; fixed, so that each owner fences the last.
    pub fn transactional_id(&self, shard: ShardIndex) -> String {
        format!("{}.{}.{shard}", self.prefix, self.participant)
    }
}

/// Where one participant's messages are delivered to.
pub trait Delivery: Send + Sync {
    /// The cluster's own id, which tells a replaced one from the one before.
    fn id(&self) -> Result<String>;

    /// Whether what `init` makes is there. False only where it was not for a while: Kafka denies a topic
    /// for moments while its brokers restart.
    fn is_there(&self) -> Result<bool>;

    /// Removes what `init` made, with all that is known of what was delivered, but no messages.
    /// Idempotent.
    fn remove(&self) -> Result<()>;

    /// Makes what delivery itself needs (the progress topic), or says how to. Idempotent.
    fn init(&self) -> Result<()>;

    /// Whether what `init` made still has the settings that the guarantees rest on; `Refused` where
    /// it has not.
    fn check(&self) -> Result<()>;

    /// Makes a topic for messages, where it is missing; `partitions` None takes the default.
    /// Returns whether it was made.
    fn create_topic(&self, topic: &str, partitions: Option<u32>) -> Result<bool>;

    /// The shard's last committed progress as far as it can be seen without fencing anybody: an
    /// answer of None proves nothing.
    fn peek(&self, shard: ShardIndex) -> Result<Option<Progress>>;

    /// The same when nothing is under way any more of what was begun before this was called: whose
    /// commit was confirmed by then is seen. `Unreachable` where something stays under way.
    fn peek_settled(&self, shard: ShardIndex) -> Result<Option<Progress>> {
        self.peek(shard)
    }

    /// Takes the shard: from here on no predecessor commits anything, whatever it believes.
    fn open(&self, shard: ShardIndex, epoch: Epoch) -> Result<Box<dyn ShardDelivery>>;
}

/// What keeps a message from being delivered, whatever becomes of the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is wrong with the message itself: no try will ever succeed as things are.
    Message {
        /// The message.
        message_id: MessageId,
        /// What is wrong.
        reason: String,
    },
    /// The topic is not there, or may not be written: its messages have to wait, and no others.
    Topic {
        /// The topic.
        topic: String,
        /// What is wrong.
        reason: String,
    },
}

/// Whose fault it is that a batch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// No message's: the servers', or not known.
    Nobody,
    /// Theirs, and the batch would go through without them.
    These(Vec<Fault>),
    /// That of a message, or of a topic, that was not named: the batch has to be narrowed down.
    Somebody {
        /// Whether a topic's.
        of_topic: bool,
        /// What is wrong.
        reason: String,
    },
}

/// The one deliverer of a shard.
///
/// Every backend promises: messages and progress of one commit become visible together or never;
/// a commit by anybody whom a later [`Delivery::open`] has fenced fails and makes nothing visible;
/// after any error but `abort`'s success nothing may be assumed: drop it and open it again.
pub trait ShardDelivery: Send {
    /// The last committed progress, proved: None only where the end of the progress was reached.
    fn progress(&mut self) -> Result<Option<Progress>>;

    /// Begins a batch.
    fn begin(&mut self) -> Result<()>;

    /// Adds messages to the batch, in their order, up to the first that can't be delivered; returns
    /// that one's index, and why. None where all were added.
    fn send(&mut self, messages: &[StoredMessage]) -> Result<Option<(usize, Fault)>>;

    /// Waits until everything that was sent is taken; fails where something was not. A commit does
    /// the same: this is for finding out who is to blame.
    fn flush(&mut self) -> Result<()>;

    /// Whose fault it is that the batch failed, asked before it is given up.
    fn blame(&self) -> Blame;

    /// Whether a topic that could not be written may be written again; otherwise why not.
    fn topic_fault(&mut self, topic: &str) -> Result<Option<Fault>>;

    /// Adds the progress behind all that was sent: nothing is sent behind it. From here on it is on its
    /// way, too, so what a commit has to wait for is waited for behind this where that is possible.
    fn seal(&mut self, progress: &Progress) -> Result<()>;

    /// Commits the sealed batch: messages and progress together.
    fn commit(&mut self) -> Result<()>;

    /// Gives a batch up in which a message failed, and begins anew: none of it becomes visible, and
    /// the next batch is none the worse. It takes the shard as [`Delivery::open`] does, so it is for
    /// one who has made sure that nobody else has; and who has to begin again where the last committed
    /// progress, which it returns, is not the own.
    fn renew(&mut self) -> Result<Option<Progress>>;

    /// Gives the batch up, as far as that is possible within `limit`: none of it becomes visible.
    fn abort(&mut self, limit: Duration) -> Result<()>;
}

/// A message as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveredMessage {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset in that partition.
    pub offset: i64,
    /// When it was published, in milliseconds since 1970 (UTC).
    pub timestamp_ms: i64,
    /// Its key, None where it has none.
    pub key: Option<Vec<u8>>,
    /// Its value, None for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers in order, `onecommit-id` among them.
    pub headers: Vec<crate::message::Header>,
}
