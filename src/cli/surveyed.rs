//! Transactions over several databases, as `onecommit status` shows them.

use serde_json::{Value, json};

use crate::coordinator::{CoordinatorState, SeenCoordinator, Survey, Surveyed};
use crate::error::{Error, Result};

/// Null where there are no such transactions.
pub(super) fn as_json(found: &Result<Option<Survey>>) -> Value {
    let survey = match found {
        Ok(None) => return Value::Null,
        Ok(Some(survey)) => survey,
        Err(error) => return json!({"error": error.to_string()}),
    };
    let count = |state| survey.count(state);
    let (in_doubt, oldest) = survey.in_doubt();
    let errors: Vec<String> = survey.errors.iter().map(ToString::to_string).collect();
    json!({
        "alive_coordinators": count(CoordinatorState::Alive),
        "recovering_coordinators": count(CoordinatorState::Recovering),
        "dead_coordinators": count(CoordinatorState::Dead),
        "orphan_coordinators": count(CoordinatorState::Orphan),
        "unsettled": not_alive(survey).map(unsettled_as_json).collect::<Vec<_>>(),
        "prepared_branches": survey.branches.len(),
        "in_doubt_transactions": in_doubt,
        "oldest_in_doubt_age_ms": oldest.and_then(|oldest| u64::try_from(oldest.as_millis()).ok()),
        "refusals": survey.refusals.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "error": (!errors.is_empty()).then(|| errors.join("; ")),
    })
}

fn unsettled_as_json(Surveyed { coordinator, unsettled }: &Surveyed) -> Value {
    let SeenCoordinator { id, host, pid, state } = coordinator;
    let participants: Vec<&str> = unsettled.iter().map(|name| name.as_str()).collect();
    json!({
        "coordinator": id.to_string(), "host": host, "pid": pid, "state": state.as_str(),
        "participants": participants,
    })
}

pub(super) fn lines(found: &Result<Option<Survey>>) -> Vec<String> {
    let survey = match found {
        Ok(None) => return Vec::new(),
        Ok(Some(survey)) => survey,
        Err(error) => return vec![format!("transactions: {error}")],
    };
    let count = |state| survey.count(state);
    let (in_doubt, oldest) = survey.in_doubt();
    let waits = match oldest {
        None => "none in doubt".to_string(),
        Some(oldest) => format!("{in_doubt} in doubt, the oldest for {:.1} s", oldest.as_secs_f64()),
    };
    let mut lines = vec![format!(
        "transactions: {waits}; {} branches prepared; coordinators: {} alive, {} recovering, {} dead, {} orphan",
        survey.branches.len(),
        count(CoordinatorState::Alive),
        count(CoordinatorState::Recovering),
        count(CoordinatorState::Dead),
        count(CoordinatorState::Orphan),
    )];
    lines.extend(not_alive(survey).map(|one| {
        let SeenCoordinator { id, host, pid, state } = &one.coordinator;
        let places: Vec<&str> = one.unsettled.iter().map(|name| name.as_str()).collect();
        let whose = if host.is_empty() { String::new() } else { format!(", process {pid} on {host}") };
        format!("  coordinator {id}{whose}: {}, not settled in {}", state.as_str(), places.join(", "))
    }));
    let told = |errors: &[Error], what: &str| {
        errors.iter().map(|error| format!("  {what}: {error}")).collect::<Vec<_>>()
    };
    lines.extend(told(&survey.refusals, "waits for a person"));
    lines.extend(told(&survey.errors, "not known"));
    lines
}

fn not_alive(survey: &Survey) -> impl Iterator<Item = &Surveyed> {
    survey.coordinators.iter().filter(|one| one.coordinator.state != CoordinatorState::Alive)
}
