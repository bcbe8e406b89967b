//! The relay: carries every committed message of one participant's outbox to the delivery, exactly
//! once and in order per key.
//!
//! It drives the protocol floor against the ports and knows no backend. A lease keeper shows that
//! this relay lives, as long as it can deliver; a supervisor takes and gives up shards; one reader
//! reads for all of them; each shard has a deliverer with a thread of its own; a pruner removes what
//! is delivered. Any error of the outbox drops everything that was read, and progress is read from
//! the delivery again; an error of one shard's delivery does that for the shard alone.

mod asides;
mod careful;
mod committed;
mod counted;
mod deliver;
mod fit;
mod keeper;
mod part;
mod proofs;
mod prune;
mod read;
mod session;
mod settings;
mod supervise;
mod take;
mod told;
mod unpruned;
mod wait;
mod writer;

pub use self::counted::{
    Away, COMMIT_SECONDS, CountedDelivery, CountedLease, CountedSource, Histogram, KINDS, ShardTally, Store,
    StoreTally, Tally, Waiting,
};
pub(crate) use self::fit::check_progress;
pub(crate) use self::keeper::Keeper;
pub use self::settings::RelaySettings;
pub use self::supervise::Relay;
pub(crate) use self::told::Told;
pub(crate) use self::wait::stopped;
