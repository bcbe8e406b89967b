//! `onecommit nodes`.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};

use super::interrupt::{until_ended, until_interrupted};
use super::live_line::Steps;
use super::output::{Output, exit_code};
use crate::config::Config;
use crate::coordinator::{SeenCoordinator, Surveyed};
use crate::error::Result;
use crate::relay::Told;
use crate::service::{self, LockFacts, NodeEvent, NodeFacts, Nodes, NodesWatcher, SeenNode, UnseenRelay};

/// Between two attempts to watch while the store is away.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct NodesArguments {
    /// Print a line for each that is there, comes, changes what it holds, or goes, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

pub(super) fn run(config: &Config, arguments: &NodesArguments, output: Output) -> Result<i32> {
    if arguments.watch {
        return until_ended(follow(config, output));
    }
    let steps = Steps::new("asking the servers, and waiting for the owners' signs of life");
    let found = match until_interrupted(steps.during(output, service::nodes(config)))? {
        Ok(found) => found,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if output.json {
        output.object(&whole(&found))?;
    } else {
        lines(&found).iter().try_for_each(|line| output.line(line))?;
    }
    Ok(found.errors.first().map_or(0, exit_code))
}

async fn follow(config: &Config, output: Output) -> Result<Infallible> {
    let mut watcher = NodesWatcher::new(config);
    let mut told = Told::default();
    loop {
        match watcher.next().await {
            Ok(events) => {
                told.clear();
                events.iter().try_for_each(|event| show(event, output))?;
            }
            Err(error) if !error.is_retriable() => return Err(error),
            Err(error) => {
                if told.is_news(&error) {
                    tracing::warn!(%error, "the nodes can't be watched now");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn show(event: &NodeEvent, output: Output) -> Result<()> {
    let (word, node) = match event {
        NodeEvent::Came(node) => ("came", node),
        NodeEvent::Changed(node) => ("changed", node),
        NodeEvent::Left(node) => ("left", node),
    };
    match output.json {
        true => output.object(&json!({"event": word, "node": node_as_json(node)})),
        false => output.line(&format!("{word}: {}", line(node))),
    }
}

fn whole(found: &Nodes) -> Value {
    json!({
        "nodes": found.nodes.iter().map(node_as_json).collect::<Vec<_>>(),
        "unseen_relays": found.unseen_relays.iter().map(unseen_as_json).collect::<Vec<_>>(),
        "left": found.left.iter().map(left_as_json).collect::<Vec<_>>(),
        "errors": found.errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn node_as_json(SeenNode { id, facts }: &SeenNode) -> Value {
    let Some(facts) = facts else { return json!({"id": id.to_string(), "kind": null}) };
    json!({
        "id": id.to_string(), "kind": facts.kind, "host": facts.host, "pid": facts.pid,
        "since_ms": facts.since_ms, "relay": facts.relay, "shards": facts.shards,
        "coordinator": facts.coordinator, "recovering": facts.recovering,
        "locks": facts.locks, "locks_held": facts.locks_held,
        "settings_revision": facts.settings_revision, "settings_refused": facts.settings_refused,
    })
}

fn unseen_as_json(UnseenRelay { relay, participant, shards }: &UnseenRelay) -> Value {
    let shards: Vec<u16> = shards.iter().map(|shard| shard.0).collect();
    json!({"relay": relay.to_string(), "participant": participant.as_str(), "shards": shards})
}

fn left_as_json(Surveyed { coordinator, unsettled }: &Surveyed) -> Value {
    let SeenCoordinator { id, host, pid, state } = coordinator;
    let participants: Vec<&str> = unsettled.iter().map(|name| name.as_str()).collect();
    json!({
        "coordinator": id.to_string(), "host": host, "pid": pid, "state": state.as_str(),
        "participants": participants,
    })
}

fn lines(found: &Nodes) -> Vec<String> {
    let mut lines: Vec<String> = found.nodes.iter().map(line).collect();
    if lines.is_empty() {
        lines.push("no relay or program is alive".to_string());
    }
    lines.extend(found.unseen_relays.iter().map(|UnseenRelay { relay, participant, shards }| {
        let shards: Vec<String> = shards.iter().map(ToString::to_string).collect();
        format!("relay {relay} holds {participant} {}, and is not among these", shards.join(", "))
    }));
    lines.extend(found.left.iter().map(|Surveyed { coordinator, unsettled }| {
        let SeenCoordinator { id, host, pid, state } = coordinator;
        let places: Vec<&str> = unsettled.iter().map(|name| name.as_str()).collect();
        let whose = if host.is_empty() { String::new() } else { format!(", process {pid} on {host}") };
        format!("left: coordinator {id}{whose}: {}, not settled in {}", state.as_str(), places.join(", "))
    }));
    lines.extend(found.errors.iter().map(|error| format!("not known: {error}")));
    lines
}

fn line(SeenNode { id, facts }: &SeenNode) -> String {
    let Some(facts) = facts else { return format!("node {id} of another release") };
    let NodeFacts { kind, host, pid, since_ms, .. } = facts;
    let name = facts.relay.as_ref().map_or_else(|| kind.clone(), |relay| format!("{kind} {relay}"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = now.saturating_sub(Duration::from_millis(*since_ms)).as_secs();
    let mut held = Vec::new();
    for (participant, shards) in &facts.shards {
        let shards: Vec<String> = shards.iter().map(ToString::to_string).collect();
        held.push(match shards.is_empty() {
            true => format!("no shard of {participant}"),
            false => format!("{participant} {}", shards.join(", ")),
        });
    }
    held.extend(facts.coordinator.iter().map(|id| format!("coordinator {id}")));
    held.extend(facts.recovering.iter().map(|id| format!("recovers coordinator {id}")));
    held.extend(facts.locks.iter().map(lock));
    if facts.locks_held > facts.locks.len() {
        held.push(format!("{} locks in all", facts.locks_held));
    }
    held.push(format!("settings {}", facts.settings_revision));
    if facts.settings_refused {
        held.push("refuses newer settings".to_string());
    }
    format!("{name}, process {pid} on {host} for {seconds} s: {}", held.join("; "))
}

fn lock(LockFacts { kind, name, number }: &LockFacts) -> String {
    // A name may have anything in it.
    format!("{kind} {name:?} ({number})")
}
