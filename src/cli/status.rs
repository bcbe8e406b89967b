//! `onecommit status`.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};

use super::interrupt::until_interrupted;
use super::live_line::Steps;
use super::output::{Output, exit_code, is_closed_pipe};
use super::screen::Screen;
use super::surveyed;
use crate::config::Config;
use crate::coordinator::Survey;
use crate::error::{Error, Result};
use crate::id::ParticipantName;
use crate::outbox::{AsideCounts, Backlog, HeldTopic};
use crate::service::{self, Exposed, ParticipantStatus, ShardStatus};

#[derive(Args)]
pub(super) struct StatusArguments {
    /// Show it again and again, every so many seconds, until Ctrl-C. A server that is away is shown.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

pub(super) fn run(config: &Config, arguments: &StatusArguments, output: Output) -> Result<i32> {
    if let Some(seconds) = arguments.watch {
        return watch(config, Duration::from_secs(seconds), output);
    }
    let steps = Steps::new("asking the servers, and waiting for the owners' signs of life");
    let found = match until_interrupted(steps.during(output, look(config)))? {
        Ok(found) => found,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if output.json {
        output.object(&whole(&found))?;
    } else {
        lines(&found).iter().try_for_each(|line| output.line(line))?;
    }
    Ok(found.first_error().map_or(0, exit_code))
}

/// Everything that is shown.
struct Found {
    participants: Vec<ParticipantStatus>,
    transactions: Result<Option<Survey>>,
    exposed: Result<Option<Exposed>>,
}

impl Found {
    fn first_error(&self) -> Option<&Error> {
        let of_participants = self.participants.iter().find_map(|participant| participant.errors.first());
        let of_transactions = match &self.transactions {
            Ok(survey) => survey.as_ref().and_then(|survey| survey.errors.first()),
            Err(error) => Some(error),
        };
        of_participants.or(of_transactions).or(self.exposed.as_ref().err())
    }
}

async fn look(config: &Config) -> Result<Found> {
    let participants = service::status(config).await?;
    let (transactions, exposed) = (service::survey(config).await, service::exposed(config).await);
    Ok(Found { participants, transactions, exposed })
}

fn watch(config: &Config, interval: Duration, output: Output) -> Result<i32> {
    match until_interrupted(look_again(config, interval, output)) {
        Ok(Err(interruption)) => Ok(interruption.ends()),
        // Whoever read it has enough.
        Err(error) if is_closed_pipe(&error) => Ok(0),
        Err(error) => Err(error),
        Ok(Ok(never)) => match never {},
    }
}

async fn look_again(config: &Config, interval: Duration, output: Output) -> Result<Infallible> {
    let mut screen = Screen::new();
    let mut first = Some(Steps::new("asking the servers, and waiting for the owners' signs of life"));
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let found = match first.take() {
            Some(steps) => steps.during(output, look(config)).await?,
            None => look(config).await?,
        };
        if output.json {
            output.object(&whole(&found))?;
            continue;
        }
        let mut view = vec![format!("{}, every {} s; Ctrl-C ends", time_of_day(), interval.as_secs())];
        view.extend(lines(&found));
        screen.paint(&view, output)?;
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn time_of_day() -> String {
    let seconds = since_1970().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn whole(found: &Found) -> Value {
    let participants: Vec<Value> = found.participants.iter().map(as_json).collect();
    json!({
        "at_ms": u64::try_from(since_1970().as_millis()).ok(), "participants": participants,
        "transactions": surveyed::as_json(&found.transactions),
        "zookeeper": exposed_as_json(&found.exposed),
    })
}

/// Null where nothing is kept in ZooKeeper.
fn exposed_as_json(found: &Result<Option<Exposed>>) -> Value {
    match found {
        Ok(None) => Value::Null,
        Ok(Some(Exposed { nodes, examples })) => {
            json!({"exposed_nodes": nodes, "exposed_examples": examples, "error": null})
        }
        Err(error) => json!({"error": error.to_string()}),
    }
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
        "dead_letters": shard.aside.dead_letters,
        "set_aside_waiting_messages": shard.aside.waiting,
        "held_topics": shard.aside.held.iter().map(held_as_json).collect::<Vec<_>>(),
        "backlog_is_more": progress.map(|(_, backlog)| backlog.more),
        "oldest_undelivered_age_ms": progress.map(|(_, backlog)| backlog.oldest_ms),
        "last_error": error.map(|(text, _)| text),
        "last_error_at_ms": error.map(|(_, at_ms)| at_ms),
    })
}

fn held_as_json(held: &HeldTopic) -> Value {
    json!({"topic": held.topic, "reason": held.reason})
}

fn lines(found: &Found) -> Vec<String> {
    let mut lines = Vec::new();
    for participant in &found.participants {
        let name = &participant.participant;
        lines.extend(participant.errors.iter().map(|error| format!("{name}: {error}")));
        participant.shards.iter().for_each(|shard| add_shard(&mut lines, name, shard));
    }
    match &found.exposed {
        Ok(exposed) => {
            let warning = exposed.as_ref().and_then(Exposed::warning);
            lines.extend(
                warning.map(|what| format!("warning: ZooKeeper: {what}. What to do: {}", Exposed::TODO)),
            );
        }
        Err(error) => lines.push(format!("ZooKeeper: {error}")),
    }
    lines.extend(surveyed::lines(&found.transactions));
    lines
}

fn add_shard(lines: &mut Vec<String>, name: &ParticipantName, shard: &ShardStatus) {
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
    lines.push(format!("{name} shard {}: {waiting}; {owner}, epoch {}", shard.shard, shard.epoch));
    if let Some((position, _)) = &shard.progress {
        lines.push(format!("  delivered: {position}"));
    }
    let AsideCounts { dead_letters, waiting, held } = &shard.aside;
    if *dead_letters > 0 || *waiting > 0 {
        lines.push(format!("  set aside: {dead_letters} dead letters, {waiting} messages that wait"));
    }
    for HeldTopic { topic, reason } in held {
        lines.push(format!("  topic {topic} is on hold: {reason}"));
    }
    if let Some((text, _)) = &shard.last_error {
        lines.push(format!("  last error: {text}"));
    }
}
