//! Delivery to Kafka: each shard has one transactional producer; messages and progress record are
//! committed in one Kafka transaction, and the last committed record is the truth about what was
//! delivered.

mod admin;
mod blame;
mod consume;
mod contact;
mod examine;
mod failure;
mod native;
mod port;
mod progress;
mod settings;
mod shard;
mod token;

pub use self::consume::KafkaReader;
pub use self::examine::{KafkaFacts, TopicFacts};
pub use self::port::KafkaDelivery;
pub use self::settings::{TRANSACTION_TIMEOUT_MS, check_properties};
