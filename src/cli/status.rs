//! `onecommit status`.

use serde_json::{Value, json};

use super::interrupt::{INTERRUPTED, until_interrupted};
use super::output::{Output, exit_code};
use crate::config::Config;
use crate::error::Result;
use crate::service::{self, ParticipantStatus, ShardStatus};

pub(super) fn run(config: &Config, output: Output) -> Result<i32> {
    let Some(found) = until_interrupted(service::status(config))? else { return Ok(INTERRUPTED) };
    if output.json {
        let participants: Vec<Value> = found.iter().map(as_json).collect();
        output.object(&json!({"participants": participants}))?;
    } else {
        for participant in &found {
            print(participant, output)?;
        }
    }
    let failed = found.iter().find_map(|participant| participant.shards.as_ref().err());
    Ok(failed.map_or(0, exit_code))
}

fn as_json(participant: &ParticipantStatus) -> Value {
    let name = participant.participant.as_str();
    match &participant.shards {
        Ok(shards) => {
            let shards: Vec<Value> = shards.iter().map(shard_as_json).collect();
            json!({"participant": name, "shards": shards, "error": null})
        }
        Err(error) => json!({"participant": name, "shards": [], "error": error.to_string()}),
    }
}

fn shard_as_json(shard: &ShardStatus) -> Value {
    let error = shard.last_error.as_ref();
    json!({
        "shard": shard.shard.0,
        "owner": shard.owner.map(|owner| owner.to_string()),
        "epoch": shard.epoch.0,
        "position": shard.position,
        "backlog_messages": shard.backlog.messages,
        "backlog_ms": shard.backlog.oldest_ms,
        "last_error": error.map(|(text, _)| text),
        "last_error_at_ms": error.map(|(_, at_ms)| at_ms),
    })
}

fn print(participant: &ParticipantStatus, output: Output) -> Result<()> {
    let shards = match &participant.shards {
        Ok(shards) => shards,
        Err(error) => return output.line(&format!("{}: {error}", participant.participant)),
    };
    for shard in shards {
        let owner = shard.owner.map_or("no relay".to_string(), |owner| format!("relay {owner}"));
        let waiting = match shard.backlog.messages {
            0 => "nothing waits".to_string(),
            messages => format!("{messages} messages wait, the oldest for {} ms", shard.backlog.oldest_ms),
        };
        output.line(&format!(
            "{} shard {}: {waiting}; {owner}, epoch {}",
            participant.participant, shard.shard, shard.epoch
        ))?;
        if let Some((text, _)) = &shard.last_error {
            output.line(&format!("  last error: {text}"))?;
        }
    }
    Ok(())
}
