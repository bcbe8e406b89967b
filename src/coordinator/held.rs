//! A dead coordinator that was taken over, and how what it left is settled: participant by participant,
//! each by the rule of records, or all of them by the rule of orphans.
//!
//! Relies on the fence having been raised in the session that is given. Promises to delete no decision
//! before every participant is settled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::identity::Scope;
use super::legacy;
use super::member::Member;
use crate::decision_log::{Fence, Legacy, LogSession};
use crate::error::{Error, Result};
use crate::id::{CoordinatorId, ParticipantName, TransactionId};
use crate::protocol::decision::{Outcome, Record};

/// The participants that a node knows.
pub(super) type Members = BTreeMap<ParticipantName, Arc<Member>>;

/// See the module.
pub(super) struct Held {
    pub(super) legacy: Legacy,
    /// Transactions of which a branch was rolled back.
    pub(super) rolled_back: BTreeSet<u64>,
}

/// What has become of it.
#[derive(Default)]
pub(super) struct Pass {
    /// Its record is gone: nothing is left to do.
    pub(super) is_over: bool,
    /// What keeps each participant that is not settled.
    pub(super) left: BTreeMap<ParticipantName, Left>,
}

/// What keeps a participant from being settled.
pub(super) enum Left {
    /// This node does not know it.
    Unknown,
    /// It is to be asked again.
    NotYet,
    /// It can't be settled now, or not without a person.
    Failed(Error),
}

impl Held {
    pub(super) fn new(legacy: Legacy) -> Self {
        Held { legacy, rolled_back: BTreeSet::new() }
    }

    /// Settles what can be settled now. An error is one of the decision log.
    pub(super) async fn settle(
        &mut self,
        scope: &Scope,
        members: &Members,
        session: &dyn LogSession,
    ) -> Result<Pass> {
        let Fence { coordinator: id, .. } = self.legacy.fence;
        if self.legacy.record.is_orphan {
            let judged = judge_orphan(scope, members, session, self.legacy.fence).await?;
            let left = judged.failed.into_iter().map(|(name, error)| (name, Left::Failed(error)));
            self.rolled_back.extend(judged.rolled_back);
            return Ok(Pass { is_over: true, left: left.collect() });
        }
        self.end_late(scope, members, session).await?;
        let mut pass = Pass::default();
        for name in self.unsettled() {
            let Some(member) = members.get(&name) else {
                pass.left.insert(name, Left::Unknown);
                continue;
            };
            let Some(used) = self.legacy.record.participants.get(&name) else { continue };
            let (legacy, rolled_back) = (&self.legacy, &mut self.rolled_back);
            match legacy::settle(scope, session, member, used, legacy, rolled_back).await {
                Ok(true) => self.mark_settled(session, &name).await?,
                Ok(false) => drop(pass.left.insert(name, Left::NotYet)),
                Err(error) => {
                    let error = error.with("participant", &name).with("coordinator", id);
                    pass.left.insert(name, Left::Failed(error));
                }
            }
        }
        if pass.left.is_empty() {
            let batches: Vec<u64> = self.legacy.batches.keys().copied().collect();
            session.remove(self.legacy.fence, &batches, &self.outcomes(id)).await?;
            pass.is_over = true;
        }
        Ok(pass)
    }

    /// Ends what was prepared in a participant behind its end, while another one keeps the record.
    async fn end_late(&mut self, scope: &Scope, members: &Members, session: &dyn LogSession) -> Result<()> {
        let settled = self.legacy.record.participants.iter().filter(|(_, used)| used.is_settled);
        for member in settled.filter_map(|(name, _)| members.get(name)) {
            legacy::end_late(scope, session, member, &self.legacy, &mut self.rolled_back).await?;
        }
        Ok(())
    }

    /// Has the record say that nothing is to be settled in a participant any more.
    pub(super) async fn mark_settled(
        &mut self,
        session: &dyn LogSession,
        name: &ParticipantName,
    ) -> Result<()> {
        let mut record = self.legacy.record.clone();
        if let Some(used) = record.participants.get_mut(name) {
            used.is_settled = true;
        }
        session.record(self.legacy.fence, &record).await?;
        self.legacy.record = record;
        Ok(())
    }

    fn unsettled(&self) -> Vec<ParticipantName> {
        let participants = self.legacy.record.participants.iter();
        participants.filter(|(_, used)| !used.is_settled).map(|(name, _)| name.clone()).collect()
    }

    fn outcomes(&self, id: CoordinatorId) -> Vec<(TransactionId, Outcome)> {
        let decisions =
            self.legacy.batches.values().flatten().map(|decision| (decision.number, Outcome::Committed));
        let rolled_back = self.rolled_back.iter().map(|number| (*number, Outcome::RolledBack));
        let all = decisions.chain(rolled_back);
        all.map(|(number, outcome)| (TransactionId { coordinator: id, number }, outcome)).collect()
    }
}

/// What has become of a coordinator without a record.
pub(super) struct Judged {
    /// What kept which participant.
    pub(super) failed: BTreeMap<ParticipantName, Error>,
    /// Transactions of which a branch was rolled back.
    pub(super) rolled_back: BTreeSet<u64>,
}

/// The record by which a coordinator that has none is judged.
pub(super) fn orphan() -> Record {
    let (host, participants) = (String::new(), BTreeMap::new());
    Record { host, pid: std::process::id(), is_orphan: true, participants }
}

/// Ends the branches of a coordinator that has an orphan's record, and removes that. Never judged as one that has a record: that would roll back what was decided.
pub(super) async fn judge_orphan(
    scope: &Scope,
    members: &Members,
    session: &dyn LogSession,
    fence: Fence,
) -> Result<Judged> {
    let id = fence.coordinator;
    let mut judged = Judged { failed: BTreeMap::new(), rolled_back: BTreeSet::new() };
    for (name, member) in members {
        let ended = legacy::end_orphans(scope, session, member, fence, &mut judged.rolled_back).await;
        if let Err(error) = ended {
            judged.failed.insert(name.clone(), error.with("participant", name).with("coordinator", id));
        }
    }
    session.remove(fence, &[], &[]).await?;
    Ok(judged)
}
