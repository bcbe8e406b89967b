//! How long something took, sorted into buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The buckets' upper bounds, in seconds: a commit takes about 10 ms, and 15 s at most.
pub const COMMIT_SECONDS: [f64; 12] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0];

/// Counts by bucket; the last one has no bound.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; COMMIT_SECONDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub(super) fn note(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = COMMIT_SECONDS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(COMMIT_SECONDS.len())].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How many took as long as each bound or less; the last number is that of all.
    pub fn cumulative(&self) -> [u64; COMMIT_SECONDS.len() + 1] {
        let mut sum = 0;
        std::array::from_fn(|bucket| {
            sum += self.buckets[bucket].load(Ordering::Relaxed);
            sum
        })
    }

    /// How long all took together, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_us.load(Ordering::Relaxed) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_in_its_bucket_and_in_all_above() {
        let histogram = Histogram::default();
        for ms in [1, 5, 6, 14_000, 60_000] {
            histogram.note(Duration::from_millis(ms));
        }
        assert_eq!(histogram.cumulative(), [2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5]);
        assert!((histogram.sum_seconds() - 74.012).abs() < 1e-6);
    }
}
