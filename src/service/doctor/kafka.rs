//! A Kafka cluster, its progress topic, and the topics that messages wait for.

use std::collections::BTreeMap;

use super::finding::Findings;
use crate::delivery::kafka::{KafkaFacts, TRANSACTION_TIMEOUT_MS, TopicFacts};
use crate::outbox::Installation;

/// Brokers and replicas with which the loss of one loses nothing.
const REPLICAS: usize = 3;
/// librdkafka's default of `message.max.bytes`.
const MESSAGE_BYTES: i64 = 1_000_000;
const HOUR_MS: i64 = 3_600_000;

/// What the cluster is asked to be.
pub(super) struct Asked<'a> {
    pub(super) progress_topic: String,
    pub(super) installation: &'a Installation,
    /// Topics of waiting messages, each with the age of its oldest, in milliseconds.
    pub(super) topics: &'a [(String, u64)],
    /// librdkafka's, as configured.
    pub(super) properties: &'a BTreeMap<String, String>,
}

pub(super) fn judge(findings: &mut Findings, asked: &Asked<'_>, facts: &KafkaFacts) {
    judge_id(findings, "Kafka", &facts.cluster, asked.installation);
    judge_cluster(findings, facts);
    judge_progress(findings, asked, facts.topics.get(&asked.progress_topic).and_then(Option::as_ref));
    for (topic, oldest_ms) in asked.topics {
        let place = format!("topic {topic}");
        match facts.topics.get(topic).and_then(Option::as_ref) {
            None => {
                let todo =
                    format!("make it: `onecommit init --topic {topic}`; its messages wait, nothing is lost");
                findings.problem(&place, "the topic of waiting messages is not there", todo);
            }
            Some(found) => judge_topic(findings, &place, found, *oldest_ms, asked, facts.brokers),
        }
    }
}

/// Whether it is the cluster, or the topic log, that `init` knew.
pub(super) fn judge_id(findings: &mut Findings, place: &str, found: &str, installation: &Installation) {
    if found == installation.delivery_id {
        return findings.ok(place, format!("it is the one that the outbox was set up with ({found})"));
    }
    let todo = format!(
        "give the old one's address, or take this one with `onecommit adopt {}`: relays refuse it \
         (docs/refusals.md)",
        installation.participant
    );
    let what = format!("its id is {found}, the outbox was set up with {}", installation.delivery_id);
    findings.problem(place, what, todo);
}

fn judge_cluster(findings: &mut Findings, facts: &KafkaFacts) {
    let what = format!("{} brokers answer", facts.brokers);
    if facts.brokers < REPLICAS {
        let todo = "run 3: a lost disk loses what was delivered, and Kafka 4.3.0 can lose committed messages \
                    when its only broker is killed (KAFKA-20734)";
        findings.warning("Kafka", what, todo);
    } else {
        findings.ok("Kafka", what);
    }
    let Some(broker) = &facts.broker else {
        let todo = format!(
            "allow this user DescribeConfigs on the cluster, or look at transaction.max.timeout.ms yourself: it \
             must be {TRANSACTION_TIMEOUT_MS} or more"
        );
        return findings.warning("Kafka", "the brokers' settings may not be read", todo);
    };
    if let Some(most) = number(broker, "transaction.max.timeout.ms") {
        let what = format!("transaction.max.timeout.ms is {most}");
        if most < TRANSACTION_TIMEOUT_MS {
            let todo = format!(
                "set it to {TRANSACTION_TIMEOUT_MS} or more: the relay's producers are refused otherwise"
            );
            findings.problem("Kafka", what, todo);
        } else {
            findings.ok("Kafka", what);
        }
    }
    // The one setting that tells releases apart: 4.0 has it no more.
    match broker.get("inter.broker.protocol.version") {
        None => findings.ok("Kafka", "the brokers' release is 4.0 or later"),
        Some(version) => {
            let what =
                format!("the brokers' release is before 4.0: inter.broker.protocol.version is {version}");
            findings.warning("Kafka", what, "upgrade them: Onecommit is tried with Kafka 4.2 and 4.3");
        }
    }
    if let Some(copies) = number(broker, "transaction.state.log.replication.factor")
        && facts.brokers >= REPLICAS
        && copies < REPLICAS as i64
    {
        findings.warning(
            "Kafka",
            format!("transaction.state.log.replication.factor is {copies}"),
            "give the topic __transaction_state 3 replicas: without it no transaction can be committed",
        );
    }
}

fn judge_progress(findings: &mut Findings, asked: &Asked<'_>, found: Option<&TopicFacts>) {
    let place = format!("topic {}", asked.progress_topic);
    let Some(found) = found else {
        let todo = "if it was deleted, restore it; if it never was, run `onecommit init`";
        return findings.problem(&place, "the progress topic is not there", todo);
    };
    let shards = usize::from(asked.installation.shards);
    if found.partitions != shards {
        let what =
            format!("the progress topic has {} partitions, the outbox {shards} shards", found.partitions);
        findings.problem(&place, what, "do what docs/refusals.md says of it: relays refuse it");
    }
    judge_replicas(findings, &place, found);
    if found.replicas < REPLICAS {
        let what = format!("the progress topic has {} replicas", found.replicas);
        let todo = "give it 3 (kafka-reassign-partitions.sh): a lost disk loses what was delivered, and the \
                    relay refuses to go on";
        findings.warning(&place, what, todo);
    }
    let Some(settings) = &found.settings else {
        let todo = "allow this user DescribeConfigs on it, or look yourself: cleanup.policy=compact, \
                    unclean.leader.election.enable=false";
        return findings.warning(&place, "the progress topic's settings may not be read", todo);
    };
    for (name, wanted, otherwise) in [
        ("cleanup.policy", "compact", "it would forget what was delivered"),
        ("unclean.leader.election.enable", "false", "it could take back what was delivered"),
    ] {
        match settings.get(name) {
            Some(value) if value != wanted => {
                let todo = format!("set {name}={wanted}: {otherwise}, and relays refuse it");
                findings.problem(&place, format!("{name} is {value}"), todo);
            }
            Some(value) => findings.ok(&place, format!("{name} is {value}")),
            None => {}
        }
    }
    if found.replicas >= REPLICAS && number(settings, "min.insync.replicas").is_some_and(|least| least < 2) {
        let todo = "set min.insync.replicas=2: a commit may otherwise lie on one disk alone";
        findings.warning(&place, "min.insync.replicas is 1", todo);
    }
}

/// Whether it can be written to now.
fn judge_replicas(findings: &mut Findings, place: &str, found: &TopicFacts) {
    if found.leaderless > 0 {
        let what = format!("{} of its {} partitions have no leader", found.leaderless, found.partitions);
        findings.problem(place, what, "bring its brokers back");
        return;
    }
    let least = found.settings.as_ref().and_then(|settings| number(settings, "min.insync.replicas"));
    let what = format!("{} of {} replicas are in sync", found.in_sync, found.replicas);
    match least.and_then(|least| usize::try_from(least).ok()) {
        Some(least) if found.in_sync < least => findings.problem(
            place,
            format!("{what}, and min.insync.replicas is {least}"),
            "bring its brokers back, or lower min.insync.replicas: nothing can be committed to it",
        ),
        _ if found.in_sync < found.replicas => {
            findings.warning(place, what, "bring back the brokers that are missing")
        }
        _ => findings.ok(place, what),
    }
}

fn judge_topic(
    findings: &mut Findings,
    place: &str,
    found: &TopicFacts,
    oldest_ms: u64,
    asked: &Asked<'_>,
    brokers: usize,
) {
    judge_replicas(findings, place, found);
    if found.replicas < 2 && brokers > 1 {
        findings.warning(place, "it has one replica", "give it more: a lost disk loses its messages");
    }
    let Some(settings) = &found.settings else {
        let todo = "allow this user DescribeConfigs on it, or look at its retention.ms and max.message.bytes yourself";
        return findings.warning(place, "its settings may not be read", todo);
    };
    judge_retention(findings, place, settings, oldest_ms);
    let ours = number(asked.properties, "message.max.bytes").unwrap_or(MESSAGE_BYTES);
    if let Some(theirs) = number(settings, "max.message.bytes").filter(|theirs| *theirs < ours) {
        findings.warning(
            place,
            format!("its max.message.bytes is {theirs}, the producer's message.max.bytes {ours}"),
            "raise max.message.bytes: a message in between is sent and refused; it becomes a dead letter and its key \
             waits, where on_poison says nothing else",
        );
    }
}

/// A message carries the time at which it was published, and Kafka deletes by that.
fn judge_retention(
    findings: &mut Findings,
    place: &str,
    settings: &BTreeMap<String, String>,
    oldest_ms: u64,
) {
    let deletes = settings.get("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
    let by_ours = settings.get("message.timestamp.type").is_none_or(|kind| kind == "CreateTime");
    let Some(kept_ms) = number(settings, "retention.ms").filter(|kept| *kept >= 0 && deletes && by_ours)
    else {
        return findings.ok(place, "it deletes nothing by the time at which it was published");
    };
    let oldest_ms = i64::try_from(oldest_ms).unwrap_or(i64::MAX);
    let what = format!(
        "its retention.ms is {kept_ms} ({} h), the oldest message that waits for it is {} h old",
        kept_ms / HOUR_MS,
        oldest_ms / HOUR_MS
    );
    let todo = "raise retention.ms, or set message.timestamp.type=LogAppendTime on it, before they are \
                delivered: Kafka deletes them soon after";
    if oldest_ms >= kept_ms {
        findings.problem(place, what, todo);
    } else if oldest_ms >= kept_ms / 2 {
        findings.warning(place, what, todo);
    } else {
        findings.ok(place, what);
    }
}

fn number(settings: &BTreeMap<String, String>, name: &str) -> Option<i64> {
    settings.get(name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::super::finding::{Case, assert_each_found};
    use super::*;
    use crate::id::Incarnation;
    use crate::protocol::slot::HASH_VERSION;

    const PROGRESS: &str = "p.progress.orders";
    const TOPIC: &str = "order.paid";
    const DAY_MS: u64 = 86_400_000;

    fn installation() -> Installation {
        Installation {
            incarnation: Incarnation::random(),
            namespace: "shop".parse().expect("name"),
            participant: "orders".parse().expect("name"),
            shards: 2,
            hash_version: HASH_VERSION,
            delivery_id: "cluster".to_string(),
        }
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
    }

    fn healthy() -> KafkaFacts {
        let topic = |partitions, settings: &[(&str, &str)]| {
            Some(TopicFacts {
                partitions,
                replicas: 3,
                in_sync: 3,
                leaderless: 0,
                settings: Some(map(settings)),
            })
        };
        let progress = [
            ("cleanup.policy", "compact"),
            ("unclean.leader.election.enable", "false"),
            ("min.insync.replicas", "2"),
        ];
        let messages = [
            ("cleanup.policy", "delete"),
            ("retention.ms", "604800000"),
            ("max.message.bytes", "1048588"),
            ("message.timestamp.type", "CreateTime"),
            ("min.insync.replicas", "2"),
        ];
        KafkaFacts {
            cluster: "cluster".to_string(),
            brokers: 3,
            broker: Some(map(&[
                ("transaction.max.timeout.ms", "900000"),
                ("transaction.state.log.replication.factor", "3"),
            ])),
            topics: [(PROGRESS.to_string(), topic(2, &progress)), (TOPIC.to_string(), topic(6, &messages))]
                .into(),
        }
    }

    struct Planted {
        facts: KafkaFacts,
        oldest_ms: u64,
        properties: BTreeMap<String, String>,
    }

    impl Planted {
        fn topic(&mut self, name: &str) -> &mut TopicFacts {
            self.facts.topics.get_mut(name).and_then(Option::as_mut).expect("a topic")
        }

        fn set(&mut self, topic: &str, name: &str, value: &str) {
            let settings = self.topic(topic).settings.as_mut().expect("settings");
            settings.insert(name.to_string(), value.to_string());
        }

        fn set_broker(&mut self, name: &str, value: &str) {
            self.facts.broker.as_mut().expect("settings").insert(name.to_string(), value.to_string());
        }
    }

    const CASES: [Case<Planted>; 22] = [
        (|one| one.facts.cluster = "other".to_string(), Severity::Problem, "onecommit adopt orders"),
        (|one| one.facts.brokers = 1, Severity::Warning, "KAFKA-20734"),
        (|one| one.facts.broker = None, Severity::Warning, "DescribeConfigs on the cluster"),
        (|one| one.set_broker("transaction.max.timeout.ms", "9999"), Severity::Problem, "10000 or more"),
        (|one| one.set_broker("inter.broker.protocol.version", "3.9-IV0"), Severity::Warning, "3.9-IV0"),
        (
            |one| one.set_broker("transaction.state.log.replication.factor", "1"),
            Severity::Warning,
            "__transaction_state",
        ),
        (|one| drop(one.facts.topics.insert(PROGRESS.to_string(), None)), Severity::Problem, "restore it"),
        (|one| one.topic(PROGRESS).partitions = 3, Severity::Problem, "2 shards"),
        (
            |one| (one.topic(PROGRESS).replicas, one.topic(PROGRESS).in_sync) = (2, 2),
            Severity::Warning,
            "2 replicas",
        ),
        (|one| one.topic(PROGRESS).leaderless = 1, Severity::Problem, "no leader"),
        (|one| one.topic(PROGRESS).settings = None, Severity::Warning, "may not be read"),
        (
            |one| one.set(PROGRESS, "cleanup.policy", "compact,delete"),
            Severity::Problem,
            "cleanup.policy=compact",
        ),
        (
            |one| one.set(PROGRESS, "unclean.leader.election.enable", "true"),
            Severity::Problem,
            "unclean.leader.election.enable=false",
        ),
        (|one| one.set(PROGRESS, "min.insync.replicas", "1"), Severity::Warning, "min.insync.replicas=2"),
        (|one| one.topic(PROGRESS).in_sync = 1, Severity::Problem, "nothing can be committed"),
        (|one| one.topic(TOPIC).in_sync = 2, Severity::Warning, "2 of 3 replicas"),
        (
            |one| drop(one.facts.topics.insert(TOPIC.to_string(), None)),
            Severity::Problem,
            "init --topic order.paid",
        ),
        (|one| one.oldest_ms = 7 * DAY_MS, Severity::Problem, "168 h old"),
        (|one| one.oldest_ms = 4 * DAY_MS, Severity::Warning, "LogAppendTime"),
        (|one| one.set(TOPIC, "max.message.bytes", "500000"), Severity::Warning, "its key waits"),
        (
            |one| drop(one.properties.insert("message.max.bytes".to_string(), "2000000".to_string())),
            Severity::Warning,
            "2000000",
        ),
        (
            |one| {
                one.oldest_ms = 30 * DAY_MS;
                one.set(TOPIC, "message.timestamp.type", "LogAppendTime");
            },
            Severity::Ok,
            "deletes nothing",
        ),
    ];

    fn judged(plant: fn(&mut Planted)) -> Findings {
        let mut planted = Planted { facts: healthy(), oldest_ms: 0, properties: BTreeMap::new() };
        plant(&mut planted);
        let mut findings = Findings::default();
        let topics = [(TOPIC.to_string(), planted.oldest_ms)];
        let asked = Asked {
            progress_topic: PROGRESS.to_string(),
            installation: &installation(),
            topics: &topics,
            properties: &planted.properties,
        };
        judge(&mut findings, &asked, &planted.facts);
        findings
    }

    #[test]
    fn each_fault_is_found_and_nothing_else() {
        assert_each_found(CASES, judged);
    }
}
