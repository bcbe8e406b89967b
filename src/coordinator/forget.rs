//! A participant is given up, by a person's word: one that was taken out of the configuration, or has lost
//! history, keeps the records of dead coordinators for ever otherwise.
//!
//! Promises that every decision stays in the log until all other participants are settled, and then in the
//! outcomes: what was given up can still be ended by hand as the others are.

use std::collections::BTreeSet;

use super::caretaker::{Caretaker, Recorded, SeenBranch, SeenCoordinator};
use super::held::Held;
use super::legacy::{self, Batches};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, ParticipantName, TransactionId};
use crate::protocol::branch::BranchName;
use crate::protocol::decision::{DecidedBranch, Used};

const OPERATION: &str = "forget participant";

/// What forgetting a participant would give up.
#[derive(Clone, Debug)]
pub struct Forgetting {
    /// Which one.
    pub participant: ParticipantName,
    /// Whether the configuration names it, and its branches can be listed.
    pub is_configured: bool,
    /// For each record that would be changed.
    pub records: Vec<GivenUp>,
    /// Records that name it and that recovery settles by itself.
    pub kept: Vec<CoordinatorId>,
}

/// What one coordinator has there.
#[derive(Clone, Debug)]
pub struct GivenUp {
    /// Whose record it is.
    pub coordinator: SeenCoordinator,
    /// Its branches there whose transactions are decided committed, prepared still or not.
    pub decided: Vec<BranchName>,
    /// Prepared branches there that no decision names; empty where it can't be listed.
    pub undecided: Vec<SeenBranch>,
    /// Why recovery does not settle it.
    pub why: String,
}

impl Caretaker {
    /// What would be given up. Changes nothing. Refused while somebody is alive for a coordinator that is
    /// concerned.
    pub async fn look_before_forgetting(&self, name: &ParticipantName) -> Result<Forgetting> {
        let is_configured = self.members.contains_key(name);
        let (mut records, mut kept) = (Vec::new(), Vec::new());
        for recorded in self.all_recorded().await? {
            let used = recorded.record.participants.get(name).filter(|used| !used.is_settled);
            let Some(used) = used else { continue };
            if let Some(away) = self.away.get(name) {
                let why = "this participant is configured and can't be looked at, so it is not known whether \
                           recovery settles it: bring it back; or take it out of the configuration, where it is \
                           gone for good";
                let error = Error::new(ErrorKind::Unreachable, OPERATION, why).with("participant", name);
                return Err(error.with("error", away));
            }
            recorded.seen.expect_dead(OPERATION)?;
            match self.why_not_settled(name, used, &recorded).await? {
                Some(why) => records.push(self.given_up(name, &recorded, why).await?),
                None => kept.push(recorded.seen.id),
            }
        }
        let participant = name.clone();
        Ok(Forgetting { participant, is_configured, records, kept })
    }

    /// Has the records say that nothing is to be settled there any more; recovery then ends them. May be run
    /// again after any error.
    pub async fn forget(&self, forgetting: &Forgetting) -> Result<()> {
        for given_up in &forgetting.records {
            let id = given_up.coordinator.id;
            let mut held = Held::new(self.take_over(OPERATION, id).await?);
            let done = self.give_up(forgetting, given_up, &mut held).await;
            // Otherwise it would end with the session.
            let let_go = self.session.let_go(id).await;
            done.and(let_go)?;
        }
        Ok(())
    }

    async fn give_up(&self, forgetting: &Forgetting, given_up: &GivenUp, held: &mut Held) -> Result<()> {
        let shown: BTreeSet<TransactionId> = given_up.decided.iter().map(|name| name.transaction).collect();
        let decided = self.decided(given_up.coordinator.id, &forgetting.participant, &held.legacy.batches);
        if decided.iter().any(|name| !shown.contains(&name.transaction)) {
            let why = "what was found has changed since it was shown: run this again";
            let refused = Error::new(ErrorKind::Refused, OPERATION, why);
            return Err(refused.with("coordinator", given_up.coordinator.id));
        }
        held.mark_settled(&*self.session, &forgetting.participant).await
    }

    /// None where recovery settles it by itself.
    async fn why_not_settled(
        &self,
        name: &ParticipantName,
        used: &Used,
        recorded: &Recorded,
    ) -> Result<Option<String>> {
        let Some(member) = self.members.get(name) else {
            return Ok(Some("it is not in this configuration".to_string()));
        };
        let id = recorded.seen.id;
        match legacy::expect_whole(&self.scope, member, used, id, &recorded.batches).await {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Refused => Ok(Some(error.to_string())),
            Err(error) => Err(error.with("participant", name)),
        }
    }

    async fn given_up(&self, name: &ParticipantName, recorded: &Recorded, why: String) -> Result<GivenUp> {
        let id = recorded.seen.id;
        let decided = self.decided(id, name, &recorded.batches);
        let mut undecided = match self.members.get(name) {
            Some(member) => self.branches(member).await?,
            None => Vec::new(),
        };
        undecided
            .retain(|branch| branch.name.transaction.coordinator == id && !decided.contains(&branch.name));
        Ok(GivenUp { coordinator: recorded.seen.clone(), decided, undecided, why })
    }

    /// The branches there of which the log says *commit*.
    fn decided(
        &self,
        id: CoordinatorId,
        participant: &ParticipantName,
        batches: &Batches,
    ) -> Vec<BranchName> {
        let here = legacy::decided_in(batches, participant);
        let name = |(number, branch): (u64, DecidedBranch)| {
            self.scope.name(TransactionId { coordinator: id, number }, participant, branch.is_home)
        };
        here.into_iter().map(name).collect()
    }
}
