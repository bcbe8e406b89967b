//! Who delivers which shard: an even share of the shards for each live relay, the rule by which a
//! lease kept in a table is found to be abandoned, and the one by which a relay gives up its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::id::{RelayId, ShardIndex};

/// What a relay should do about the shards of one participant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Free shards to take.
    pub take: Vec<ShardIndex>,
    /// Own shards to give up, for a relay that has too few.
    pub release: Vec<ShardIndex>,
}

/// Shares out shards among live relays. `owners` has each shard with the live relay that owns it,
/// None where it is free. Every relay computes the same quotas, so nobody has to lead: with n
/// shards and m relays each gets n/m, and the first n mod m by id one more.
pub fn share(me: RelayId, live: &[RelayId], owners: &[(ShardIndex, Option<RelayId>)]) -> Share {
    let mut relays: Vec<RelayId> = live.to_vec();
    relays.push(me);
    relays.sort();
    relays.dedup();
    let rank = relays.iter().position(|relay| *relay == me).unwrap_or(0);
    let quota = owners.len() / relays.len() + usize::from(rank < owners.len() % relays.len());
    let mine: Vec<ShardIndex> =
        owners.iter().filter(|(_, owner)| *owner == Some(me)).map(|(shard, _)| *shard).collect();
    let free = owners.iter().filter(|(_, owner)| owner.is_none()).map(|(shard, _)| *shard);
    Share {
        take: free.take(quota.saturating_sub(mine.len())).collect(),
        release: mine.into_iter().skip(quota).collect(),
    }
}

/// Finds out, without comparing clocks of two machines, whether the owner of a row lives: each
/// owner raises a number in its row again and again, and an owner whose number stood still for
/// the whole timeout, on the observer's own monotonic clock, is dead. A jump of any wall clock
/// changes nothing. (The rule of Kubernetes' leader election: client-go, tools/leaderelection.)
#[derive(Debug)]
pub struct Observer<K> {
    seen: HashMap<K, (i64, Duration)>,
}

impl<K> Default for Observer<K> {
    fn default() -> Self {
        Observer { seen: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone> Observer<K> {
    /// Whether the owner `key`, whose number is `beat` at the observer's time `now`, counts as
    /// living.
    pub fn lives(&mut self, key: &K, beat: i64, now: Duration, timeout: Duration) -> bool {
        match self.seen.get(key) {
            Some((last_beat, since)) if *last_beat == beat => now.saturating_sub(*since) < timeout,
            _ => {
                self.seen.insert(key.clone(), (beat, now));
                true
            }
        }
    }

    /// Forgets every key but those in `present`, so that memory stays bounded.
    pub fn keep(&mut self, present: impl Fn(&K) -> bool) {
        self.seen.retain(|key, _| present(key));
    }
}

/// Fewer failures in a row say nothing about a relay.
const DOUBTFUL_FAILURES: u32 = 3;

/// Whether a relay that lives may be unable to deliver: it would keep its share of the shards from
/// those that can, for ever.
#[derive(Debug, Default)]
pub struct Doubt {
    failures: u32,
    since: Duration,
}

impl Doubt {
    /// A shard could not be taken or delivered, or the outbox not be read, at the relay's time `now`.
    pub fn failed(&mut self, now: Duration) {
        if self.failures == 0 {
            self.since = now;
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// A shard was taken or delivered.
    pub fn worked(&mut self) {
        self.failures = 0;
    }

    /// Whether nothing but failures has been for the `timeout` of a lease: a dead relay would have
    /// been replaced by now.
    pub fn is_due(&self, now: Duration, timeout: Duration) -> bool {
        self.failures >= DOUBTFUL_FAILURES && now.saturating_sub(self.since) >= timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn relay(number: u8) -> RelayId {
        RelayId(Uuid::from_u128(u128::from(number)))
    }

    /// Applies every relay's share in turn until nothing changes.
    fn clear(live: &[RelayId], owners: &mut [(ShardIndex, Option<RelayId>)]) {
        for _ in 0..4 * owners.len() + 4 {
            for me in live {
                let share = share(*me, live, owners);
                for (shard, owner) in owners.iter_mut() {
                    if share.release.contains(shard) {
                        *owner = None;
                    } else if share.take.contains(shard) {
                        *owner = Some(*me);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn shards_end_evenly_shared_whoever_joins_or_leaves(
            shards in 1u16..20, before in 1u8..6, after in 1u8..6
        ) {
            let mut owners: Vec<_> = (0..shards).map(|n| (ShardIndex(n), None)).collect();
            for count in [before, after] {
                let live: Vec<RelayId> = (0..count).map(relay).collect();
                for (_, owner) in owners.iter_mut() {
                    *owner = owner.filter(|relay| live.contains(relay));
                }
                clear(&live, &mut owners);
                for me in &live {
                    let held = owners.iter().filter(|(_, owner)| *owner == Some(*me)).count();
                    let even = usize::from(shards) / live.len();
                    prop_assert!(held == even || held == even + 1, "{held} of {shards}");
                }
                prop_assert!(owners.iter().all(|(_, owner)| owner.is_some()));
            }
        }
    }

    #[test]
    fn an_owner_is_dead_only_when_its_number_stood_still_for_the_timeout() {
        let (mut observer, timeout) = (Observer::default(), Duration::from_secs(2));
        let mut lives = |beat, now| observer.lives(&"a", beat, Duration::from_millis(now), timeout);
        assert!(lives(1, 0));
        assert!(lives(1, 1_999));
        assert!(!lives(1, 2_000));
        assert!(lives(2, 2_001));
        assert!(lives(2, 4_000));
        assert!(!lives(2, 4_001));
    }

    #[test]
    fn doubt_takes_failures_in_a_row_and_the_timeout_of_a_lease() {
        let timeout = Duration::from_secs(2);
        let doubts = |events: &[(u64, bool)]| {
            let mut doubt = Doubt::default();
            for (second, works) in events {
                if *works { doubt.worked() } else { doubt.failed(Duration::from_secs(*second)) }
            }
            let last = events.last().map_or(0, |event| event.0);
            doubt.is_due(Duration::from_secs(last), timeout)
        };
        assert!(!doubts(&[]));
        assert!(!doubts(&[(1, false), (9, false)]), "too few");
        assert!(!doubts(&[(1, false), (1, false), (2, false), (2, false)]), "too soon");
        assert!(doubts(&[(1, false), (1, false), (3, false)]));
        assert!(!doubts(&[(1, false), (2, false), (3, true), (4, false), (5, false)]), "one worked");
        assert!(doubts(&[(1, true), (4, false), (5, false), (6, false)]));
    }
}
