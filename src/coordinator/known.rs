//! What is known of transactions that are not at their end, and how one has ended. Only looks.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::caretaker::{Caretaker, CoordinatorState, Recorded, SeenBranch};
use super::resolve::is_decided;
use crate::error::{Error, Result};
use crate::id::{CoordinatorId, ParticipantName, TransactionId};
use crate::protocol::decision::Outcome;

/// What is known of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which one.
    pub id: TransactionId,
    /// What is known of its end.
    pub state: SeenState,
    /// Its prepared branches, by participant, as far as those can be looked at.
    pub prepared: Prepared,
}

type Prepared = BTreeMap<ParticipantName, SeenBranch>;

/// What was found, and which participants could not be looked at.
#[derive(Debug)]
pub struct Known<T> {
    /// What was found.
    pub found: T,
    /// Why something may be missing.
    pub errors: Vec<Error>,
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
    /// Nothing is kept of it, and not every participant can be looked at.
    Unknown,
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
            SeenState::Unknown => "unknown",
        }
    }
}

impl Caretaker {
    /// Every transaction of this installation of which a branch is prepared.
    pub async fn transactions(&self) -> Result<Known<Vec<Seen>>> {
        let Known { found: prepared, errors } = self.prepared().await;
        let mut known = Coordinators::default();
        let mut found = Vec::new();
        for (id, prepared) in prepared {
            found.push(self.judge(&mut known, id, prepared, errors.is_empty()).await?);
        }
        if found.iter().any(Seen::is_orphaned) {
            // Whoever lives may have ended it, and its coordinator too, since it was listed.
            let still = self.prepared().await.found;
            found.retain(|seen| !seen.is_orphaned() || still.contains_key(&seen.id));
        }
        Ok(Known { found, errors })
    }

    /// What is known of one transaction.
    pub async fn transaction(&self, id: TransactionId) -> Result<Known<Seen>> {
        let first = self.look_at(id).await?;
        // As above.
        if first.found.is_orphaned() { self.look_at(id).await } else { Ok(first) }
    }

    async fn look_at(&self, id: TransactionId) -> Result<Known<Seen>> {
        let Known { found: mut prepared, errors } = self.prepared().await;
        let prepared = prepared.remove(&id).unwrap_or_default();
        let found = self.judge(&mut Coordinators::default(), id, prepared, errors.is_empty()).await?;
        Ok(Known { found, errors })
    }

    /// Before the decision log is read: whoever prepares a branch has a record there, and keeps it until that
    /// is ended.
    async fn prepared(&self) -> Known<BTreeMap<TransactionId, Prepared>> {
        let mut found: BTreeMap<TransactionId, Prepared> = BTreeMap::new();
        let mut errors = self.not_looked_at();
        for (name, member) in &self.members {
            match self.branches(member).await {
                Ok(branches) => {
                    for branch in branches {
                        found.entry(branch.name.transaction).or_default().insert(name.clone(), branch);
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        Known { found, errors }
    }

    async fn judge(
        &self,
        known: &mut Coordinators,
        id: TransactionId,
        prepared: Prepared,
        is_all: bool,
    ) -> Result<Seen> {
        let recorded = match known.entry(id.coordinator) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unread) => unread.insert(self.find(id.coordinator).await?),
        };
        let recorded = recorded.as_ref();
        let is_decided = recorded.is_some_and(|one| is_decided(&one.batches, id.number));
        // Behind the record: what recovery keeps of a transaction is there before the record goes.
        let kept = if is_decided { Some(Outcome::Committed) } else { self.session.outcome(id).await? };
        let state = match (kept, recorded) {
            (Some(Outcome::Committed), _) => SeenState::Committed,
            (Some(Outcome::RolledBack), _) => SeenState::RolledBack,
            _ if prepared.is_empty() && is_all => SeenState::NotKept,
            _ if prepared.is_empty() => SeenState::Unknown,
            (None, Some(one)) if one.seen.state == CoordinatorState::Alive => SeenState::UnderWay,
            (None, Some(one)) if !one.record.is_orphan => SeenState::Unsettled,
            _ => SeenState::Orphaned,
        };
        Ok(Seen { id, state, prepared })
    }
}

impl Seen {
    fn is_orphaned(&self) -> bool {
        self.state == SeenState::Orphaned
    }
}

/// What the decision log has, each coordinator read once.
type Coordinators = BTreeMap<CoordinatorId, Option<Recorded>>;
