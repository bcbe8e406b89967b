//! `/healthz` and `/readyz`: whether it is well, and the reasons where it is not.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::error::redact;
use crate::service::{Observed, Reason};

/// Whether the process should be left running. A server that is away is no reason to restart it.
pub(super) fn live(observed: &Observed) -> (bool, Value) {
    answer("alive", "stuck", &observed.stuck())
}

/// Whether it can deliver.
pub(super) fn ready(observed: &Observed) -> (bool, Value) {
    answer("ready", "not ready", &observed.unready())
}

fn answer(well: &str, otherwise: &str, reasons: &[Reason]) -> (bool, Value) {
    let is_well = reasons.is_empty();
    let told: Vec<Value> = reasons.iter().map(as_json).collect();
    (is_well, json!({"status": if is_well { well } else { otherwise }, "reasons": told}))
}

fn as_json(reason: &Reason) -> Value {
    json!({
        "participant": reason.participant.as_str(),
        "store": reason.store.map(|store| store.as_str()),
        "since_ms": reason.since.and_then(since_1970_ms),
        "error": redact(&reason.what),
    })
}

fn since_1970_ms(at: SystemTime) -> Option<u64> {
    at.duration_since(UNIX_EPOCH).ok().and_then(|since| u64::try_from(since.as_millis()).ok())
}
