//! What a relay does, counted at its ports: whatever goes over them is seen here once, so that the
//! relay itself counts nothing. A [`Tally`] holds the numbers; the three wrappers of the ports write
//! them. Every call is passed on as it is.

mod delivery;
mod histogram;
mod lease;
mod outbox;
mod shard;
mod store;
mod tally;

pub use self::delivery::CountedDelivery;
pub use self::histogram::{COMMIT_SECONDS, Histogram};
pub use self::lease::CountedLease;
pub use self::outbox::CountedSource;
pub use self::shard::{ShardTally, Waiting};
pub use self::store::{Away, KINDS, StoreTally};
pub use self::tally::{Store, Tally};
