//! The one table of all metrics, and how each gets its values. No label holds what comes from
//! messages: neither a key nor a topic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use super::exposition::{Kind, Metric, Page};
use super::process;
use crate::coordinator::RecoveryTally;
use crate::relay::{COMMIT_SECONDS, KINDS, ShardTally, Store, Tally};
use crate::service::Observed;

const SHARD: &[&str] = &["participant", "shard"];
const PARTICIPANT: &[&str] = &["participant"];
const STORE: &[&str] = &["participant", "store"];

/// How a metric gets its values.
enum Source {
    /// From one value of the process; None where the system does not tell it.
    Process(fn(&Observed) -> Option<f64>),
    /// From the recovery of dead coordinators; none where this process recovers none.
    Recovery(fn(&RecoveryTally) -> f64),
    /// A value that is always 1, with labels that say something.
    Info(fn(&Observed) -> Vec<String>),
    Participant(fn(&Tally) -> f64),
    Store(fn(&Tally, Store) -> f64),
    /// For each kind of error.
    Errors,
    /// For each shard.
    Shard(fn(&ShardTally) -> Option<f64>),
    /// For each shard that this process has ever taken.
    Taken(fn(&ShardTally) -> Option<f64>),
    Commits,
}

pub(super) struct Entry {
    pub(super) metric: Metric,
    source: Source,
}

macro_rules! metric {
    ($name:literal, $kind:ident, $labels:expr, $help:literal, $source:expr) => {
        Entry {
            metric: Metric { name: $name, kind: Kind::$kind, labels: $labels, help: $help },
            source: $source,
        }
    };
}

pub(super) static METRICS: [Entry; 32] = [
    metric!(
        "onecommit_relay_info",
        Gauge,
        &["version", "relay"],
        "Always 1: the release, and the id under which `status` and logs know this relay.",
        Source::Info(|observed| vec![env!("CARGO_PKG_VERSION").to_string(), observed.relay().to_string()])
    ),
    metric!(
        "onecommit_delivered_messages_total",
        Counter,
        SHARD,
        "Messages delivered: their Kafka transaction is committed.",
        Source::Taken(|shard| count(&shard.messages))
    ),
    metric!(
        "onecommit_delivered_bytes_total",
        Counter,
        SHARD,
        "Bytes of their keys, values and headers.",
        Source::Taken(|shard| count(&shard.bytes))
    ),
    metric!(
        "onecommit_commits_total",
        Counter,
        SHARD,
        "Kafka transactions committed.",
        Source::Taken(|shard| count(&shard.commits))
    ),
    metric!(
        "onecommit_commit_failures_total",
        Counter,
        SHARD,
        "Kafka transactions begun and not committed, or not surely. Their messages are delivered by a later one.",
        Source::Taken(|shard| count(&shard.failed_commits))
    ),
    metric!(
        "onecommit_commit_duration_seconds",
        Histogram,
        SHARD,
        "How long the commits took: from the end of a batch to Kafka's answer.",
        Source::Commits
    ),
    metric!(
        "onecommit_oldest_undelivered_age_seconds",
        Gauge,
        SHARD,
        "The age of the oldest message that waits, 0 where none does. Only of shards that this relay holds, \
         looked at every 10 s; while the outbox can't be reached it grows on.",
        Source::Taken(|shard| shard.waiting().map(|waiting| waiting.oldest().as_secs_f64()))
    ),
    metric!(
        "onecommit_backlog_messages",
        Gauge,
        SHARD,
        "Messages that wait, counted up to a bound between 10,000 and 200,000 (less with more shards). Only of \
         shards that this relay holds, looked at every 10 s.",
        Source::Taken(|shard| shard.waiting().map(|waiting| waiting.backlog.messages as f64))
    ),
    metric!(
        "onecommit_backlog_is_more",
        Gauge,
        SHARD,
        "1 where more may wait than `onecommit_backlog_messages` counts, otherwise 0.",
        Source::Taken(|shard| shard.waiting().map(|waiting| flag(waiting.backlog.more)))
    ),
    metric!(
        "onecommit_dead_letters",
        Gauge,
        SHARD,
        "Messages that can't be delivered, until they are retried or discarded. Only of shards that this relay \
         holds, looked at every 10 s.",
        Source::Taken(|shard| shard.aside().map(|aside| aside.dead_letters as f64))
    ),
    metric!(
        "onecommit_set_aside_waiting_messages",
        Gauge,
        SHARD,
        "Messages that wait behind dead letters of their key, or for a topic on hold. Only of shards that this \
         relay holds, looked at every 10 s.",
        Source::Taken(|shard| shard.aside().map(|aside| aside.waiting as f64))
    ),
    metric!(
        "onecommit_held_topics",
        Gauge,
        SHARD,
        "Topics on hold: missing, or not to be written. Only of shards that this relay holds, looked at every 10 s.",
        Source::Taken(|shard| shard.aside().map(|aside| aside.held.len() as f64))
    ),
    metric!(
        "onecommit_lease_owned",
        Gauge,
        SHARD,
        "1 where this relay holds the shard, otherwise 0. Over all relays the sum is 1.",
        Source::Shard(|shard| Some(flag(shard.owned.load(Ordering::Relaxed))))
    ),
    metric!(
        "onecommit_lease_epoch",
        Gauge,
        SHARD,
        "The epoch under which this relay last took the shard; it grows with each change of owner.",
        Source::Taken(|shard| shard.epoch().map(|epoch| epoch.0 as f64))
    ),
    metric!(
        "onecommit_live_relays",
        Gauge,
        PARTICIPANT,
        "Relays that live, this one among them, as it last saw them; 0 while it takes no part.",
        Source::Participant(|tally| tally.live_relays.load(Ordering::Relaxed) as f64)
    ),
    metric!(
        "onecommit_takes_part",
        Gauge,
        PARTICIPANT,
        "1 while this relay counts among the living and may deliver, otherwise 0.",
        Source::Participant(|tally| flag(tally.takes_part()))
    ),
    metric!(
        "onecommit_pruned_messages_total",
        Counter,
        PARTICIPANT,
        "Delivered messages that were removed from the outbox.",
        Source::Participant(|tally| tally.pruned_messages.load(Ordering::Relaxed) as f64)
    ),
    metric!(
        "onecommit_store_away",
        Gauge,
        STORE,
        "1 while `outbox`, `delivery` (Kafka or the topic log) or `leases` can't be reached, otherwise 0.",
        Source::Store(|tally, store| flag(tally.store(store).away().is_some()))
    ),
    metric!(
        "onecommit_store_away_seconds",
        Gauge,
        STORE,
        "For how long it can't be reached; 0 while it can.",
        Source::Store(|tally, store| {
            let away = tally.store(store).away();
            let lasts = away.map(|away| away.since.elapsed().unwrap_or_default());
            lasts.unwrap_or_default().as_secs_f64()
        })
    ),
    metric!(
        "onecommit_errors_total",
        Counter,
        &["participant", "store", "kind"],
        "Errors met at a store, by their kind. `fenced`: another relay has taken a shard over.",
        Source::Errors
    ),
    metric!(
        "onecommit_relay_ended",
        Gauge,
        PARTICIPANT,
        "1 where this participant's relay has ended, most likely by a refusal, while others go on.",
        Source::Participant(|tally| flag(tally.ended().is_some()))
    ),
    metric!(
        "onecommit_dead_coordinators",
        Gauge,
        &[],
        "Coordinators of transactions over several databases that are dead and not settled, as this relay last saw \
         them.",
        Source::Recovery(|recovery| recovery.dead_coordinators() as f64)
    ),
    metric!(
        "onecommit_settled_coordinators_total",
        Counter,
        &[],
        "Dead coordinators of which this relay settled the last that was left.",
        Source::Recovery(|recovery| recovery.settled_coordinators() as f64)
    ),
    metric!(
        "onecommit_recovery_refused",
        Gauge,
        &[],
        "What is left of a coordinator in a participant and waits for a person: how often that is so now.",
        Source::Recovery(|recovery| recovery.refused() as f64)
    ),
    metric!(
        "onecommit_branches_in_doubt",
        Gauge,
        &[],
        "Prepared branches whose coordinator is dead or not known, looked at every 10 s.",
        Source::Recovery(|recovery| recovery.branches_in_doubt() as f64)
    ),
    metric!(
        "onecommit_oldest_branch_in_doubt_age_seconds",
        Gauge,
        &[],
        "For how long the oldest of these is prepared, 0 where there is none.",
        Source::Recovery(|recovery| recovery.oldest_in_doubt().as_secs_f64())
    ),
    metric!(
        "onecommit_settings_revision",
        Gauge,
        &[],
        "The revision of the settings that change at run time, as this relay works with them; 0 where nothing was ever \
         set.",
        Source::Process(|observed| Some(observed.settings.revision() as f64))
    ),
    metric!(
        "onecommit_settings_refused",
        Gauge,
        &[],
        "1 where it does not work with what is stored now, as it is not understood or does not fit its configuration, \
         otherwise 0.",
        Source::Process(|observed| Some(flag(observed.settings.refused().is_some())))
    ),
    metric!(
        "onecommit_stuck",
        Gauge,
        &[],
        "1 while `/healthz` says that a loop does not turn or a call does not end, otherwise 0.",
        Source::Process(|observed| Some(flag(!observed.stuck().is_empty())))
    ),
    metric!(
        "process_cpu_seconds_total",
        Counter,
        &[],
        "CPU time of the process (Linux).",
        Source::Process(|_| process::usage().map(|usage| usage.cpu_seconds))
    ),
    metric!(
        "process_resident_memory_bytes",
        Gauge,
        &[],
        "Resident memory of the process (Linux).",
        Source::Process(|_| process::usage().map(|usage| usage.resident_bytes))
    ),
    metric!(
        "process_start_time_seconds",
        Gauge,
        &[],
        "When it was started, in seconds since 1970.",
        Source::Process(|observed| {
            observed.started.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
        })
    ),
];

/// The page that a scrape gets.
pub(super) fn render(observed: &Observed) -> String {
    let mut page = Page::default();
    for entry in &METRICS {
        add(&mut page, entry, observed);
    }
    page.into_text()
}

fn add(page: &mut Page, entry: &'static Entry, observed: &Observed) {
    let mut values = page.metric(&entry.metric);
    match &entry.source {
        Source::Process(value) => {
            if let Some(value) = value(observed) {
                values.add(&[], value);
            }
        }
        Source::Recovery(value) => {
            if let Some(recovery) = observed.recovery() {
                values.add(&[], value(recovery));
            }
        }
        Source::Info(labels) => {
            let labels = labels(observed);
            values.add(&labels.iter().map(String::as_str).collect::<Vec<_>>(), 1.0);
        }
        Source::Participant(value) => {
            for (name, tally) in &observed.participants {
                values.add(&[name.as_str()], value(tally));
            }
        }
        Source::Store(value) => {
            for (name, tally) in &observed.participants {
                for store in Store::ALL {
                    values.add(&[name.as_str(), store.as_str()], value(tally, store));
                }
            }
        }
        Source::Errors => {
            for (name, tally) in &observed.participants {
                for store in Store::ALL {
                    let counts = tally.store(store).errors();
                    for (kind, count) in KINDS.iter().zip(counts) {
                        values.add(&[name.as_str(), store.as_str(), kind.as_str()], count as f64);
                    }
                }
            }
        }
        Source::Shard(value) => each_shard(observed, |labels, shard| {
            if let Some(value) = value(shard) {
                values.add(&labels, value);
            }
        }),
        Source::Taken(value) => each_shard(observed, |labels, shard| {
            if let Some(value) = shard.epoch().and_then(|_| value(shard)) {
                values.add(&labels, value);
            }
        }),
        Source::Commits => each_shard(observed, |labels, shard| {
            if shard.epoch().is_some() {
                let (counts, sum) = (shard.commit_seconds.cumulative(), shard.commit_seconds.sum_seconds());
                values.add_histogram(&labels, &COMMIT_SECONDS, &counts, sum);
            }
        }),
    }
}

fn each_shard(observed: &Observed, mut visit: impl FnMut([&str; 2], &ShardTally)) {
    for (name, tally) in &observed.participants {
        let tally: &Arc<Tally> = tally;
        for (number, shard) in tally.shards.iter().enumerate() {
            visit([name.as_str(), &number.to_string()], shard);
        }
    }
}

fn count(counter: &AtomicU64) -> Option<f64> {
    Some(counter.load(Ordering::Relaxed) as f64)
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}
