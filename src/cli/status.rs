//! `onecommit status`.

use serde_json::{Value, json};

use super::interrupt::until_interrupted;
use super::live_line::Steps;
use super::output::{Output, exit_code};
use crate::config::Config;
use crate::error::Result;
use crate::outbox::Backlog;
use crate::service::{self, ParticipantStatus, ShardStatus};

pub(super) fn run(config: &Config, output: Output) -> Result<i32> {
    let steps = Steps::new("asking the servers, and waiting for the owners' signs of life");
    let found = match until_interrupted(steps.during(output, service::status(config)))? {
        Ok(found) => found,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if output.json {
        let participants: Vec<Value> = found.iter().map(as_json).collect();
        output.object(&json!({"participants": participants}))?;
    } else {
        for participant in &found {
            print(participant, output)?;
        }
    }
    let failed = found.iter().find_map(|participant| participant.errors.first());
    Ok(failed.map_or(0, exit_code))
}

fn as_json(participant: &ParticipantStatus) -> Value {
    let shards: Vec<Value> = participant.shards.iter().map(shard_as_json).collect();
    let errors: Vec<String> = participant.errors.iter().map(ToString::to_string).collect();
    // Of shards that can't be asked nothing is known, and so nothing of all.
    let ages = participant.shards.iter().map(|shard| Some(shard.progress.as_ref()?.1.oldest_ms));
    let oldest_ms = ages.collect::<Option<Vec<u64>>>().and_then(|ages| ages.into_iter().max());
    json!({
        "participant": participant.participant.as_str(),
        "oldest_undelivered_age_ms": oldest_ms,
        "shards": shards,
        "error": (!errors.is_empty()).then(|| errors.join("; ")),
    })
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

fn shard_as_json(shard: &ShardStatus) -> Value {
    let (error, progress) = (shard.last_error.as_ref(), shard.progress.as_ref());
    json!({
        "shard": shard.shard.0,
        "owner": shard.owner.map(|owner| owner.to_string()),
        "epoch": shard.epoch.0,
        "position": progress.map(|(position, _)| position),
        "backlog_messages": progress.map(|(_, backlog)| backlog.messages),
        "backlog_is_more": progress.map(|(_, backlog)| backlog.more),
        "oldest_undelivered_age_ms": progress.map(|(_, backlog)| backlog.oldest_ms),
        "last_error": error.map(|(text, _)| text),
        "last_error_at_ms": error.map(|(_, at_ms)| at_ms),
    })
}

fn print(participant: &ParticipantStatus, output: Output) -> Result<()> {
    let name = &participant.participant;
    for error in &participant.errors {
        output.line(&format!("{name}: {error}"))?;
    }
    for shard in &participant.shards {
        let owner = shard.owner.map_or("no relay".to_string(), |owner| format!("relay {owner}"));
        let waiting = match shard.progress.as_ref().map(|(_, backlog)| backlog) {
            None => "what waits is unknown".to_string(),
            Some(Backlog { messages: 0, more: false, .. }) => "nothing waits".to_string(),
            Some(waiting) => {
                let or_more = if waiting.more { " or more" } else { "" };
                let oldest = seconds(waiting.oldest_ms);
                format!("{}{or_more} messages wait, the oldest for {oldest}", waiting.messages)
            }
        };
        output.line(&format!("{name} shard {}: {waiting}; {owner}, epoch {}", shard.shard, shard.epoch))?;
        if let Some((position, _)) = &shard.progress {
            output.line(&format!("  delivered: {position}"))?;
        }
        if let Some((text, _)) = &shard.last_error {
            output.line(&format!("  last error: {text}"))?;
        }
    }
    Ok(())
}
