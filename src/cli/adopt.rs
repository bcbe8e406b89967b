//! `onecommit adopt`.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};

use super::confirm::confirm;
use super::interrupt::until_interrupted;
use super::live_line::Steps;
use super::output::Output;
use crate::config::Config;
use crate::error::Result;
use crate::id::ParticipantName;
use crate::service::{self, Found, FoundShard, FoundZookeeper};

#[derive(Args)]
pub(super) struct AdoptArguments {
    /// The participant whose stores are to be taken as they are now.
    participant: ParticipantName,
    /// Only show what is found, and change nothing.
    #[arg(long)]
    show: bool,
    /// Do not ask: for scripts.
    #[arg(long, conflicts_with = "show")]
    yes: bool,
}

pub(super) fn run(config: &Config, arguments: &AdoptArguments, output: Output) -> Result<i32> {
    let done = until_interrupted(async {
        let steps = Steps::new("looking at the stores, and waiting for the owners' signs of life");
        let name = &arguments.participant;
        let found = steps.during(output, service::look_before_adopting(config, name)).await?;
        if !output.json {
            show(&found, output)?;
        }
        let adopted = !arguments.show && found.is_to_adopt();
        if adopted {
            found.expect_no_relay("adopt")?;
            if !arguments.yes {
                let question = format!("Type the participant's name ({name}) to adopt:");
                confirm("adopt", &question, name.as_str()).await?;
            }
            let steps = Steps::new("starting");
            let begin = |step: &str| steps.begin(step);
            steps.during(output, service::adopt(config, &found, &begin)).await?;
        }
        Ok((found, adopted))
    })?;
    let (found, adopted) = match done {
        Ok(done) => done,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if output.json {
        output.object(&as_json(&found, adopted))?;
    } else if adopted {
        output.line("adopted: start the relays")?;
    }
    Ok(0)
}

fn show(found: &Found, output: Output) -> Result<()> {
    let (name, database) = (&found.participant, &found.database);
    let timeline = database.timeline.as_ref().map_or(String::new(), |found| format!(", timeline {found}"));
    output.line(&format!("{name}: database {database}{timeline}"))?;
    if let Some(why) = &found.unreadable {
        output.line(&format!("  {why}"))?;
    }
    output.line(&format!("{name}: {}", delivery(found)))?;
    if !found.has_progress_topic {
        output.line("  the progress topic (or the topic log's file) is not there: it would be made")?;
    }
    match found.zookeeper {
        None | Some(FoundZookeeper::Known) => {}
        Some(FoundZookeeper::Unknown) => {
            output.line(&format!("{name}: ZooKeeper does not know the namespace: it would be prepared"))?;
        }
        Some(FoundZookeeper::Other(other)) => {
            let what = "has the namespace for another incarnation, which would be replaced";
            output.line(&format!("{name}: ZooKeeper {what}: {other}"))?;
        }
    }
    for relay in &found.relays {
        output.line(&format!("{name}: relay {relay} lives"))?;
    }
    for shard in &found.shards {
        show_shard(found, shard, output)?;
    }
    if !found.is_to_adopt() {
        return output.line("everything is as it was: there is nothing to adopt");
    }
    let (all, twice) = (found.delivers(), found.twice_at_most());
    output.line(&format!(
        "adopting delivers all {all} messages that wait in shards that do not fit; up to {twice} messages may be \
         delivered for the second time"
    ))?;
    output.line(
        "what was delivered of transactions that the database does not have stays with the consumers; nothing \
         that is in the outbox is lost",
    )
}

fn delivery(found: &Found) -> String {
    let noted = &found.installation.delivery_id;
    match &found.delivery_id {
        Some(id) if id == noted => format!("Kafka cluster (or topic log) {id}, as noted"),
        Some(id) => format!("Kafka cluster (or topic log) {id}; noted was {noted}"),
        None => format!("no topic log; noted was {noted}"),
    }
}

fn show_shard(found: &Found, shard: &FoundShard, output: Output) -> Result<()> {
    let (name, number, contents) = (&found.participant, shard.shard, &shard.contents);
    let verdict = shard.unfit.as_deref().unwrap_or("fits, and goes on as it is");
    output.line(&format!("{name} shard {number}: {verdict}"))?;
    match &shard.progress {
        None => output.line("  progress: none that can be read")?,
        Some(progress) => output.line(&format!(
            "  progress: epoch {}, of database {}, {}",
            progress.epoch, progress.database, progress.position
        ))?,
    }
    let ages = match (contents.oldest_ms, contents.newest_ms) {
        (Some(oldest), Some(newest)) => format!(", published {} to {} ago", ago(oldest), ago(newest)),
        _ => String::new(),
    };
    output.line(&format!(
        "  outbox: {} messages{ages}; at most {} of them may be delivered twice; epoch {}",
        contents.messages, shard.twice_at_most, shard.row.epoch
    ))
}

/// How long ago a time was, in the unit that fits.
fn ago(at_ms: i64) -> String {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
    let seconds = i64::try_from(now_ms).unwrap_or(i64::MAX).saturating_sub(at_ms).max(0) / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn as_json(found: &Found, adopted: bool) -> Value {
    let shards: Vec<Value> = found.shards.iter().map(shard_as_json).collect();
    let relays: Vec<String> = found.relays.iter().map(ToString::to_string).collect();
    let (zookeeper, other) = match found.zookeeper {
        None => (None, None),
        Some(FoundZookeeper::Known) => (Some("known"), None),
        Some(FoundZookeeper::Unknown) => (Some("unknown"), None),
        Some(FoundZookeeper::Other(other)) => (Some("other"), Some(other.to_string())),
    };
    json!({
        "participant": found.participant.as_str(), "to_adopt": found.is_to_adopt(), "adopted": adopted,
        "database": found.database,
        "delivery_id": found.delivery_id, "noted_delivery_id": found.installation.delivery_id,
        "has_progress_topic": found.has_progress_topic,
        "zookeeper": zookeeper, "zookeeper_incarnation": other, "unreadable": found.unreadable,
        "relays": relays, "shards": shards,
        "messages": found.delivers(), "twice_at_most": found.twice_at_most(),
    })
}

fn shard_as_json(shard: &FoundShard) -> Value {
    json!({
        "shard": shard.shard.0, "epoch": shard.row.epoch.0, "unfit": shard.unfit,
        "progress": shard.progress,
        "messages": shard.contents.messages, "foreign": shard.contents.foreign,
        "oldest_at_ms": shard.contents.oldest_ms, "newest_at_ms": shard.contents.newest_ms,
        "twice_at_most": shard.twice_at_most,
    })
}
