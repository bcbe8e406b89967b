//! A transaction is brought to its end now, by a person's word, where that can't tear it: what its
//! coordinator left is settled by the rules of recovery, or a kept outcome is carried out.
//!
//! Promises to touch nothing while its coordinator lives, or where recovery would touch nothing.

use std::collections::BTreeMap;

use super::caretaker::{
    Caretaker, CoordinatorState, Recorded, SeenBranch, SeenCoordinator, not_configured, taken,
};
use super::held::{Held, Judged, Left, Pass, judge_orphan, orphan};
use super::legacy::Batches;
use crate::decision_log::{Legacy, Registered};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, ParticipantName, TransactionId};
use crate::participant::End;
use crate::protocol::decision::{Outcome, Record};
use crate::protocol::fate::Fate;

const OPERATION: &str = "resolve transaction";
/// How often what has no clear answer yet is asked again, within a minute.
const TRIES: u32 = 12;

/// What is known of a transaction before anything is done.
#[derive(Clone, Debug)]
pub struct Prospect {
    /// Which one.
    pub id: TransactionId,
    /// How it ended, where a decision or an outcome says so.
    pub outcome: Option<Outcome>,
    /// Its coordinator; None where nothing is left to be settled.
    pub coordinator: Option<SeenCoordinator>,
    /// What the coordinator has prepared, this transaction's and others', with whether it is decided.
    pub branches: Vec<(SeenBranch, bool)>,
}

/// What has become of a transaction.
#[derive(Debug)]
pub struct Resolved {
    /// How it ended. None: it is in doubt where a branch of it is left, otherwise that is not kept.
    pub outcome: Option<Outcome>,
    /// What keeps each participant in which something of its coordinator is left.
    pub left: BTreeMap<ParticipantName, Error>,
    /// Its branches that are prepared still.
    pub branches: Vec<SeenBranch>,
    /// What each participant says of it; only where something is left.
    pub facts: Vec<(ParticipantName, String)>,
}

impl Caretaker {
    /// What is known, and what would be done. Changes nothing. Refused where its coordinator lives or is being
    /// recovered.
    pub async fn look_before_resolving(&self, id: TransactionId) -> Result<Prospect> {
        let branches = self.branches_of(id.coordinator).await?;
        let found = self.find(id.coordinator).await?;
        // Behind the record: what recovery keeps of a transaction is there before the record goes.
        let kept = self.session.outcome(id).await?;
        let Some(Recorded { seen, record, batches }) = found else {
            let is_open = branches.iter().any(|branch| branch.name.transaction == id);
            if !is_open && kept.is_none() {
                self.expect_ours(id).await?;
            }
            let coordinator = is_open.then(|| SeenCoordinator::orphan(id.coordinator));
            let branches = branches.into_iter().map(|branch| (branch, false)).collect();
            return Ok(Prospect { id, outcome: kept, coordinator, branches });
        };
        let outcome = kept.or_else(|| is_decided(&batches, id.number).then_some(Outcome::Committed));
        let is_prepared = branches.iter().any(|branch| branch.name.transaction == id);
        // Of the dead something may be left in a participant that can't be looked at from here.
        let unsettled = record.participants.iter().filter(|(_, used)| !used.is_settled);
        let mut may_be_left = unsettled.filter(|(name, _)| may_have(&batches, id.number, name));
        let is_open = kept.is_none()
            || is_prepared
            || (seen.state != CoordinatorState::Alive && may_be_left.next().is_some());
        if is_open {
            seen.expect_dead(OPERATION)?;
        }
        let decided = |branch: &SeenBranch| is_decided(&batches, branch.name.transaction.number);
        let branches = branches.into_iter().map(|branch| {
            let is_decided = decided(&branch);
            (branch, is_decided)
        });
        Ok(Prospect { id, outcome, coordinator: is_open.then_some(seen), branches: branches.collect() })
    }

    /// Does it. May be run again after any error.
    pub async fn resolve(&self, prospect: &Prospect) -> Result<Resolved> {
        let id = prospect.id;
        match &prospect.coordinator {
            None => self.resolved(id, prospect.outcome, self.all_away(), None).await,
            Some(seen) if seen.state == CoordinatorState::Orphan => match prospect.outcome {
                Some(outcome) => self.carry_out(id, outcome).await,
                None => self.resolve_orphan(id).await,
            },
            Some(_) => self.recover(id).await,
        }
    }

    /// Recovers its coordinator, as any node does.
    async fn recover(&self, id: TransactionId) -> Result<Resolved> {
        let mut held = Held::new(self.take_over(OPERATION, id.coordinator).await?);
        let passed = self.settle(&mut held).await;
        if !passed.as_ref().is_ok_and(|pass| pass.is_over) {
            // Otherwise it would end with the session.
            let _ = self.session.let_go(id.coordinator).await;
        }
        let Legacy { record, batches, .. } = &held.legacy;
        let left = passed?.left.into_iter().filter(|(name, _)| may_have(batches, id.number, name));
        let left = left.map(|(name, left)| {
            let error = self.why_left(&name, left);
            (name, error)
        });
        let outcome = match is_decided(batches, id.number) {
            true => Some(Outcome::Committed),
            false if held.rolled_back.contains(&id.number) => Some(Outcome::RolledBack),
            false => self.session.outcome(id).await?,
        };
        self.resolved(id, outcome, left.collect(), Some((record, batches))).await
    }

    /// Again while something has no clear answer yet.
    async fn settle(&self, held: &mut Held) -> Result<Pass> {
        let mut failures = 0;
        loop {
            let pass = held.settle(&self.scope, &self.members, &*self.session).await?;
            let is_unclear = pass.left.values().any(|left| matches!(left, Left::NotYet));
            if !is_unclear || failures == TRIES {
                return Ok(pass);
            }
            failures += 1;
            let wait = self.scope.settings.now().retry.wait(failures, 0.5);
            tokio::time::sleep(wait).await;
        }
    }

    async fn resolve_orphan(&self, id: TransactionId) -> Result<Resolved> {
        let adopted = self.session.adopt_orphan(id.coordinator, &orphan()).await?;
        let Some(fence) = adopted else { return Err(taken(OPERATION, id.coordinator)) };
        let judged = judge_orphan(&self.scope, &self.members, &*self.session, fence).await;
        if judged.is_err() {
            let _ = self.session.let_go(id.coordinator).await;
        }
        let Judged { failed: mut left, rolled_back } = judged?;
        let outcome = match left.is_empty() {
            true if rolled_back.contains(&id.number) => Some(Outcome::RolledBack),
            // Somebody else has ended it since it was looked at.
            true => self.session.outcome(id).await?,
            false => None,
        };
        left.extend(self.all_away());
        self.resolved(id, outcome, left, None).await
    }

    /// Ends its branches as the outcome says. Its coordinator has no record any more, so that nobody else
    /// decides otherwise.
    async fn carry_out(&self, id: TransactionId, outcome: Outcome) -> Result<Resolved> {
        let end = match outcome {
            Outcome::Committed => End::Commit,
            Outcome::RolledBack => End::RollBack,
        };
        let mut left = self.all_away();
        for branch in self.branches_of(id.coordinator).await? {
            let name = &branch.name.participant;
            let Some(member) = self.members.get(name).filter(|_| branch.name.transaction == id) else {
                continue;
            };
            if let Err(error) = member.port.end(&branch.name, Some(&branch.owner), end).await {
                left.insert(name.clone(), error.with("participant", name));
            }
        }
        self.resolved(id, Some(outcome), left, None).await
    }

    async fn resolved(
        &self,
        id: TransactionId,
        outcome: Option<Outcome>,
        left: BTreeMap<ParticipantName, Error>,
        of: Option<(&Record, &Batches)>,
    ) -> Result<Resolved> {
        let mut branches = self.branches_of(id.coordinator).await?;
        branches.retain(|branch| branch.name.transaction == id);
        let facts = match left.is_empty() {
            true => Vec::new(),
            false => self.facts(id, &branches, of).await,
        };
        Ok(Resolved { outcome, left, branches, facts })
    }

    fn why_left(&self, name: &ParticipantName, left: Left) -> Error {
        match left {
            Left::Failed(error) => error,
            Left::NotYet => {
                let why = "there is no clear answer yet: the server is ending a branch, or was just restarted. Run this \
                           again";
                Error::new(ErrorKind::Unreachable, OPERATION, why).with("participant", name)
            }
            Left::Unknown => match self.away.get(name) {
                Some(away) => why_away(name, away),
                None => not_configured().with("participant", name),
            },
        }
    }

    /// What each participant says of a transaction, for a person to compare.
    async fn facts(
        &self,
        id: TransactionId,
        branches: &[SeenBranch],
        of: Option<(&Record, &Batches)>,
    ) -> Vec<(ParticipantName, String)> {
        let names: Vec<&ParticipantName> = match of {
            Some((record, _)) => record.participants.keys().collect(),
            None => self.members.keys().collect(),
        };
        let mut facts = Vec::new();
        for name in names {
            let xid = of.and_then(|(_, batches)| number_of(batches, id.number, name));
            let prepared = branches.iter().find(|branch| branch.name.participant == *name);
            let fact = match (prepared, self.members.get(name), xid) {
                (Some(branch), ..) => {
                    format!("its branch is prepared, by {}, for {} s", branch.owner, branch.age.as_secs())
                }
                (None, None, _) => "it can't be looked at from here".to_string(),
                (None, Some(member), Some(xid)) => match member.port.fate(xid).await {
                    Ok((_, fate)) => {
                        format!("no branch is prepared; of its number {xid} it says: {}", said(fate))
                    }
                    Err(error) => error.to_string(),
                },
                (None, Some(_), None) => "no branch is prepared, and no decision names one".to_string(),
            };
            facts.push((name.clone(), fact));
        }
        facts
    }

    /// What may be in a participant that can't be looked at.
    fn all_away(&self) -> BTreeMap<ParticipantName, Error> {
        self.away.iter().map(|(name, away)| (name.clone(), why_away(name, away))).collect()
    }

    /// Names of another installation are told from those of transactions that are at their end.
    async fn expect_ours(&self, id: TransactionId) -> Result<()> {
        for member in self.members.values() {
            let (_, listed) = member.port.prepared().await?;
            let Some(branch) = listed.iter().find(|branch| branch.name.transaction == id) else { continue };
            let why = "this transaction is of another installation: run this with that one's configuration";
            let error = Error::new(ErrorKind::Invalid, OPERATION, why).with("branch", &branch.name);
            return Err(error.with("participant", &member.name));
        }
        Ok(())
    }

    pub(super) async fn find(&self, id: CoordinatorId) -> Result<Option<Recorded>> {
        let registered = self.session.coordinators().await?;
        let found: Option<&Registered> = registered.iter().find(|one| one.coordinator == id);
        match found {
            Some(registered) => self.recorded(*registered).await,
            None => Ok(None),
        }
    }

    /// What a coordinator has prepared, in the participants that can be looked at.
    async fn branches_of(&self, id: CoordinatorId) -> Result<Vec<SeenBranch>> {
        let mut found = Vec::new();
        for member in self.members.values() {
            let branches = self.branches(member).await?.into_iter();
            found.extend(branches.filter(|branch| branch.name.transaction.coordinator == id));
        }
        Ok(found)
    }
}

pub(super) fn is_decided(batches: &Batches, number: u64) -> bool {
    batches.values().flatten().any(|decision| decision.number == number)
}

/// A decision names each of its branches. Without one any participant may have one.
fn may_have(batches: &Batches, number: u64, participant: &ParticipantName) -> bool {
    !is_decided(batches, number) || number_of(batches, number, participant).is_some()
}

/// The server's number of a decided branch.
fn number_of(batches: &Batches, number: u64, participant: &ParticipantName) -> Option<u64> {
    let decision = batches.values().flatten().find(|decision| decision.number == number)?;
    Some(decision.branches.iter().find(|branch| branch.participant == *participant)?.xid)
}

fn said(fate: Fate) -> &'static str {
    match fate {
        Fate::InProgress => "in progress",
        Fate::Committed => "committed",
        Fate::RolledBack => "rolled back",
        Fate::Unknown => "nothing, it has never had it or it was too long ago",
    }
}

fn why_away(name: &ParticipantName, away: &Error) -> Error {
    let why = "this participant can't be looked at now: bring it back, and run this again";
    let error = Error::new(ErrorKind::Unreachable, OPERATION, why);
    error.with("participant", name).with("error", away)
}
