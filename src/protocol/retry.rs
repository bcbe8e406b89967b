//! The one retry schedule: exponential, with full jitter, with an upper bound.
//! Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

/// How long to wait before trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub first: Duration,
    /// The longest wait of all.
    pub limit: Duration,
}

impl Backoff {
    /// The wait after `failures` failures in a row (1 or more); `chance` in 0..1 spreads those
    /// who failed together, and at least half of the wait is kept.
    pub fn wait(&self, failures: u32, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(20));
        doubled.min(self.limit).mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_never_vanish() {
        let backoff = Backoff { first: Duration::from_millis(100), limit: Duration::from_secs(5) };
        let at = |failures, chance| backoff.wait(failures, chance).as_millis();
        assert_eq!((at(1, 1.0), at(2, 1.0), at(3, 0.0)), (100, 200, 200));
        assert_eq!((at(7, 1.0), at(u32::MAX, 1.0), at(u32::MAX, 0.0)), (5000, 5000, 2500));
    }
}
