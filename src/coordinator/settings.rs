//! Times and limits of a coordinator's work.

use std::time::Duration;

use crate::protocol::retry::Backoff;

/// How a coordinator works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorSettings {
    /// How long a transaction may take, from its begin until its caller is told.
    pub deadline: Duration,
    /// How long the other branches wait for the one with the messages to be applied first.
    pub home_wait: Duration,
    /// Most transactions that are not at their end yet. More wait.
    pub in_flight_max: usize,
    /// Between two rounds of marks while there are decisions.
    pub mark_interval: Duration,
    /// Between two looks for dead coordinators.
    pub sweep_interval: Duration,
    /// Between two looks for branches that nobody has a record of.
    pub orphan_interval: Duration,
    /// Between two attempts.
    pub retry: Backoff,
    /// How many days outcomes and closed history rows are kept.
    pub keep_days: u32,
    /// Most outcomes that are kept.
    pub outcomes_max: usize,
}

impl Default for CoordinatorSettings {
    fn default() -> Self {
        CoordinatorSettings {
            deadline: Duration::from_secs(30),
            home_wait: Duration::from_secs(1),
            in_flight_max: 1_000,
            mark_interval: Duration::from_secs(3),
            sweep_interval: Duration::from_secs(1),
            orphan_interval: Duration::from_secs(10),
            retry: Backoff { first: Duration::from_millis(50), limit: Duration::from_secs(5) },
            keep_days: 7,
            outcomes_max: 100_000,
        }
    }
}
