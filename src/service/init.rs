//! `init`: gives birth to an incarnation where no store has one, and makes what is missing. Running
//! it again changes nothing; where two stores disagree it refuses.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use super::build;
use super::emptied::expect_nothing_prepared;
use super::installed::all_found;
use crate::config::{Config, DatabaseUrl, Participant};
use crate::delivery::Delivery;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Incarnation, ParticipantName};
use crate::message::check_topic;
use crate::outbox::Installation;
use crate::protocol::slot::HASH_VERSION;
use crate::zookeeper;

const OPERATION: &str = "init";

/// What `init` made or found.
#[derive(Clone, Debug)]
pub struct InitReport {
    /// The namespace's incarnation.
    pub incarnation: Incarnation,
    /// Whether it was born now.
    pub born: bool,
    /// Each participant.
    pub participants: Vec<ParticipantReport>,
    /// The topics asked for, each with whether it was made now.
    pub topics: Vec<(String, bool)>,
    /// Nodes in ZooKeeper that anybody could change, and that are the configured user's now.
    pub guarded_nodes: usize,
}

/// What `init` made or found for one participant.
#[derive(Clone, Debug)]
pub struct ParticipantReport {
    /// Its name.
    pub participant: ParticipantName,
    /// Its number of shards; 0 without an outbox.
    pub shards: u16,
    /// Whether its tables were made now.
    pub made: bool,
}

/// Makes tables, topics and znodes for the configuration; and `topics` for messages, with
/// `partitions` each (None: the broker's default). `begin` is told each step, for a person who waits.
pub async fn init(
    config: &Config,
    topics: &[String],
    partitions: Option<u32>,
    begin: &(dyn Fn(&str) + Sync),
) -> Result<InitReport> {
    topics.iter().try_for_each(|topic| check_topic(OPERATION, topic))?;
    make_data_dir(config)?;
    let outboxes = build::outboxes(config)?;
    let known = all_found(config, begin).await?;
    let (incarnation, born) = incarnation(config, &known).await?;
    let targets = Targets { config, incarnation, begin };
    // Before anything is made: on another cluster nothing of ours may appear, and a topic log that is
    // gone must not be followed by a new one that knows nothing of what was delivered.
    for (name, participant) in &outboxes {
        if let Some(known) = known.get(*name) {
            let delivery = targets.delivery(name, participant)?;
            check(&targets.wanted(name, participant, delivery).await?, known)?;
        }
    }
    let mut participants = Vec::new();
    let mut delivery: Option<Arc<dyn Delivery>> = None;
    for (name, participant) in &outboxes {
        let target = targets.delivery(name, participant)?;
        delivery = Some(Arc::clone(&target));
        begin(&format!("making the progress of {name}"));
        let made = Arc::clone(&target);
        blocking(move || made.init()).await?;
        let wanted = targets.wanted(name, participant, target).await?;
        begin(&format!("making the outbox of {name}"));
        let found = build::source(config, participant).init(&wanted).await?;
        check(&wanted, &found)?;
        let made = !known.contains_key(*name);
        participants.push(ParticipantReport { participant: (*name).clone(), shards: found.shards, made });
    }
    for (name, participant) in others(config) {
        begin(&format!("making the tables of {name}"));
        let wanted = without_outbox(config, name, incarnation);
        let found = build::source(config, participant).init(&wanted).await?;
        check_owner(&wanted, &found)?;
        participants.push(ParticipantReport {
            participant: name.clone(),
            shards: 0,
            made: !known.contains_key(name),
        });
    }
    let mut guarded_nodes = 0;
    if let Some(settings) = build::zookeeper(config) {
        begin("preparing ZooKeeper");
        guarded_nodes = zookeeper::init(&settings, &config.namespace, incarnation).await?;
    }
    begin("making topics");
    let topics = make_topics(delivery, topics, partitions).await?;
    Ok(InitReport { incarnation, born, participants, topics, guarded_nodes })
}

/// The participants without an outbox that take part in transactions: a file can't prepare.
pub(super) fn others(config: &Config) -> impl Iterator<Item = (&ParticipantName, &Participant)> {
    let databases = config.participants.iter().filter(|(_, one)| matches!(one.url, DatabaseUrl::Postgres(_)));
    databases.filter(|(_, participant)| !participant.outbox)
}

/// What a participant says of itself in which no messages wait.
fn without_outbox(config: &Config, name: &ParticipantName, incarnation: Incarnation) -> Installation {
    Installation {
        incarnation,
        namespace: config.namespace.clone(),
        participant: name.clone(),
        shards: 0,
        hash_version: HASH_VERSION,
        delivery_id: String::new(),
    }
}

/// Where a participant's messages go, and what its outbox is to say of itself.
struct Targets<'a> {
    config: &'a Config,
    incarnation: Incarnation,
    begin: &'a (dyn Fn(&str) + Sync),
}

impl Targets<'_> {
    fn delivery(&self, name: &ParticipantName, participant: &Participant) -> Result<Arc<dyn Delivery>> {
        build::delivery(self.config, build::scope(self.config, name, participant, self.incarnation))
    }

    async fn wanted(
        &self,
        name: &ParticipantName,
        participant: &Participant,
        delivery: Arc<dyn Delivery>,
    ) -> Result<Installation> {
        (self.begin)("asking for Kafka's (or the topic log's) id");
        Ok(Installation {
            incarnation: self.incarnation,
            namespace: self.config.namespace.clone(),
            participant: name.clone(),
            shards: participant.shards,
            hash_version: HASH_VERSION,
            delivery_id: blocking(move || delivery.id()).await?,
        })
    }
}

/// Makes the folder that embedded stores need.
fn make_data_dir(config: &Config) -> Result<()> {
    let embedded = config.kafka.is_none()
        || config.participants.values().any(|participant| matches!(participant.url, DatabaseUrl::Sqlite(_)));
    if !embedded {
        return Ok(());
    }
    std::fs::create_dir_all(&config.data_dir).map_err(|error| {
        let why = "data_dir can't be made: check its path, and this user's rights";
        Error::new(ErrorKind::Configuration, OPERATION, why)
            .with("data_dir", config.data_dir.display())
            .caused_by(error)
    })
}

/// The one incarnation that the stores know, or a new one where none knows any.
async fn incarnation(
    config: &Config,
    known: &BTreeMap<ParticipantName, Installation>,
) -> Result<(Incarnation, bool)> {
    let mut found: Vec<(String, Incarnation)> =
        known.values().map(|one| (format!("participant {}", one.participant), one.incarnation)).collect();
    if let Some(settings) = build::zookeeper(config) {
        match zookeeper::found_incarnation(&settings, &config.namespace).await? {
            Some(incarnation) => found.push(("ZooKeeper".to_string(), incarnation)),
            None => expect_nothing_prepared(OPERATION, config, known).await?,
        }
    }
    let Some((first_store, first)) = found.first() else { return Ok((Incarnation::random(), true)) };
    if let Some((store, other)) = found.iter().find(|(_, incarnation)| incarnation != first) {
        let why = format!(
            "{first_store} and {store} belong to different installations: one of them is a copy, or was set up \
             for another namespace. Nothing was changed. Give the right addresses, or another namespace"
        );
        let refused = Error::new(ErrorKind::Refused, OPERATION, why);
        return Err(refused.with("first", first).with("other", other));
    }
    Ok((*first, false))
}

fn check(wanted: &Installation, found: &Installation) -> Result<()> {
    check_owner(wanted, found)?;
    // It gets one now.
    if found.shards == 0 {
        return Ok(());
    }
    if found.shards != wanted.shards {
        return Err(changed("number of shards", wanted.shards, found.shards));
    }
    if found.delivery_id != wanted.delivery_id {
        let why = format!(
            "this outbox was set up with another Kafka cluster (or topic log). Nothing was changed. Give the old \
             one's address, or take this one: `onecommit adopt {}`",
            found.participant
        );
        let refused = Error::new(ErrorKind::Refused, OPERATION, why);
        return Err(refused.with("configured", &wanted.delivery_id).with("found", &found.delivery_id));
    }
    Ok(())
}

fn check_owner(wanted: &Installation, found: &Installation) -> Result<()> {
    if found.incarnation != wanted.incarnation {
        let why = "another `onecommit init` ran at the same time and gave birth first: run this again";
        return Err(Error::new(ErrorKind::Refused, OPERATION, why));
    }
    if found.namespace != wanted.namespace {
        return Err(changed("namespace", &wanted.namespace, &found.namespace));
    }
    if found.participant != wanted.participant {
        return Err(changed("participant's name", &wanted.participant, &found.participant));
    }
    Ok(())
}

fn changed(what: &'static str, wanted: impl Display, found: impl Display) -> Error {
    let why = format!(
        "this outbox was set up with another {what}; it is fixed when an outbox is born. Nothing was \
         changed. Give what was there, or begin a new namespace in another schema"
    );
    Error::new(ErrorKind::Refused, OPERATION, why).with("configured", wanted).with("found", found)
}

async fn make_topics(
    delivery: Option<Arc<dyn Delivery>>,
    topics: &[String],
    partitions: Option<u32>,
) -> Result<Vec<(String, bool)>> {
    let Some(delivery) = delivery else { return Ok(Vec::new()) };
    let wanted = topics.to_vec();
    blocking(move || {
        wanted
            .into_iter()
            .map(|topic| {
                let made = delivery.create_topic(&topic, partitions)?;
                Ok((topic, made))
            })
            .collect()
    })
    .await
}

/// Runs blocking calls of a delivery away from the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(call).await.map_err(|error| {
        Error::new(ErrorKind::Failed, OPERATION, "a call of the delivery ended early").caused_by(error)
    })?
}
