//! `onecommit init --remove`.

use serde_json::{Value, json};

use super::confirm::confirm;
use super::interrupt::until_interrupted;
use super::live_line::Steps;
use super::output::Output;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ParticipantName;
use crate::service::{self, Removal};

const OPERATION: &str = "remove";

pub(super) fn run(config: &Config, yes: bool, discard_undelivered: bool, output: Output) -> Result<i32> {
    let done = until_interrupted(async {
        let steps = Steps::new("looking at the stores, and waiting for the owners' signs of life");
        let removal = steps.during(output, service::look_before_removing(config)).await?;
        if !output.json {
            show(config, &removal, output)?;
        }
        if removal.incarnation.is_none() {
            return Ok(removal);
        }
        check(&removal, discard_undelivered)?;
        if !yes {
            let name = config.namespace.as_str();
            let question = format!("This can't be undone. Type the namespace ({name}) to remove it:");
            confirm(OPERATION, &question, name).await?;
        }
        let steps = Steps::new("starting");
        let begin = |step: &str| steps.begin(step);
        steps.during(output, service::remove(config, &removal, &begin)).await?;
        Ok(removal)
    })?;
    let removal = match done {
        Ok(removal) => removal,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if output.json {
        output.object(&as_json(&removal))?;
    } else if removal.incarnation.is_some() {
        output.line("removed; topics for messages stay, and so do the other files in data_dir")?;
    }
    Ok(0)
}

fn check(removal: &Removal, discard_undelivered: bool) -> Result<()> {
    let relays: Vec<String> = removal.relays().iter().map(ToString::to_string).collect();
    if !relays.is_empty() {
        let why = "relays live: stop them, and run this again";
        return Err(Error::new(ErrorKind::Refused, OPERATION, why).with("relays", relays.join(", ")));
    }
    removal.expect_settled()?;
    let undelivered = removal.undelivered();
    if undelivered > 0 && !discard_undelivered {
        let why = "messages wait that were not delivered: let a relay deliver them; or give --discard-undelivered, and \
                   they are lost";
        return Err(Error::new(ErrorKind::Refused, OPERATION, why).with("messages", undelivered));
    }
    Ok(())
}

fn show(config: &Config, removal: &Removal, output: Output) -> Result<()> {
    let Some(incarnation) = removal.incarnation else {
        return output.line("nothing is there to remove");
    };
    output.line(&format!("namespace {}, incarnation {incarnation}", config.namespace))?;
    for (name, found) in &removal.participants {
        match found {
            None => output.line(&format!("outbox of {name}: is not there"))?,
            Some(found) => output.line(&format!(
                "outbox of {name}: {} messages that were not delivered, and the progress of {} shards",
                service::undelivered(found),
                found.shards.len()
            ))?,
        }
    }
    for (name, is_there) in &removal.others {
        let tables = if *is_there { "no outbox" } else { "are not there" };
        output.line(&format!("tables of {name}: {tables}"))?;
    }
    if !removal.coordinators.is_empty() {
        output.line(&format!("decision log: {} coordinators with a record", removal.coordinators.len()))?;
    }
    if removal.in_zookeeper {
        output.line("ZooKeeper: the namespace")?;
    }
    Ok(())
}

fn as_json(removal: &Removal) -> Value {
    let mut participants: Vec<Value> = removal
        .participants
        .iter()
        .map(|(name, found)| {
            let undelivered = found.as_ref().map(service::undelivered);
            json!({"participant": name.as_str(), "undelivered_messages": undelivered})
        })
        .collect();
    let without_outbox = |(name, _): &(ParticipantName, bool)| json!({"participant": name.as_str(), "undelivered_messages": null});
    participants.extend(removal.others.iter().map(without_outbox));
    json!({
        "incarnation": removal.incarnation.map(|incarnation| incarnation.to_string()),
        "participants": participants, "removed": removal.incarnation.is_some(),
    })
}
