//! Settles what dead coordinators have left, in every node that lives. One of them takes over, by the
//! fence after which the dead one decides nothing more; then the decision log says what is committed,
//! and everything else is rolled back.
//!
//! Relies on taking over and reading being one session's. Promises to touch nothing where a history was
//! lost: there a branch may look undecided whose decision was carried out and forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::identity::Scope;
use super::legacy;
use super::member::Member;
use crate::decision_log::{Fence, Legacy, LogSession};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, ParticipantName, TransactionId};
use crate::protocol::decision::{Outcome, Record};

/// Between two times at which old outcomes and history rows are forgotten.
const CLEAN_INTERVAL: Duration = Duration::from_secs(3600);
/// Most texts that are remembered as told.
const TOLD_MAX: usize = 1_000;

/// Looks for dead coordinators until the node is closed.
pub(super) struct Recoverer {
    scope: Arc<Scope>,
    members: BTreeMap<ParticipantName, Arc<Member>>,
    session: Option<Box<dyn LogSession>>,
    held: BTreeMap<CoordinatorId, Held>,
    /// Those of which it was not heard whether they were taken over.
    unclear: BTreeSet<CoordinatorId>,
    looked_for_orphans: Option<Instant>,
    cleaned: Option<Instant>,
    /// What a person was told already.
    told: BTreeSet<String>,
}

/// A dead coordinator that was taken over.
struct Held {
    legacy: Legacy,
    /// Transactions of which a branch was rolled back.
    rolled_back: BTreeSet<u64>,
}

impl Recoverer {
    pub(super) fn new(scope: Arc<Scope>, members: BTreeMap<ParticipantName, Arc<Member>>) -> Self {
        Recoverer {
            scope,
            members,
            session: None,
            held: BTreeMap::new(),
            unclear: BTreeSet::new(),
            looked_for_orphans: None,
            cleaned: None,
            told: BTreeSet::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut closed = self.scope.settler.closed.clone();
        while !*closed.borrow() {
            if let Err(error) = self.sweep().await {
                self.tell(&error);
            }
            tokio::select! {
                () = tokio::time::sleep(self.scope.settings.sweep_interval) => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
        }
        if let Some(session) = &self.session {
            for coordinator in self.held.keys() {
                // Otherwise it would end with the session.
                let _ = session.let_go(*coordinator).await;
            }
        }
    }

    async fn sweep(&mut self) -> Result<()> {
        if self.session.as_ref().is_none_or(|session| session.is_over()) {
            self.unclear.clear();
            // What was held is held no more; a new session has to write the fence again, or it could miss
            // a decision that came before it.
            self.held.clear();
            self.session = Some(self.scope.log.open().await?);
        }
        let Some(session) = self.session.take() else { return Ok(()) };
        let swept = self.sweep_in(&*session).await;
        self.session = Some(session);
        swept
    }

    async fn sweep_in(&mut self, session: &dyn LogSession) -> Result<()> {
        self.give_up_unclear(session).await?;
        for registered in session.coordinators().await? {
            let id = registered.coordinator;
            if registered.is_live || self.held.contains_key(&id) || !self.can_help(session, id).await? {
                continue;
            }
            self.unclear.insert(id);
            let legacy = session.take_over(id).await?;
            self.unclear.remove(&id);
            if let Some(legacy) = legacy {
                tracing::info!(coordinator = %id, host = legacy.record.host, "took over from a dead coordinator");
                self.held.insert(id, Held { legacy, rolled_back: BTreeSet::new() });
            }
        }
        for id in self.held.keys().copied().collect::<Vec<_>>() {
            let Some(mut held) = self.held.remove(&id) else { continue };
            match self.recover(session, id, &mut held).await {
                Ok(true) => {}
                Ok(false) => drop(self.held.insert(id, held)),
                Err(error) if error.kind() == ErrorKind::Fenced => {}
                Err(error) => {
                    self.held.insert(id, held);
                    self.tell(&error);
                }
            }
        }
        if self.cleaned.is_none_or(|at| at.elapsed() >= CLEAN_INTERVAL) {
            self.cleaned = Some(Instant::now());
            self.clean(session).await?;
        }
        let orphan_interval = self.scope.settings.orphan_interval;
        if self.looked_for_orphans.is_none_or(|at| at.elapsed() >= orphan_interval) {
            self.looked_for_orphans = Some(Instant::now());
            self.look_for_orphans(session).await?;
        }
        Ok(())
    }

    /// A coordinator that was taken over without a clear answer would count as living for as long as this
    /// session does, and nobody would settle it.
    async fn give_up_unclear(&mut self, session: &dyn LogSession) -> Result<()> {
        while let Some(id) = self.unclear.first().copied() {
            session.let_go(id).await?;
            self.unclear.remove(&id);
        }
        Ok(())
    }

    /// Forgets what nobody asks for any more.
    async fn clean(&self, session: &dyn LogSession) -> Result<()> {
        let settings = &self.scope.settings;
        session.forget_outcomes(settings.keep_days, settings.outcomes_max).await?;
        for member in self.members.values() {
            member.port.forget_histories(settings.keep_days).await?;
        }
        Ok(())
    }

    /// Whether there is something in it that this node can settle, or nothing left at all.
    async fn can_help(&mut self, session: &dyn LogSession, id: CoordinatorId) -> Result<bool> {
        let Some((record, _)) = session.look(id).await? else { return Ok(false) };
        let unsettled = record.participants.iter().filter(|(_, used)| !used.is_settled);
        let unsettled: Vec<&ParticipantName> = unsettled.map(|(name, _)| name).collect();
        let can_help = unsettled.is_empty() || unsettled.iter().any(|name| self.members.contains_key(*name));
        if !can_help {
            unsettled.iter().for_each(|name| self.tell(&not_configured(name, id)));
        }
        Ok(can_help)
    }

    /// Settles what can be settled; true where nothing is left, or nothing that this node could do.
    async fn recover(
        &mut self,
        session: &dyn LogSession,
        id: CoordinatorId,
        held: &mut Held,
    ) -> Result<bool> {
        if held.legacy.record.is_orphan {
            return self.judge_orphan(session, id, held.legacy.fence).await.map(|()| true);
        }
        let unsettled = held.legacy.record.participants.iter().filter(|(_, used)| !used.is_settled);
        let unsettled: Vec<_> = unsettled.map(|(name, used)| (name.clone(), used.clone())).collect();
        let (mut is_anything_mine, mut are_all_settled) = (false, true);
        for (name, used) in unsettled {
            let Some(member) = self.members.get(&name).cloned() else {
                are_all_settled = false;
                self.tell(&not_configured(&name, id));
                continue;
            };
            is_anything_mine = true;
            let (legacy, rolled_back) = (&held.legacy, &mut held.rolled_back);
            match legacy::settle(&self.scope, session, &member, &used, id, legacy, rolled_back).await {
                Ok(true) => {
                    let mut record = held.legacy.record.clone();
                    if let Some(used) = record.participants.get_mut(&name) {
                        used.is_settled = true;
                    }
                    session.record(held.legacy.fence, &record).await?;
                    held.legacy.record = record;
                }
                Ok(false) => are_all_settled = false,
                Err(error) => {
                    are_all_settled = false;
                    self.tell(&error.with("participant", &name).with("coordinator", id));
                }
            }
        }
        if are_all_settled {
            let batches: Vec<u64> = held.legacy.batches.keys().copied().collect();
            session.remove(held.legacy.fence, &batches, &outcomes(id, held)).await?;
            tracing::info!(coordinator = %id, "settled everything that a dead coordinator left");
            return Ok(true);
        }
        if !is_anything_mine {
            session.let_go(id).await?;
        }
        Ok(!is_anything_mine)
    }

    /// Branches of this installation that no record names.
    async fn look_for_orphans(&mut self, session: &dyn LogSession) -> Result<()> {
        let known: BTreeSet<CoordinatorId> =
            session.coordinators().await?.into_iter().map(|registered| registered.coordinator).collect();
        let mut orphans = BTreeSet::new();
        for member in self.members.values() {
            let prepared = match member.port.prepared().await {
                Ok((_, prepared)) => prepared,
                // The others' are found all the same.
                Err(_) => continue,
            };
            let ids = prepared.iter().map(|branch| branch.name.transaction.coordinator);
            let ours = ids
                .zip(&prepared)
                .filter(|(id, branch)| legacy::is_of(&self.scope, &branch.name, member, *id));
            orphans.extend(ours.map(|(id, _)| id).filter(|id| !known.contains(id)));
        }
        for id in orphans {
            let record = Record {
                host: String::new(),
                pid: std::process::id(),
                is_orphan: true,
                participants: BTreeMap::new(),
            };
            self.unclear.insert(id);
            let fence = session.adopt_orphan(id, &record).await?;
            self.unclear.remove(&id);
            let Some(fence) = fence else { continue };
            // One that waits for a person keeps no other one waiting.
            if let Err(error) = self.judge_orphan(session, id, fence).await {
                self.tell(&error);
            }
        }
        Ok(())
    }

    /// Never judged as one that has a record: that would roll back what was decided.
    async fn judge_orphan(
        &mut self,
        session: &dyn LogSession,
        id: CoordinatorId,
        fence: Fence,
    ) -> Result<()> {
        let members: Vec<_> = self.members.values().cloned().collect();
        let mut failed = None;
        for member in members {
            if let Err(error) = legacy::end_orphans(&self.scope, &member, id).await {
                failed = Some(error.with("participant", &member.name).with("coordinator", id));
            }
        }
        session.remove(fence, &[], &[]).await?;
        failed.map_or(Ok(()), Err)
    }

    /// Says a thing once, and not at every sweep.
    fn tell(&mut self, error: &Error) {
        if self.told.insert(error.to_string()) {
            match error.kind() {
                ErrorKind::Refused => tracing::error!(%error, "transactions wait for a person"),
                _ => tracing::warn!(%error, "transactions can't be settled now: nothing is lost"),
            }
        }
        // A bound on what is remembered: a text may have a changing number in it.
        if self.told.len() > TOLD_MAX {
            self.told.clear();
        }
    }
}

fn not_configured(name: &ParticipantName, id: CoordinatorId) -> Error {
    let why = "a dead coordinator has used a participant that is not in this configuration: what it prepared there \
               stays prepared, with its locks, until a node that has the participant settles it. Where it was renamed \
               or taken out, give it back under this name";
    let error = Error::new(ErrorKind::Configuration, "settle transactions", why);
    error.with("participant", name).with("coordinator", id)
}

fn outcomes(id: CoordinatorId, held: &Held) -> Vec<(TransactionId, Outcome)> {
    let decisions =
        held.legacy.batches.values().flatten().map(|decision| (decision.number, Outcome::Committed));
    let rolled_back = held.rolled_back.iter().map(|number| (*number, Outcome::RolledBack));
    let all = decisions.chain(rolled_back);
    all.map(|(number, outcome)| (TransactionId { coordinator: id, number }, outcome)).collect()
}
