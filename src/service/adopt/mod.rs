//! `adopt`: a person's word that a store is another one than before. What is found is shown first;
//! then, behind leases, epochs and fences as a relay takes them, each shard that does not fit is born
//! again: it begins before everything, so that all that waits in its outbox is delivered, some of it
//! perhaps for the second time, and nothing is lost.

mod carry_out;
mod found;
mod look;

pub use self::carry_out::adopt;
pub use self::found::{Found, FoundShard, FoundZookeeper};
pub use self::look::look_before_adopting;
