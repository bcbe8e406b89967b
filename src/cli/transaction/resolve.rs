//! `onecommit transaction resolve`.

use clap::Args;
use serde_json::{Value, json};

use super::by_hand;
use crate::cli::confirm::confirm;
use crate::cli::interrupt::until_interrupted;
use crate::cli::live_line::Steps;
use crate::cli::output::{Output, exit_code};
use crate::config::Config;
use crate::coordinator::{CoordinatorState, Prospect, Resolved, SeenBranch, SeenCoordinator};
use crate::error::{ErrorKind, Result};
use crate::id::TransactionId;
use crate::protocol::decision::Outcome;
use crate::service;

#[derive(Args)]
pub(super) struct ResolveArguments {
    /// Which one, as `transaction list` and the errors name it.
    id: TransactionId,
    /// Do not ask: for scripts.
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(config: &Config, arguments: &ResolveArguments, output: Output) -> Result<i32> {
    let id = arguments.id;
    let done = until_interrupted(async {
        let steps = Steps::new("asking the databases and the decision log");
        let caretaker = steps.during(output, service::open_caretaker(config)).await?;
        let prospect = steps.during(output, caretaker.look_before_resolving(id)).await?;
        if let Some(coordinator) = &prospect.coordinator {
            if !output.json {
                show(&prospect, coordinator, output)?;
            }
            if !arguments.yes {
                let number = id.number.to_string();
                let question = format!("Type the transaction's number ({number}) to resolve it:");
                confirm("resolve transaction", &question, &number).await?;
            }
        }
        let steps = Steps::new("settling what its coordinator left");
        steps.during(output, caretaker.resolve(&prospect)).await
    })?;
    let resolved = match done {
        Ok(resolved) => resolved,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if output.json {
        output.object(&as_json(id, &resolved))?;
    } else {
        tell(id, &resolved, output)?;
    }
    // What a person has to do comes before what is only to be waited for.
    let refused = resolved.left.values().find(|error| error.kind() == ErrorKind::Refused);
    Ok(refused.or_else(|| resolved.left.values().next()).map_or(0, exit_code))
}

fn show(prospect: &Prospect, coordinator: &SeenCoordinator, output: Output) -> Result<()> {
    let (id, SeenCoordinator { host, pid, .. }) = (prospect.id, coordinator);
    let decided = match prospect.outcome {
        Some(outcome) => word(outcome),
        None => "not decided",
    };
    let is_orphan = coordinator.state == CoordinatorState::Orphan;
    match (is_orphan, prospect.outcome) {
        (false, _) => {
            let what = "what it left is settled, this transaction and its others";
            output.line(&format!("{id}: {decided}; its coordinator (process {pid} on {host}) is dead: {what}"))?;
        }
        (true, Some(_)) => {
            let what = "its coordinator was settled, and the outcome is kept: its branches are ended like that";
            output.line(&format!("{id}: {decided}; {what}"))?;
        }
        (true, None) => output.line(&format!(
            "{id}: the decision log does not know its coordinator: what was prepared behind that one's end is rolled \
             back, anything else is left as it is"
        ))?,
    }
    for (branch, is_decided) in &prospect.branches {
        let end = match (is_orphan, is_decided) {
            (true, _) => "prepared",
            (false, true) => "to be committed",
            (false, false) => "to be rolled back",
        };
        output.line(&format!("  {end}: {}", described(branch)))?;
    }
    Ok(())
}

fn described(branch: &SeenBranch) -> String {
    let SeenBranch { name, owner, age } = branch;
    format!("{name} (prepared by {owner} for {} s)", age.as_secs())
}

fn tell(id: TransactionId, resolved: &Resolved, output: Output) -> Result<()> {
    output.line(&format!("{id}: {}", state(resolved)))?;
    if resolved.left.is_empty() {
        return match resolved.outcome {
            Some(_) => output.line("nothing of it is left to be settled"),
            None => output.line(
                "nothing is prepared, and nothing is kept of it: it ended, and nobody was in doubt; or it never was",
            ),
        };
    }
    for error in resolved.left.values() {
        output.line(&format!("  left: {error}"))?;
    }
    for (name, says) in &resolved.facts {
        output.line(&format!("  {name}: {says}"))?;
    }
    for (sql, when) in by_hand_of(resolved) {
        output.line(&format!("  by hand, {when}:\n    {sql}"))?;
    }
    Ok(())
}

/// The word for people and in JSON.
fn state(resolved: &Resolved) -> &'static str {
    match resolved.outcome {
        Some(outcome) => word(outcome),
        None if resolved.left.is_empty() => "not kept",
        None => "in doubt",
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::RolledBack => "rolled back",
    }
}

/// What a person can run, and when it is right: an end that differs from another participant's tears it.
fn by_hand_of(resolved: &Resolved) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for branch in &resolved.branches {
        let (name, place) = (&branch.name, &branch.name.participant);
        match resolved.outcome {
            Some(Outcome::Committed) => {
                all.push((by_hand::commit(name), format!("in {place}: it is decided committed")));
            }
            Some(Outcome::RolledBack) => {
                all.push((by_hand::roll_back(name), format!("in {place}: it is rolled back")));
            }
            None => {
                let committed = format!("in {place}, only where another participant has committed it");
                all.push((by_hand::commit(name), committed));
                let none = format!("in {place}, only where no participant has committed it, nor ever will");
                all.push((by_hand::roll_back(name), none));
            }
        }
    }
    all
}

fn as_json(id: TransactionId, resolved: &Resolved) -> Value {
    let left: Vec<Value> = resolved
        .left
        .iter()
        .map(|(name, error)| {
            let (kind, error) = (error.kind().as_str(), error.to_string());
            json!({"participant": name.as_str(), "kind": kind, "error": error})
        })
        .collect();
    let facts: Vec<Value> = resolved
        .facts
        .iter()
        .map(|(name, says)| json!({"participant": name.as_str(), "says": says}))
        .collect();
    let by_hand: Vec<Value> =
        by_hand_of(resolved).iter().map(|(sql, when)| json!({"sql": sql, "when": when})).collect();
    json!({
        "transaction": id.to_string(), "state": state(resolved), "resolved": resolved.left.is_empty(),
        "prepared": resolved.branches.iter().map(by_hand::branch_as_json).collect::<Vec<_>>(),
        "left": left, "facts": facts, "by_hand": by_hand,
    })
}
