//! What `onecommit doctor` finds: everything that goes wrong in time, each with what to do. It reads
//! facts from the stores and judges them here; nothing is changed.

mod finding;
mod kafka;
mod machine;
mod postgres;
mod relays;
mod transactions;

use std::time::Duration;

use super::build;
use super::init::blocking;
use super::installed::expect_outbox;
use crate::config::{Config, DatabaseUrl, Participant, PostgresUrl};
use crate::delivery::kafka::KafkaDelivery;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ParticipantName;
use crate::outbox::Installation;

pub use self::finding::{Finding, Findings, Severity};

/// Transactions younger than this are not looked at.
const ORDINARY: Duration = Duration::from_secs(60);

/// Looks at this machine, at every participant with an outbox, at Kafka and at the leases, and at
/// transactions over several databases. Takes as
/// long as [`super::status`], and up to a request's limit for each server that does not answer.
pub async fn doctor(config: &Config) -> Result<Findings> {
    let outboxes = build::outboxes(config)?;
    let mut findings = Findings::default();
    machine::judge(&mut findings, config);
    for (name, participant) in outboxes {
        let place = format!("participant {name}");
        let examined = examine(config, name, participant, &mut findings).await;
        if let Err(error) = examined {
            findings.failed(&place, &error);
        }
    }
    transactions::judge(&mut findings, config).await;
    relays::judge_exposed(&mut findings, super::exposed(config).await);
    Ok(findings)
}

async fn examine(
    config: &Config,
    name: &ParticipantName,
    participant: &Participant,
    findings: &mut Findings,
) -> Result<()> {
    let place = format!("participant {name}");
    let source = build::source(config, participant);
    let found = source.found().await;
    // Which right is missing is known even where what `init` wrote can't be read for it.
    let is_there = !matches!(found, Ok(None));
    let topics = match &participant.url {
        DatabaseUrl::Postgres(url) if is_there => database(config, url, &place, findings).await?,
        _ => Vec::new(),
    };
    let installation = found?.ok_or_else(|| {
        let why = "the outbox is not set up: run `onecommit init`";
        Error::new(ErrorKind::Configuration, "examine outbox", why)
    })?;
    expect_outbox(&installation, "examine outbox")?;
    // What a relay itself checks when it opens the outbox: columns, sequence, version.
    match source.connect().await {
        Ok(_) => findings.ok(&place, "a relay can open the outbox"),
        Err(error) => findings.failed(&place, &error),
    }
    if let Err(error) = delivery(config, name, participant, &installation, &topics, findings).await {
        findings.failed("Kafka", &error);
    }
    relays::judge(config, name, participant, &installation, findings).await;
    Ok(())
}

/// Judges a PostgreSQL database; returns the topics of waiting messages.
async fn database(
    config: &Config,
    url: &PostgresUrl,
    place: &str,
    findings: &mut Findings,
) -> Result<Vec<(String, u64)>> {
    let facts = build::postgres_source(config, url, build::request_limit(config)).examine(ORDINARY).await?;
    postgres::judge(findings, place, &facts);
    Ok(facts.topics)
}

async fn delivery(
    config: &Config,
    name: &ParticipantName,
    participant: &Participant,
    installation: &Installation,
    topics: &[(String, u64)],
    findings: &mut Findings,
) -> Result<()> {
    let scope = build::scope(config, name, participant, installation.incarnation);
    let Some(properties) = &config.kafka else {
        let delivery = build::delivery(config, scope)?;
        let id = blocking(move || delivery.id()).await?;
        kafka::judge_id(findings, "topic log", &id, installation);
        return Ok(());
    };
    crate::delivery::kafka::check_properties(properties)?;
    let delivery = KafkaDelivery::new((**properties).clone(), scope.clone());
    let names: Vec<String> = topics.iter().map(|(topic, _)| topic.clone()).collect();
    let facts = blocking(move || delivery.examine(&names)).await?;
    let asked = kafka::Asked { progress_topic: scope.progress_topic(), installation, topics, properties };
    kafka::judge(findings, &asked, &facts);
    Ok(())
}
