//! `onecommit transaction`.

mod by_hand;
mod forget;
mod resolve;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::interrupt::until_interrupted;
use super::live_line::Steps;
use super::output::{Output, exit_code};
use crate::config::Config;
use crate::coordinator::{Known, Seen, SeenState};
use crate::error::{Error, Result};
use crate::id::TransactionId;
use crate::service;

#[derive(Args)]
pub(super) struct TransactionArguments {
    #[command(subcommand)]
    command: TransactionCommand,
}

#[derive(Subcommand)]
enum TransactionCommand {
    /// List the transactions of which a branch is prepared, with what is known of their end.
    List,
    /// Show how a transaction has ended, if that is known.
    Show { id: TransactionId },
    /// Settle now what a transaction's dead coordinator left, by the rules of recovery, and tell how it ended;
    /// or say why that can't be done, and what to do.
    Resolve(resolve::ResolveArguments),
    /// Give up what dead coordinators have in a participant that is gone for good, or has lost history: shows
    /// what that means, and asks.
    Forget(forget::ForgetArguments),
}

pub(super) fn run(config: &Config, arguments: &TransactionArguments, output: Output) -> Result<i32> {
    match &arguments.command {
        TransactionCommand::List => list(config, output),
        TransactionCommand::Show { id } => show(config, *id, output),
        TransactionCommand::Resolve(resolve) => resolve::run(config, resolve, output),
        TransactionCommand::Forget(forget) => forget::run(config, forget, output),
    }
}

fn list(config: &Config, output: Output) -> Result<i32> {
    let steps = Steps::new("asking the databases and the decision log");
    let look = async { service::open_caretaker(config).await?.transactions().await };
    let Known { found, errors } = match until_interrupted(steps.during(output, look))? {
        Ok(known) => known,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if output.json {
        let all: Vec<Value> = found.iter().map(as_json).collect();
        output.object(&json!({"transactions": all, "error": errors_as_json(&errors)}))?;
    } else {
        found.iter().try_for_each(|seen| output.line(&as_line(seen)))?;
        output.line(&format!("{} transactions with prepared branches", found.len()))?;
        errors.iter().try_for_each(|error| output.line(&format!("not known: {error}")))?;
    }
    Ok(errors.first().map_or(0, exit_code))
}

fn show(config: &Config, id: TransactionId, output: Output) -> Result<i32> {
    let steps = Steps::new("asking the databases and the decision log");
    let look = async { service::open_caretaker(config).await?.transaction(id).await };
    let Known { found, errors } = match until_interrupted(steps.during(output, look))? {
        Ok(known) => known,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if output.json {
        let mut shown = as_json(&found);
        shown["error"] = errors_as_json(&errors);
        output.object(&shown)?;
    } else {
        output.line(&as_line(&found))?;
        output.line(meaning(found.state))?;
        errors.iter().try_for_each(|error| output.line(&format!("not known: {error}")))?;
    }
    Ok(errors.first().map_or(0, exit_code))
}

fn errors_as_json(errors: &[Error]) -> Value {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join("; ")).into()
}

fn as_json(seen: &Seen) -> Value {
    let prepared: Vec<Value> = seen.prepared.values().map(by_hand::branch_as_json).collect();
    json!({"transaction": seen.id.to_string(), "state": seen.state.as_str(), "prepared": prepared})
}

fn as_line(seen: &Seen) -> String {
    let names: Vec<&str> = seen.prepared.keys().map(|name| name.as_str()).collect();
    let oldest = seen.prepared.values().map(|branch| branch.age.as_secs()).max();
    let prepared = match oldest {
        None => String::new(),
        Some(seconds) => format!(", prepared in {} for {seconds} s", names.join(", ")),
    };
    format!("{}: {}{prepared}", seen.id, seen.state.as_str())
}

fn meaning(state: SeenState) -> &'static str {
    match state {
        SeenState::Committed => "All of it happened, or will in every database.",
        SeenState::RolledBack => "Nothing of it happened, nor will.",
        SeenState::UnderWay => "Its coordinator lives, and decides or settles it.",
        SeenState::Unsettled => {
            "Its coordinator is dead. Any relay, or application that has opened onecommit, with these participants \
             in its configuration settles it; where one runs, its log says why it does not. `onecommit transaction \
             resolve` settles it now, or says why not."
        }
        SeenState::Orphaned => {
            "The decision log does not know its coordinator. What was prepared behind its coordinator's end is \
             rolled back by any node; otherwise that node's log, and `onecommit transaction resolve`, say why a person \
             has to look."
        }
        SeenState::NotKept => {
            "Nothing is prepared, and nothing is kept of it: it ended, and nobody was in doubt; or it never was."
        }
        SeenState::Unknown => {
            "Nothing is kept of it, and nothing is prepared where that could be looked at: ask again when every \
             participant answers."
        }
    }
}
