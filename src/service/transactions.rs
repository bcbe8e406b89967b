//! What is known of transactions that are not at their end, and how one has ended. Only looks.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::node::{Opened, open_stores};
use crate::config::Config;
use crate::coordinator::SeenBranch;
use crate::decision_log::LogSession;
use crate::error::Result;
use crate::id::{CoordinatorId, ParticipantName, TransactionId};
use crate::protocol::decision::{Decision, Outcome};

/// What is known of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which one.
    pub id: TransactionId,
    /// What is known of its end.
    pub state: SeenState,
    /// Its prepared branches, by participant.
    pub prepared: BTreeMap<ParticipantName, SeenBranch>,
}

/// What is known of a transaction's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenState {
    /// It is committed; where branches are prepared still, they will be, too.
    Committed,
    /// It is rolled back.
    RolledBack,
    /// Its branches are prepared, and its coordinator lives: it decides, or settles it.
    UnderWay,
    /// Its branches are prepared, and its coordinator is dead: whoever lives settles it.
    Unsettled,
    /// Its branches are prepared, and the decision log does not know its coordinator.
    Orphaned,
    /// Nothing is prepared, and nothing is kept of it: it may have ended either way.
    NotKept,
}

impl SeenState {
    /// The word in JSON and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            SeenState::Committed => "committed",
            SeenState::RolledBack => "rolled back",
            SeenState::UnderWay => "under way",
            SeenState::Unsettled => "unsettled",
            SeenState::Orphaned => "orphaned",
            SeenState::NotKept => "not kept",
        }
    }
}

/// Every transaction of this installation of which a branch is prepared, in a database that the
/// configuration names.
pub async fn transactions(config: &Config) -> Result<Vec<Seen>> {
    let opened = open_stores(config).await?;
    let session = opened.log.open().await?;
    let prepared = prepared(&opened).await?;
    let mut known = Coordinators::default();
    let mut found = Vec::new();
    for (id, prepared) in prepared {
        found.push(known.judge(&*session, id, prepared).await?);
    }
    Ok(found)
}

/// What is known of one transaction.
pub async fn transaction(config: &Config, id: TransactionId) -> Result<Seen> {
    let opened = open_stores(config).await?;
    let session = opened.log.open().await?;
    let prepared = prepared(&opened).await?.remove(&id).unwrap_or_default();
    Coordinators::default().judge(&*session, id, prepared).await
}

type Prepared = BTreeMap<ParticipantName, SeenBranch>;

async fn prepared(opened: &Opened) -> Result<BTreeMap<TransactionId, Prepared>> {
    let mut found: BTreeMap<TransactionId, Prepared> = BTreeMap::new();
    for member in &opened.members {
        let listed = member.port.prepared().await.map_err(|error| error.with("participant", &member.name))?;
        for branch in listed.1 {
            let name = &branch.name;
            if (&name.namespace, name.incarnation, &name.participant)
                == (&opened.namespace, opened.incarnation, &member.name)
            {
                found.entry(name.transaction).or_default().insert(member.name.clone(), branch.into());
            }
        }
    }
    Ok(found)
}

/// What the decision log has, each coordinator read once.
#[derive(Default)]
struct Coordinators {
    live: Option<BTreeSet<CoordinatorId>>,
    decisions: BTreeMap<CoordinatorId, Option<BTreeMap<u64, Vec<Decision>>>>,
}

impl Coordinators {
    async fn judge(
        &mut self,
        session: &dyn LogSession,
        id: TransactionId,
        prepared: Prepared,
    ) -> Result<Seen> {
        let state = match session.outcome(id).await? {
            Some(Outcome::Committed) => SeenState::Committed,
            Some(Outcome::RolledBack) => SeenState::RolledBack,
            None => self.judge_by_record(session, id, prepared.is_empty()).await?,
        };
        Ok(Seen { id, state, prepared })
    }

    async fn judge_by_record(
        &mut self,
        session: &dyn LogSession,
        id: TransactionId,
        is_nothing_prepared: bool,
    ) -> Result<SeenState> {
        if let Entry::Vacant(unread) = self.decisions.entry(id.coordinator) {
            unread.insert(session.look(id.coordinator).await?.map(|(_, batches)| batches));
        }
        let decisions = self.decisions.get(&id.coordinator).and_then(Option::as_ref);
        let is_decided = decisions
            .is_some_and(|batches| batches.values().flatten().any(|decision| decision.number == id.number));
        if is_decided {
            return Ok(SeenState::Committed);
        }
        if is_nothing_prepared {
            return Ok(SeenState::NotKept);
        }
        if decisions.is_none() {
            return Ok(SeenState::Orphaned);
        }
        if self.live.is_none() {
            let registered = session.coordinators().await?;
            let live = registered.into_iter().filter(|one| one.is_live).map(|one| one.coordinator);
            self.live = Some(live.collect());
        }
        let is_live = self.live.as_ref().is_some_and(|live| live.contains(&id.coordinator));
        Ok(if is_live { SeenState::UnderWay } else { SeenState::Unsettled })
    }
}
