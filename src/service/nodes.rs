//! Who is alive, and what each holds: what nodes say of themselves, the leases, and the coordinators of the dead.

use std::collections::BTreeMap;
use std::time::Duration;

use super::presence::NodeFacts;
use super::status::{leases, survey};
use super::{build, installed};
use crate::config::Config;
use crate::coordinator::{CoordinatorState, Surveyed};
use crate::error::{Error, ErrorKind, Result};
use crate::group::file::FileGroup;
use crate::group::{GroupOf, GroupSeen, GroupSession, Member};
use crate::id::{MemberId, ParticipantName, RelayId, ShardIndex};

/// Between two attempts of one who watches while the store is away.
const PAUSE: Duration = Duration::from_millis(500);

/// One relay or program that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenNode {
    /// Its id among the nodes.
    pub id: MemberId,
    /// What it says of itself; None where another release says it.
    pub facts: Option<NodeFacts>,
}

/// A relay that holds shards, and is not among the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnseenRelay {
    /// Its id.
    pub relay: RelayId,
    /// Whose shards it holds.
    pub participant: ParticipantName,
    /// Which.
    pub shards: Vec<ShardIndex>,
}

/// All of it, as far as it can be looked at.
#[derive(Debug, Default)]
pub struct Nodes {
    /// Everyone who is alive, in the order in which they came.
    pub nodes: Vec<SeenNode>,
    /// Relays that just begin or end; or, with leases in a database, those with another `data_dir`.
    pub unseen_relays: Vec<UnseenRelay>,
    /// What is left of the dead: coordinators that are not settled.
    pub left: Vec<Surveyed>,
    /// What could not be looked at.
    pub errors: Vec<Error>,
}

/// Looks. Changes nothing. Takes as long as [`super::status`].
pub async fn nodes(config: &Config) -> Result<Nodes> {
    let mut found = Nodes::default();
    // Where no file is, opening one would make it.
    if config.zookeeper.is_some() || FileGroup::is_in(&config.data_dir) {
        match look(config).await {
            Ok(members) => found.nodes = members.into_iter().map(seen).collect(),
            Err(error) => found.errors.push(error),
        }
    }
    if let Err(error) = add_unseen(config, &mut found).await {
        found.errors.push(error);
    }
    match survey(config).await {
        Ok(survey) => {
            let survey = survey.unwrap_or_default();
            let is_left = |one: &Surveyed| one.coordinator.state != CoordinatorState::Alive;
            found.left = survey.coordinators.into_iter().filter(is_left).collect();
            found.errors.extend(survey.errors);
        }
        Err(error) => found.errors.push(error),
    }
    Ok(found)
}

async fn look(config: &Config) -> Result<Vec<Member>> {
    build::group(config, &GroupOf::Nodes)?.open().await?.members().await
}

fn seen(member: Member) -> SeenNode {
    SeenNode { id: member.id, facts: NodeFacts::decode(&member.data) }
}

async fn add_unseen(config: &Config, found: &mut Nodes) -> Result<()> {
    let known: Vec<String> =
        found.nodes.iter().filter_map(|node| node.facts.as_ref()?.relay.clone()).collect();
    for (name, participant) in config.outboxes() {
        let source = build::source(config, participant);
        let installation = installed::installed(config, name, participant, &*source).await?;
        let view = leases(config, participant, &installation).await?;
        let mut shards: BTreeMap<RelayId, Vec<ShardIndex>> = BTreeMap::new();
        for (shard, owner) in view.owners {
            if let Some(owner) = owner.filter(|owner| !known.contains(&owner.to_string())) {
                shards.entry(owner).or_default().push(shard);
            }
        }
        let unseen = shards.into_iter().map(|(relay, shards)| {
            let participant = name.clone();
            UnseenRelay { relay, participant, shards }
        });
        found.unseen_relays.extend(unseen);
    }
    Ok(())
}

/// What happened to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// It is there: from before, or since now.
    Came(SeenNode),
    /// It says something else: it holds more or less, or follows other settings.
    Changed(SeenNode),
    /// It is gone.
    Left(SeenNode),
}

/// One who is told of nodes as they come and go.
pub struct NodesWatcher {
    config: Config,
    session: Option<Box<dyn GroupSession>>,
    known: Vec<SeenNode>,
    seen: GroupSeen,
}

impl NodesWatcher {
    /// Begins with nobody: who is there is told as having come.
    pub fn new(config: &Config) -> Self {
        let seen = GroupSeen { members: Vec::new(), is_current: true };
        NodesWatcher { config: config.clone(), session: None, known: Vec::new(), seen }
    }

    /// Waits, for as long as it takes, for what happens next. May be called again after an error.
    pub async fn next(&mut self) -> Result<Vec<NodeEvent>> {
        loop {
            let mut session = self.session().await?;
            match session.changed(&self.seen).await {
                Ok(now) => {
                    self.session = Some(session);
                    let events = if now.is_current { self.compare(&now.members) } else { Vec::new() };
                    self.seen = now;
                    if !events.is_empty() {
                        return Ok(events);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Fenced => {}
                Err(error) => {
                    self.session = Some(session);
                    return Err(error);
                }
            }
        }
    }

    async fn session(&mut self) -> Result<Box<dyn GroupSession>> {
        if let Some(session) = self.session.take() {
            return Ok(session);
        }
        while self.config.zookeeper.is_none() && !FileGroup::is_in(&self.config.data_dir) {
            tokio::time::sleep(PAUSE).await;
        }
        build::group(&self.config, &GroupOf::Nodes)?.open().await
    }

    fn compare(&mut self, members: &[Member]) -> Vec<NodeEvent> {
        let now: Vec<SeenNode> = members.iter().cloned().map(seen).collect();
        let find = |all: &[SeenNode], node: &SeenNode| all.iter().find(|other| other.id == node.id).cloned();
        let gone = self.known.iter().filter(|node| find(&now, node).is_none());
        let mut events: Vec<NodeEvent> = gone.cloned().map(NodeEvent::Left).collect();
        for node in &now {
            match find(&self.known, node) {
                None => events.push(NodeEvent::Came(node.clone())),
                Some(before) if before != *node => events.push(NodeEvent::Changed(node.clone())),
                Some(_) => {}
            }
        }
        self.known = now;
        events
    }
}
