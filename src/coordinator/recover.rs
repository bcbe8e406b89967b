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

use super::held::{Held, Judged, Left, Members, Pass, judge_orphan, orphan};
use super::identity::Scope;
use super::legacy;
use super::locks::Locks;
use super::tally::RecoveryTally;
use crate::decision_log::{LogSession, Registered};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, ParticipantName};

/// Between two times at which old outcomes and history rows are forgotten.
const CLEAN_INTERVAL: Duration = Duration::from_secs(3600);
/// Most texts that are remembered as told.
const TOLD_MAX: usize = 1_000;

/// Looks for dead coordinators until the node is closed.
pub(super) struct Recoverer {
    scope: Arc<Scope>,
    members: Members,
    locks: Arc<Locks>,
    session: Option<Box<dyn LogSession>>,
    held: BTreeMap<CoordinatorId, Held>,
    /// Those of which it was not heard whether they were taken over.
    unclear: BTreeSet<CoordinatorId>,
    looked_for_orphans: Option<Instant>,
    cleaned: Option<Instant>,
    /// What a person was told already.
    told: BTreeSet<String>,
    tally: Arc<RecoveryTally>,
    /// Of which something waits for a person.
    waiting: BTreeMap<CoordinatorId, Waiting>,
    /// The same of orphans, as of the last look.
    refused_orphans: usize,
}

struct Waiting {
    since: Instant,
    /// In how many participants.
    refused: usize,
}

impl Recoverer {
    pub(super) fn new(
        scope: Arc<Scope>,
        members: Members,
        locks: Arc<Locks>,
        tally: Arc<RecoveryTally>,
    ) -> Self {
        Recoverer {
            scope,
            members,
            locks,
            session: None,
            held: BTreeMap::new(),
            unclear: BTreeSet::new(),
            looked_for_orphans: None,
            cleaned: None,
            told: BTreeSet::new(),
            tally,
            waiting: BTreeMap::new(),
            refused_orphans: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let mut closed = self.scope.settler.closed.clone();
        while !*closed.borrow() {
            if let Err(error) = self.sweep().await {
                self.tell(&error);
            }
            let interval = self.scope.settings.now().sweep_interval;
            tokio::select! {
                biased;
                () = tokio::time::sleep(interval) => {}
                // Also an error: a node that was dropped tells of no end, and would be swept for without a pause.
                _ = closed.wait_for(|closed| *closed) => break,
            }
        }
        if let Some(session) = &self.session {
            for id in self.held.keys() {
                // Otherwise it would end with the session.
                let _ = session.let_go(*id).await;
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
        self.scope.holdings.recovers(self.held.keys().copied());
        self.session = Some(session);
        swept
    }

    async fn sweep_in(&mut self, session: &dyn LogSession) -> Result<()> {
        self.give_up_unclear(session).await?;
        let registered = session.coordinators().await?;
        let is_dead = |one: &&Registered| !one.is_live || self.held.contains_key(&one.coordinator);
        self.tally.note_dead(registered.iter().filter(is_dead).count());
        self.waiting.retain(|id, _| registered.iter().any(|one| one.coordinator == *id));
        for registered in registered {
            let id = registered.coordinator;
            let is_somebodys = registered.is_live || self.held.contains_key(&id) || self.is_waiting(id);
            if is_somebodys || !self.can_help(session, id).await? {
                continue;
            }
            self.unclear.insert(id);
            let legacy = session.take_over(id).await?;
            self.unclear.remove(&id);
            if let Some(legacy) = legacy {
                if !self.waiting.contains_key(&id) {
                    let host = &legacy.record.host;
                    tracing::info!(coordinator = %id, host, "took over from a dead coordinator");
                }
                self.held.insert(id, Held::new(legacy));
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
            // Also where it fails: it can wait for the next time, and the rest of this sweep can't wait for it.
            self.cleaned = Some(Instant::now());
            self.clean(session).await;
        }
        let orphan_interval = self.scope.settings.now().orphan_interval;
        if self.looked_for_orphans.is_none_or(|at| at.elapsed() >= orphan_interval) {
            self.looked_for_orphans = Some(Instant::now());
            self.look_for_orphans(session).await?;
        }
        let refused: usize = self.waiting.values().map(|waiting| waiting.refused).sum();
        self.tally.note_refused(refused + self.refused_orphans);
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

    /// Forgets what nobody asks for any more, in each place: one that is away for good keeps no other one full.
    async fn clean(&mut self, session: &dyn LogSession) {
        let (keep_days, outcomes_max) = {
            let settings = self.scope.settings.now();
            (settings.keep_days, settings.outcomes_max)
        };
        let mut failed: Vec<Error> = Vec::new();
        failed.extend(session.forget_outcomes(keep_days, outcomes_max).await.err());
        for (name, member) in &self.members {
            let forgotten = member.port.forget_histories(keep_days).await;
            failed.extend(forgotten.err().map(|error| error.with("participant", name)));
        }
        failed.extend(self.locks.clean().await.err());
        failed.iter().for_each(|error| self.tell(error));
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
        let Pass { is_over, left } = held.settle(&self.scope, &self.members, session).await?;
        let is_settled = left.is_empty();
        let (mut goes_on, mut refused) = (false, 0);
        for (name, left) in left {
            match left {
                Left::Unknown => self.tell(&not_configured(&name, id)),
                Left::NotYet => goes_on = true,
                Left::Failed(error) => {
                    // Otherwise it waits for a person.
                    goes_on |= error.is_retriable();
                    refused += usize::from(!error.is_retriable());
                    self.tell(&error);
                }
            }
        }
        self.waiting.remove(&id);
        if is_settled {
            self.tally.note_settled();
            tracing::info!(coordinator = %id, "settled everything that a dead coordinator left");
        } else if !is_over && !goes_on {
            // Others may know more participants, or a person has something done about it meanwhile.
            session.let_go(id).await?;
        }
        if !is_over && refused > 0 {
            self.waiting.insert(id, Waiting { since: Instant::now(), refused });
        }
        Ok(is_over || !goes_on)
    }

    /// Looked at again after a while only.
    fn is_waiting(&self, id: CoordinatorId) -> bool {
        let interval = self.scope.settings.now().orphan_interval;
        self.waiting.get(&id).is_some_and(|waiting| waiting.since.elapsed() < interval)
    }

    /// Branches of this installation that no record names.
    async fn look_for_orphans(&mut self, session: &dyn LogSession) -> Result<()> {
        let registered = session.coordinators().await?;
        let known: BTreeSet<CoordinatorId> = registered.iter().map(|one| one.coordinator).collect();
        // Whoever lives ends its own.
        let is_alive = |one: &&Registered| one.is_live && !self.held.contains_key(&one.coordinator);
        let alive: BTreeSet<CoordinatorId> =
            registered.iter().filter(is_alive).map(|one| one.coordinator).collect();
        let (mut orphans, mut ages) = (BTreeSet::new(), Vec::new());
        for member in self.members.values() {
            let prepared = match member.port.prepared().await {
                Ok((_, prepared)) => prepared,
                // The others' are found all the same.
                Err(_) => continue,
            };
            for branch in &prepared {
                let id = branch.name.transaction.coordinator;
                if !legacy::is_of(&self.scope, &branch.name, member, id) || alive.contains(&id) {
                    continue;
                }
                ages.push(branch.age);
                if !known.contains(&id) {
                    orphans.insert(id);
                }
            }
        }
        self.tally.note_in_doubt(&ages);
        self.refused_orphans = 0;
        for id in orphans {
            self.unclear.insert(id);
            let fence = session.adopt_orphan(id, &orphan()).await?;
            self.unclear.remove(&id);
            let Some(fence) = fence else { continue };
            // One that waits for a person keeps no other one waiting.
            match judge_orphan(&self.scope, &self.members, session, fence).await {
                Ok(Judged { failed, .. }) => {
                    let refused = failed.values().filter(|error| !error.is_retriable());
                    self.refused_orphans += refused.count();
                    failed.values().for_each(|error| self.tell(error));
                }
                Err(error) => {
                    // Its record may be there still, and would count as living for as long as this session does.
                    self.unclear.insert(id);
                    self.tell(&error);
                }
            }
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

fn not_configured(name: &ParticipantName, id: CoordinatorId) -> Error {
    let why = "a dead coordinator has used a participant that is not in this configuration: what it prepared there \
               stays prepared, with its locks, until a node that has the participant settles it. Where it was renamed \
               or taken out, give it back under this name; where it is gone for good, run `onecommit transaction forget`";
    let error = Error::new(ErrorKind::Configuration, "settle transactions", why);
    error.with("participant", name).with("coordinator", id)
}
