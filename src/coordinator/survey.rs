//! What is not at its end, as a person looks at it: coordinators, prepared branches, and what recovery
//! leaves to a person. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::caretaker::{Caretaker, CoordinatorState, Recorded, SeenBranch, SeenCoordinator, not_configured};
use super::legacy;
use super::member::Member;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, ParticipantName, TransactionId};

const OPERATION: &str = "look at transactions";

/// All of it, as far as it can be looked at.
#[derive(Debug, Default)]
pub struct Survey {
    /// Every coordinator that has a record, or a prepared branch without one.
    pub coordinators: Vec<Surveyed>,
    /// Every prepared branch of this installation, with who settles it.
    pub branches: Vec<(SeenBranch, CoordinatorState)>,
    /// What recovery does not settle without a person, and what to do.
    pub refusals: Vec<Error>,
    /// What could not be looked at.
    pub errors: Vec<Error>,
}

/// A coordinator, and where something of it is left.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Which one.
    pub coordinator: SeenCoordinator,
    /// Where something may be left to be settled.
    pub unsettled: Vec<ParticipantName>,
}

impl Survey {
    /// How many coordinators are in a state.
    pub fn count(&self, state: CoordinatorState) -> usize {
        self.coordinators.iter().filter(|one| one.coordinator.state == state).count()
    }

    /// How many transactions have a prepared branch and no coordinator that lives, and for how long the
    /// oldest branch has waited; None where there is none.
    pub fn in_doubt(&self) -> (usize, Option<Duration>) {
        let waiting = self.branches.iter().filter(|(_, state)| *state != CoordinatorState::Alive);
        let ids: BTreeSet<TransactionId> =
            waiting.clone().map(|(branch, _)| branch.name.transaction).collect();
        (ids.len(), waiting.map(|(branch, _)| branch.age).max())
    }

    /// What speaks against settling something: it waits for a person, or for a server.
    fn add(&mut self, error: Error) {
        let of_its_kind =
            if error.kind() == ErrorKind::Refused { &mut self.refusals } else { &mut self.errors };
        of_its_kind.push(error);
    }
}

impl Caretaker {
    /// Looks at all of it.
    pub async fn survey(&self) -> Result<Survey> {
        let mut survey = Survey::default();
        survey.errors.extend(self.not_looked_at());
        // Before the records: whoever prepares a branch has one, and keeps it until that is ended.
        let mut branches = Vec::new();
        for member in self.members.values() {
            match self.branches(member).await {
                Ok(found) => branches.extend(found),
                Err(error) => survey.errors.push(error),
            }
        }
        let recorded = self.all_recorded().await?;
        for one in &recorded {
            self.add_recorded(&mut survey, one).await;
        }
        let known: BTreeMap<CoordinatorId, CoordinatorState> =
            recorded.iter().map(|one| (one.seen.id, one.seen.state)).collect();
        for branch in branches {
            let state = known.get(&branch.name.transaction.coordinator).copied();
            survey.branches.push((branch, state.unwrap_or(CoordinatorState::Orphan)));
        }
        self.add_orphans(&mut survey).await;
        self.add_roles(&mut survey).await;
        Ok(survey)
    }

    /// Why something may be missing.
    pub(super) fn not_looked_at(&self) -> Vec<Error> {
        let away = self.away.iter().map(|(name, error)| {
            let why = "this participant can't be looked at";
            Error::new(error.kind(), OPERATION, why).with("participant", name).with("error", error)
        });
        away.collect()
    }

    async fn add_recorded(&self, survey: &mut Survey, one: &Recorded) {
        let unsettled = one.record.participants.iter().filter(|(_, used)| !used.is_settled);
        let names = unsettled.clone().map(|(name, _)| name.clone()).collect();
        survey.coordinators.push(Surveyed { coordinator: one.seen.clone(), unsettled: names });
        if one.seen.state == CoordinatorState::Alive {
            return;
        }
        let id = one.seen.id;
        for (name, used) in unsettled {
            let whole = match self.members.get(name) {
                Some(member) => legacy::expect_whole(&self.scope, member, used, id, &one.batches).await,
                None if self.away.contains_key(name) => Ok(()),
                None => Err(not_configured()),
            };
            if let Err(error) = whole {
                survey.add(error.with("participant", name).with("coordinator", id));
            }
        }
    }

    async fn add_orphans(&self, survey: &mut Survey) {
        let mut orphans: BTreeMap<CoordinatorId, BTreeSet<ParticipantName>> = BTreeMap::new();
        for (branch, _) in survey.branches.iter().filter(|(_, state)| *state == CoordinatorState::Orphan) {
            let places = orphans.entry(branch.name.transaction.coordinator).or_default();
            places.insert(branch.name.participant.clone());
        }
        for (id, names) in orphans {
            let mut unsettled = Vec::new();
            for member in names.iter().filter_map(|name| self.members.get(name)) {
                match legacy::orphans(&self.scope, member, id).await {
                    // Its record and it may be gone since: settled in between.
                    Ok(left) if left.is_empty() => continue,
                    Ok(_) => {}
                    Err(error) => survey.add(error.with("participant", &member.name).with("coordinator", id)),
                }
                unsettled.push(member.name.clone());
            }
            if unsettled.is_empty() {
                survey.branches.retain(|(branch, _)| branch.name.transaction.coordinator != id);
            } else {
                survey.coordinators.push(Surveyed { coordinator: SeenCoordinator::orphan(id), unsettled });
            }
        }
    }

    /// Roles that have prepared something and that this user can't take.
    async fn add_roles(&self, survey: &mut Survey) {
        let of = |(branch, _): &(SeenBranch, CoordinatorState)| {
            let member: &Arc<Member> = self.members.get(&branch.name.participant)?;
            Some((branch.name.participant.clone(), (branch.owner.clone(), Arc::clone(member))))
        };
        let roles: Vec<_> = survey.branches.iter().filter_map(of).collect();
        let mut asked = BTreeSet::new();
        for (name, (role, member)) in roles {
            if !asked.insert((name.clone(), role.clone())) {
                continue;
            }
            match member.can_act_as(&role).await {
                Ok(true) => {}
                Ok(false) => {
                    let why = "this user can't take the role that prepared a branch, and nobody else may end it but a \
                               superuser: `grant` that role to this user";
                    let refused = Error::new(ErrorKind::Refused, OPERATION, why);
                    survey.refusals.push(refused.with("role", role).with("participant", name));
                }
                Err(error) => survey.errors.push(error),
            }
        }
    }
}
