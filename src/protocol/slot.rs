//! Which shard delivers a message. A key is hashed into one of 256 slots, in this one place; a
//! shard is a range of slots, so that the number of shards can change later.

use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::id::ShardIndex;

/// How many slots there are.
pub const SLOTS: u16 = 256;
/// Names the hash below; it is fixed when an outbox is born and written into its progress.
pub const HASH_VERSION: u8 = 1;

/// The slot of a message: the first byte of SHA-256 of its key, or of its transaction's number
/// (8 bytes, big endian) where it has no key, so that keyless messages of one transaction stay
/// together.
pub fn slot(key: Option<&[u8]>, transaction: u64) -> u8 {
    let digest = match key {
        Some(key) => Sha256::digest(key),
        None => Sha256::digest(transaction.to_be_bytes()),
    };
    digest[0]
}

/// The slots of `shard` among `shards` (1 to 256): ranges as even as they can be.
pub fn slots_of(shard: ShardIndex, shards: u16) -> Range<u16> {
    let bound = |index: u16| (u32::from(index) * u32::from(SLOTS)).div_ceil(u32::from(shards)) as u16;
    bound(shard.0)..bound(shard.0 + 1)
}

/// The shard, among `shards`, that owns `slot`.
pub fn shard_of(slot: u8, shards: u16) -> ShardIndex {
    ShardIndex((u32::from(slot) * u32::from(shards) / u32::from(SLOTS)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_belongs_to_exactly_the_shard_that_claims_it() {
        for shards in 1..=SLOTS {
            for value in 0..SLOTS {
                let owner = shard_of(value as u8, shards);
                let claims: Vec<u16> =
                    (0..shards).filter(|n| slots_of(ShardIndex(*n), shards).contains(&value)).collect();
                assert_eq!(claims, [owner.0], "{shards} shards, slot {value}");
            }
        }
    }

    #[test]
    fn the_hash_never_changes() {
        // Values from an independent SHA-256; a change here would move keys between shards.
        assert_eq!(slot(Some(b""), 7), 0xe3);
        assert_eq!(slot(Some(b"42"), 7), 0x73);
        assert_eq!(slot(None, 742), slot(Some(&742u64.to_be_bytes()), 0));
    }
}
