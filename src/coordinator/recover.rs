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
use super::member::Member;
use crate::decision_log::{Fence, Legacy, LogSession};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, ParticipantName, TransactionId};
use crate::participant::{End, Instance, PreparedBranch};
use crate::protocol::decision::{DecidedBranch, Outcome, Record, Used};
use crate::protocol::fate::{self, Meaning};
use crate::protocol::history::Verdict;

const OPERATION: &str = "settle transactions";
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
    async fn can_help(&self, session: &dyn LogSession, id: CoordinatorId) -> Result<bool> {
        let Some((record, _)) = session.look(id).await? else { return Ok(false) };
        let mut unsettled = record.participants.iter().filter(|(_, used)| !used.is_settled).peekable();
        Ok(unsettled.peek().is_none() || unsettled.any(|(name, _)| self.members.contains_key(name)))
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
                continue;
            };
            is_anything_mine = true;
            match self.settle_participant(&member, &used, id, held).await {
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

    async fn settle_participant(
        &self,
        member: &Arc<Member>,
        used: &Used,
        id: CoordinatorId,
        held: &mut Held,
    ) -> Result<bool> {
        let (instance, prepared) = member.port.prepared().await?;
        if !instance.database.is_same(&used.database) {
            let why = "this is another database than the one in which a dead coordinator prepared transactions: \
                       give the participant its old address until they are settled";
            let refused = Error::new(ErrorKind::Refused, OPERATION, why);
            return Err(refused.with("found", &instance.database).with("expected", &used.database));
        }
        let mine: Vec<PreparedBranch> =
            prepared.into_iter().filter(|branch| self.is_of(&branch.name, member, id)).collect();
        let decided = decided_in(&held.legacy, &member.name);
        let is_decided = |branch: &PreparedBranch| decided.contains_key(&branch.name.transaction.number);
        let (row_instance, row) = member.port.history(id).await?;
        if row_instance != instance {
            return Ok(false);
        }
        match used.marks.judge(row, mine.iter().any(|branch| !is_decided(branch))) {
            Verdict::Settled => return Ok(true),
            Verdict::Settle => {}
            lost @ (Verdict::ParticipantLost | Verdict::RecordLost) => return Err(refuse(lost, &mine)),
        }
        for branch in &mine {
            let end = if is_decided(branch) { End::Commit } else { End::RollBack };
            member.port.end(&branch.name, Some(&branch.owner), end).await?;
            if end == End::RollBack {
                held.rolled_back.insert(branch.name.transaction.number);
            }
        }
        for (number, branch) in &decided {
            let is_listed = mine.iter().any(|listed| listed.name.transaction.number == *number);
            if !is_listed && !self.is_committed(member, used, &instance, *number, branch).await? {
                return Ok(false);
            }
        }
        // Whoever answered the list and the ends, or nobody.
        member.port.close_history(id, &instance).await
    }

    fn is_of(&self, name: &crate::protocol::branch::BranchName, member: &Member, id: CoordinatorId) -> bool {
        name.namespace == self.scope.namespace
            && name.incarnation == self.scope.incarnation
            && name.transaction.coordinator == id
            && name.participant == member.name
    }

    /// Whether a decided branch that is not listed was committed before.
    async fn is_committed(
        &self,
        member: &Member,
        used: &Used,
        instance: &Instance,
        number: u64,
        branch: &DecidedBranch,
    ) -> Result<bool> {
        let (answered, fate) = member.port.fate(branch.xid).await?;
        if answered != *instance {
            return Ok(false);
        }
        let mut then = used.database.clone();
        then.timeline = Some(branch.timeline.clone());
        match fate::judge(fate, &then, &answered.database, None) {
            Meaning::Committed => Ok(true),
            Meaning::NotYet => Ok(false),
            Meaning::Lost => {
                let why = "a decided transaction is torn: the participant has lost its branch, by a failover or a \
                           restore. Compare it with the other participants, and mend it by hand";
                let error = Error::new(ErrorKind::Refused, OPERATION, why).with("transaction", number);
                Err(error.with("xid", branch.xid).with("instance", instance))
            }
        }
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
            let ours = ids.zip(&prepared).filter(|(id, branch)| self.is_of(&branch.name, member, *id));
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

    /// A closed row: everything was settled, and this was prepared behind it. Otherwise the record is
    /// gone and the row is not, so that a history was lost. Never judged as one that has a record: that
    /// would roll back what was decided.
    async fn judge_orphan(
        &mut self,
        session: &dyn LogSession,
        id: CoordinatorId,
        fence: Fence,
    ) -> Result<()> {
        let members: Vec<_> = self.members.values().cloned().collect();
        let mut failed = None;
        for member in members {
            if let Err(error) = self.end_orphans(&member, id).await {
                failed = Some(error.with("participant", &member.name).with("coordinator", id));
            }
        }
        session.remove(fence, &[], &[]).await?;
        failed.map_or(Ok(()), Err)
    }

    async fn end_orphans(&self, member: &Arc<Member>, id: CoordinatorId) -> Result<()> {
        let (instance, row) = member.port.history(id).await?;
        let (list_instance, prepared) = member.port.prepared().await?;
        let mine: Vec<PreparedBranch> =
            prepared.into_iter().filter(|branch| self.is_of(&branch.name, member, id)).collect();
        if mine.is_empty() || instance != list_instance {
            return Ok(());
        }
        if !row.is_some_and(|row| row.is_closed) {
            let why = format!(
                "there are prepared branches of a coordinator that the decision log does not know, and nothing says \
                 that it was settled: the decision log was emptied or restored, or this database was. Nothing was \
                 touched. Compare them with the other participants, and end them by hand: {}",
                names(&mine)
            );
            return Err(Error::new(ErrorKind::Refused, OPERATION, why));
        }
        for branch in &mine {
            member.port.end(&branch.name, Some(&branch.owner), End::RollBack).await?;
        }
        Ok(())
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

fn decided_in(legacy: &Legacy, participant: &ParticipantName) -> BTreeMap<u64, DecidedBranch> {
    let decisions = legacy.batches.values().flatten();
    let branches =
        decisions.flat_map(|decision| decision.branches.iter().map(|branch| (decision.number, branch)));
    let here = branches.filter(|(_, branch)| branch.participant == *participant);
    here.map(|(number, branch)| (number, branch.clone())).collect()
}

fn outcomes(id: CoordinatorId, held: &Held) -> Vec<(TransactionId, Outcome)> {
    let decisions =
        held.legacy.batches.values().flatten().map(|decision| (decision.number, Outcome::Committed));
    let rolled_back = held.rolled_back.iter().map(|number| (*number, Outcome::RolledBack));
    let all = decisions.chain(rolled_back);
    all.map(|(number, outcome)| (TransactionId { coordinator: id, number }, outcome)).collect()
}

fn refuse(verdict: Verdict, branches: &[PreparedBranch]) -> Error {
    let what = match verdict {
        Verdict::RecordLost => "the decision log was restored: it is older than this database",
        _ => "this database has lost history: it was restored, or a failover went back",
    };
    let why = format!(
        "{what}. Nothing was touched: branches that look undecided may have been decided. Compare the participants, \
         and end them by hand: {}",
        names(branches)
    );
    Error::new(ErrorKind::Refused, OPERATION, why)
}

fn names(branches: &[PreparedBranch]) -> String {
    let names: Vec<String> = branches.iter().map(|branch| branch.name.to_string()).collect();
    if names.is_empty() { "(none is prepared now)".to_string() } else { names.join(", ") }
}
