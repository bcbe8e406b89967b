//! The topic log: the embedded stand-in for Kafka, in one SQLite file.
//!
//! Messages, the progress and the right to deliver live in the same file, and each append is one
//! transaction that checks the right, inserts, and moves the progress. So nothing is delivered
//! twice, and a deliverer that was paused while another took its shard appends nothing.
//!
//! A topic's offsets ascend without gaps, over all its partitions together; a message without a
//! partition of its own goes to 0. The oldest messages of a topic are removed beyond
//! [`TOPIC_MESSAGES_MAX`].

mod append;
mod file;
mod port;
mod read;
#[cfg(test)]
mod tests;

pub use self::append::TOPIC_MESSAGES_MAX;
pub use self::port::TopicLogDelivery;
pub use self::read::TopicLogReader;
