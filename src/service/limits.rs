//! Limits and pauses of the services, as the configuration gives them.

use std::time::Duration;

use crate::config::Config;
use crate::coordinator::CoordinatorSettings;
use crate::protocol::retry::Backoff;
use crate::relay::RelaySettings;

pub(super) fn relay_settings(config: &Config) -> RelaySettings {
    let (relay, ms) = (&config.relay, Duration::from_millis);
    RelaySettings {
        batch_messages: relay.batch_messages,
        batch_bytes: relay.batch_bytes,
        buffer_bytes: relay.buffer_bytes,
        poll_busy: ms(relay.poll_busy_ms),
        poll_idle: ms(relay.poll_idle_ms),
        prune_messages: relay.prune_messages,
        keep_proofs: ms(config.coordinator.deadline_ms),
        set_aside_max: relay.set_aside_max,
        on_poison: config.topics.iter().map(|(name, topic)| (name.clone(), topic.on_poison)).collect(),
        retry: Backoff { first: ms(relay.retry_first_ms), limit: ms(relay.retry_limit_ms) },
        shutdown_limit: ms(relay.shutdown_timeout_ms),
    }
}

pub(super) fn coordinator_settings(config: &Config) -> CoordinatorSettings {
    let (given, ms) = (&config.coordinator, Duration::from_millis);
    CoordinatorSettings {
        deadline: ms(given.deadline_ms),
        home_wait: ms(given.home_wait_ms),
        in_flight_max: given.in_flight_max,
        sweep_interval: ms(given.sweep_interval_ms),
        retry: Backoff { first: ms(given.retry_first_ms), limit: ms(given.retry_limit_ms) },
        keep_days: given.keep_days,
        outcomes_max: given.outcomes_max,
        ..CoordinatorSettings::default()
    }
}
