//! The relays and their leases: who delivers, what keeps a shard, and whether all relays share out
//! their shards in the same place.

use std::time::Duration;

use super::super::Exposed;
use super::super::status::{ShardStatus, leases, look};
use super::finding::Findings;
use super::{blocking, build};
use crate::config::{Config, Participant};
use crate::error::{Error, Result};
use crate::id::{ParticipantName, RelayId};
use crate::outbox::Installation;
use crate::zookeeper::versions;

/// What a relay that lives has not delivered for so long is told.
const WAITS_MS: u64 = 60_000;
const OLDEST_ZOOKEEPER: (u32, u32) = (3, 6);

pub(super) async fn judge(
    config: &Config,
    name: &ParticipantName,
    participant: &Participant,
    installation: &Installation,
    findings: &mut Findings,
) {
    let place = format!("participant {name}");
    let mut errors = Vec::new();
    match look(config, name, participant, &mut errors).await {
        Ok(shards) => {
            let known = errors.is_empty();
            shards.iter().for_each(|shard| judge_shard(findings, &place, shard, known));
        }
        Err(error) => errors.push(error),
    }
    errors.iter().for_each(|error: &Error| findings.failed(&place, error));
    if config.zookeeper.is_none() {
        return;
    }
    if let Err(error) = judge_session(config, participant, installation, findings).await {
        findings.failed("ZooKeeper", &error);
    }
    if let Some(settings) = build::zookeeper(config) {
        match blocking(move || Ok(versions(&settings))).await {
            Ok(found) => found.iter().for_each(|(server, version)| judge_version(findings, server, version)),
            Err(error) => findings.failed("ZooKeeper", &error),
        }
    }
    // Relays that were started without [zookeeper] keep theirs beside the outbox.
    let mut beside = config.clone();
    beside.zookeeper = None;
    match leases(&beside, participant, installation).await {
        Ok(view) if view.owners.iter().any(|(_, owner)| owner.is_some()) => findings.problem(
            &place,
            "some relays keep their leases beside the outbox, and this configuration has [zookeeper]",
            "start all relays with the same configuration: these take the shards from each other for ever",
        ),
        Ok(_) => findings.ok(&place, "no relay keeps its leases beside the outbox"),
        Err(error) => findings.failed(&place, &error),
    }
}

/// `known`: the owner and what waits were asked for and answered.
fn judge_shard(findings: &mut Findings, place: &str, shard: &ShardStatus, known: bool) {
    let number = shard.shard;
    let waiting = shard.progress.as_ref().map(|(_, backlog)| *backlog).unwrap_or_default();
    if let Some((error, _)) = &shard.last_error {
        let todo = "do what it says; the shard goes on by itself, and nothing is lost";
        findings.problem(place, format!("shard {number} is kept: {error}"), todo);
    }
    judge_aside(findings, place, shard);
    match shard.owner {
        None if known && waiting.messages > 0 => {
            let what = format!("{} messages wait in shard {number}, and no relay delivers it", waiting.messages);
            findings.problem(place, what, "start `onecommit relay`, or look into the log of the one that should run");
        }
        None if known => {
            let what = format!("no relay delivers shard {number}");
            findings.warning(place, what, "start `onecommit relay`");
        }
        None => {}
        Some(_) if waiting.oldest_ms > WAITS_MS && shard.last_error.is_none() => findings.warning(
            place,
            format!("a message waits in shard {number} for {} s", waiting.oldest_ms / 1000),
            "a backlog drains, or a long transaction keeps it (above): see whether `onecommit status --watch` moves",
        ),
        Some(owner) => findings.ok(place, format!("shard {number} is delivered by {owner}")),
    }
}

fn judge_aside(findings: &mut Findings, place: &str, shard: &ShardStatus) {
    let (number, aside) = (shard.shard, &shard.aside);
    if aside.dead_letters > 0 {
        let what = format!(
            "shard {number} has {} dead letters, and {} messages wait behind such or for a topic",
            aside.dead_letters, aside.waiting
        );
        findings.warning(
            place,
            what,
            "see `onecommit dead-letter list`: correct the cause and retry, or discard",
        );
    }
    for held in &aside.held {
        let what = format!("shard {number} holds the messages of topic {}: {}", held.topic, held.reason);
        let todo =
            "make the topic or give the right to write it; or `onecommit dead-letter topic` where it is gone";
        findings.problem(place, what, todo);
    }
}

async fn judge_session(
    config: &Config,
    participant: &Participant,
    installation: &Installation,
    findings: &mut Findings,
) -> Result<()> {
    let lease = build::lease(config, participant, installation, RelayId::random()).await?;
    let asked = build::zookeeper(config).map(|settings| settings.session_timeout).unwrap_or_default();
    judge_timeout(findings, asked, lease.timeout());
    Ok(())
}

fn judge_timeout(findings: &mut Findings, asked: Duration, granted: Duration) {
    let what = format!(
        "a session timeout of {} ms is asked for, {} ms are granted",
        asked.as_millis(),
        granted.as_millis()
    );
    if asked == granted {
        return findings.ok("ZooKeeper", what);
    }
    let todo = "a relay that died is replaced after what is granted: correct session_timeout_ms, or the servers' \
                tickTime (they grant 2 to 20 of them), minSessionTimeout and maxSessionTimeout";
    findings.warning("ZooKeeper", what, todo);
}

fn judge_version(findings: &mut Findings, server: &str, version: &str) {
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let what = format!("{server} runs {version}");
    if release >= OLDEST_ZOOKEEPER {
        return findings.ok("ZooKeeper", what);
    }
    findings.problem("ZooKeeper", what, "upgrade it to 3.6 or later: relays are tried with none before");
}

/// Who may change what is kept in ZooKeeper.
pub(super) fn judge_exposed(findings: &mut Findings, found: Result<Option<Exposed>>) {
    match found {
        Ok(None) => {}
        Ok(Some(exposed)) => match exposed.warning() {
            Some(what) => findings.warning("ZooKeeper", what, Exposed::TODO),
            None => findings.ok("ZooKeeper", "no node may be changed by anybody"),
        },
        Err(error) => findings.failed("ZooKeeper", &error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity::{self, Ok, Problem, Warning};
    use super::*;
    use crate::id::{Epoch, ShardIndex};
    use crate::outbox::{AsideCounts, Backlog, HeldTopic};
    use crate::protocol::position::Position;

    fn shard(owned: bool, messages: u64, oldest_ms: u64, error: Option<&str>) -> ShardStatus {
        let backlog = Backlog { messages, oldest_ms, more: false };
        ShardStatus {
            shard: ShardIndex(0),
            owner: owned.then(RelayId::random),
            epoch: Epoch(1),
            progress: Some((Position::Sequence { last: 1 }, backlog)),
            aside: AsideCounts::default(),
            last_error: error.map(|text| (text.to_string(), 0)),
        }
    }

    #[test]
    fn a_shard_that_nobody_delivers_is_told_by_what_waits_in_it() {
        let cases: [(ShardStatus, bool, &[Severity]); 7] = [
            (shard(true, 0, 0, None), true, &[Ok]),
            (shard(false, 0, 0, None), true, &[Warning]),
            (shard(false, 3, 9, None), true, &[Problem]),
            (shard(false, 3, 9, None), false, &[]),
            (shard(true, 3, 61_000, None), true, &[Warning]),
            (shard(true, 3, 61_000, Some("no topic")), true, &[Problem, Ok]),
            (shard(true, 3, 60_000, None), true, &[Ok]),
        ];
        for (shard, known, expected) in cases {
            let mut findings = Findings::default();
            judge_shard(&mut findings, "x", &shard, known);
            let found: Vec<Severity> = findings.all.iter().map(|finding| finding.severity).collect();
            assert_eq!(found, expected, "{shard:?}");
        }
    }

    #[test]
    fn what_is_set_aside_is_told() {
        let held = HeldTopic { topic: "gone".to_string(), reason: "it is not there".to_string() };
        let aside = AsideCounts { dead_letters: 2, waiting: 5, held: vec![held] };
        let shard = ShardStatus { aside, ..shard(true, 0, 0, None) };
        let mut findings = Findings::default();
        judge_shard(&mut findings, "x", &shard, true);
        let found: Vec<Severity> = findings.all.iter().map(|finding| finding.severity).collect();
        assert_eq!(found, [Warning, Problem, Ok]);
    }

    #[test]
    fn a_zookeeper_that_is_too_old_is_told() {
        for (version, expected) in
            [("3.5.10", Problem), ("3.6.0", Ok), ("3.10.1", Ok), ("4.0", Ok), ("", Problem)]
        {
            let mut findings = Findings::default();
            judge_version(&mut findings, "zk:2181", version);
            assert_eq!(findings.all[0].severity, expected, "{version}");
        }
    }

    #[test]
    fn nodes_that_anybody_may_change_are_told() {
        for (nodes, expected) in [(0, Ok), (2, Warning)] {
            let mut findings = Findings::default();
            let examples = vec!["/onecommit/shop".to_string()];
            judge_exposed(&mut findings, Result::Ok(Some(Exposed { nodes, examples })));
            assert_eq!(findings.all[0].severity, expected);
        }
    }

    #[test]
    fn another_session_timeout_than_asked_for_is_told() {
        for (granted, expected) in [(2_000, Ok), (4_000, Warning)] {
            let mut findings = Findings::default();
            judge_timeout(&mut findings, Duration::from_millis(2_000), Duration::from_millis(granted));
            assert_eq!(findings.all[0].severity, expected);
        }
    }
}
