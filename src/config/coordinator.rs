//! `[coordinator]`: times and limits of transactions over several databases.

use serde::Serialize;

use super::value::Section;
use crate::error::Result;

/// How transactions over several databases are run. Every number is inside the bounds that the reference
/// names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Coordinator {
    /// How long a transaction may take, from its begin until its caller is told.
    pub deadline_ms: u64,
    /// How long the other branches wait for the one with the messages to be applied.
    pub home_wait_ms: u64,
    /// Most transactions in flight.
    pub in_flight_max: usize,
    /// Most connections of our own to one participant.
    pub connections: usize,
    /// Between two looks for dead coordinators.
    pub sweep_interval_ms: u64,
    /// How many days outcomes are kept.
    pub keep_days: u32,
    /// Most outcomes that are kept.
    pub outcomes_max: usize,
    /// Longest wait before the first retry.
    pub retry_first_ms: u64,
    /// Longest wait before any retry; not below `retry_first_ms`.
    pub retry_limit_ms: u64,
    /// Longest wait for one answer of a server.
    pub request_timeout_ms: u64,
}

impl Coordinator {
    pub(super) fn build(section: &Section) -> Result<Self> {
        section.check_order("retry_first_ms", "retry_limit_ms")?;
        // The settings bound every one of them far below these types' ends.
        let size = |key| usize::try_from(section.number(key)).unwrap_or(usize::MAX);
        Ok(Coordinator {
            deadline_ms: section.number("deadline_ms"),
            home_wait_ms: section.number("home_wait_ms"),
            in_flight_max: size("in_flight_max"),
            connections: size("connections"),
            sweep_interval_ms: section.number("sweep_interval_ms"),
            keep_days: u32::try_from(section.number("keep_days")).unwrap_or(u32::MAX),
            outcomes_max: size("outcomes_max"),
            retry_first_ms: section.number("retry_first_ms"),
            retry_limit_ms: section.number("retry_limit_ms"),
            request_timeout_ms: section.number("request_timeout_ms"),
        })
    }
}
