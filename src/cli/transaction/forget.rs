//! `onecommit transaction forget`.

use clap::Args;
use serde_json::{Value, json};

use super::by_hand;
use crate::cli::confirm::confirm;
use crate::cli::interrupt::until_interrupted;
use crate::cli::live_line::Steps;
use crate::cli::output::Output;
use crate::config::Config;
use crate::coordinator::{Forgetting, GivenUp};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ParticipantName;
use crate::service;

const OPERATION: &str = "forget participant";

#[derive(Args)]
pub(super) struct ForgetArguments {
    /// The participant that is gone for good, or whose history was lost.
    participant: ParticipantName,
    /// Do not ask: for scripts.
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(config: &Config, arguments: &ForgetArguments, output: Output) -> Result<i32> {
    let name = &arguments.participant;
    let done = until_interrupted(async {
        let steps = Steps::new("asking the databases and the decision log");
        let caretaker = steps.during(output, service::open_caretaker(config)).await?;
        let found = steps.during(output, caretaker.look_before_forgetting(name)).await?;
        if !output.json {
            show(&found, caretaker.keep_days(), output)?;
        }
        expect_lost(&found)?;
        if !found.records.is_empty() {
            if !arguments.yes {
                let question = format!("Type the participant's name ({name}) to forget it:");
                confirm(OPERATION, &question, name.as_str()).await?;
            }
            let steps = Steps::new("taking over from the dead coordinators");
            steps.during(output, caretaker.forget(&found)).await?;
        }
        Ok(found)
    })?;
    let found = match done {
        Ok(found) => found,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if output.json {
        output.object(&as_json(&found))?;
    } else if !found.records.is_empty() {
        output.line("forgotten: a relay, or a program that has opened onecommit, ends these records")?;
    }
    Ok(0)
}

/// What recovery does by itself needs no word of a person.
fn expect_lost(found: &Forgetting) -> Result<()> {
    if found.kept.is_empty() || !found.records.is_empty() {
        return Ok(());
    }
    let why = "this participant is configured and has its history: recovery settles what is left there by itself. Let \
               a relay run, or a program that has opened onecommit";
    let ids: Vec<String> = found.kept.iter().map(ToString::to_string).collect();
    let refused = Error::new(ErrorKind::Refused, OPERATION, why).with("participant", &found.participant);
    Err(refused.with("coordinators", ids.join(", ")))
}

fn show(found: &Forgetting, keep_days: u32, output: Output) -> Result<()> {
    let name = &found.participant;
    if found.records.is_empty() {
        return match found.kept.is_empty() {
            true => output.line(&format!("no coordinator's record names {name}: there is nothing to forget")),
            false => Ok(()),
        };
    }
    for given_up in &found.records {
        show_one(found, given_up, output)?;
    }
    for id in &found.kept {
        output.line(&format!("coordinator {id}: recovery settles what it left in {name}, and goes on"))?;
    }
    output.line(&format!(
        "forgetting {name} gives these branches up: one that is prepared stays prepared, and keeps its locks, until \
         somebody commits it or rolls it back in that database by hand. The other participants are settled as \
         decided. `onecommit transaction show` tells how these transactions ended for {keep_days} days: keep what \
         is shown here"
    ))
}

fn show_one(found: &Forgetting, given_up: &GivenUp, output: Output) -> Result<()> {
    let GivenUp { coordinator, decided, undecided, why } = given_up;
    let (id, host, pid) = (coordinator.id, &coordinator.host, coordinator.pid);
    output.line(&format!("coordinator {id} (process {pid} on {host}, dead): {why}"))?;
    for name in decided {
        output.line(&format!("  {} was decided committed. Where it is prepared still:", name.transaction))?;
        output.line(&format!("    {}", by_hand::commit(name)))?;
    }
    for branch in undecided {
        let (name, seconds) = (&branch.name, branch.age.as_secs());
        let transaction = name.transaction;
        output.line(&format!(
            "  {transaction} is prepared by {} for {seconds} s, and no decision names it. Where no other participant \
             has committed it:",
            branch.owner
        ))?;
        output.line(&format!("    {}", by_hand::roll_back(name)))?;
    }
    if !found.is_configured {
        output.line(&format!(
            "  that database can't be listed from here. What else this coordinator has prepared in it was not \
             decided, and is to be rolled back; if it was restored or has failed over since, compare it with the \
             other participants first:\n    select gid, owner, prepared from pg_prepared_xacts where gid like \
             'oc1:%:{id}:%:{}%'",
            found.participant
        ))?;
    }
    Ok(())
}

fn as_json(found: &Forgetting) -> Value {
    let record = |given_up: &GivenUp| {
        let GivenUp { coordinator, decided, undecided, why } = given_up;
        let decided: Vec<Value> = decided
            .iter()
            .map(|name| json!({"transaction": name.transaction.to_string(), "branch": name.to_string()}))
            .collect();
        let undecided: Vec<Value> = undecided.iter().map(by_hand::branch_as_json).collect();
        json!({
            "coordinator": coordinator.id.to_string(), "host": coordinator.host, "pid": coordinator.pid,
            "why": why, "decided": decided,
            "undecided": found.is_configured.then_some(undecided),
        })
    };
    json!({
        "participant": found.participant.as_str(), "configured": found.is_configured,
        "forgotten": !found.records.is_empty(),
        "records": found.records.iter().map(record).collect::<Vec<_>>(),
        "left_to_recovery": found.kept.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
