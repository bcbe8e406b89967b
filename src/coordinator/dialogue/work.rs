//! The coordinator's own part of a transaction: between what is said on the caller's connections, and
//! behind it.

use std::sync::Arc;

use super::{BEGIN, Dialogue, Rest, late};
use crate::coordinator::decider::Verdict;
use crate::coordinator::identity::{Registered, apply_again};
use crate::coordinator::settle::Branch;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::branch::BranchName;
use crate::protocol::decision::{DecidedBranch, Decision, Outcome};
use crate::protocol::fate::{Fate, Prepared};
use crate::protocol::transaction::{Committed, Decided, Event};

const LOG_IS_SILENT: &str = "the decision log did not answer: see that ZooKeeper is there, or, where there is none, that no \
                             process is stopped in the middle of a write to decisions.db";

impl Dialogue {
    /// Waits until few enough are in flight.
    pub(super) async fn wait_for_place(&mut self) {
        let places = Arc::clone(&self.scope.places);
        match tokio::time::timeout_at(self.deadline, places.acquire_owned()).await {
            Ok(Ok(place)) => self.place = Some(place),
            _ => {
                let why = format!(
                    "{} transactions are in flight, and none ended before the deadline: look for a server that \
                     does not answer (`onecommit status`)",
                    self.scope.settings.now().in_flight_max
                );
                self.blame(Some(Error::new(ErrorKind::Unreachable, BEGIN, why)));
                self.is_begun = true;
                self.machine.on(Event::Interrupted);
            }
        }
    }

    /// What came of a COMMIT whose answer was lost. The database's word on the number counts only from the
    /// very life of the server in which it was given: after a crash or a failover PostgreSQL hands the
    /// number to a stranger, and says *committed* of that. A message of the transaction proves its commit in
    /// any life, by an id that nobody else has; that there is none proves nothing, as it may be delivered.
    pub(super) async fn prove(&self, writer: usize) -> Committed {
        let branch = &self.branches[writer];
        let (Some(xid), Some(instance)) = (self.xid(writer), &branch.instance) else {
            return Committed::Unknown;
        };
        let mut failures = 0;
        loop {
            match branch.member.port.fate(xid).await {
                Ok((answered, Fate::Committed)) if answered == *instance => return Committed::Yes,
                Ok((answered, Fate::RolledBack)) if answered == *instance => return Committed::No,
                Ok((answered, Fate::InProgress)) if answered == *instance => {}
                Ok(_) => match self.has_message(writer, xid).await {
                    Ok(true) => return Committed::Yes,
                    Err(error) if error.is_retriable() => {}
                    Ok(false) | Err(_) => return Committed::Unknown,
                },
                Err(_) => {}
            }
            failures += 1;
            let wait = self.scope.settings.now().retry.wait(failures, 0.5);
            tokio::time::sleep(wait).await;
        }
    }

    async fn has_message(&self, writer: usize, xid: u64) -> Result<bool> {
        match self.messages.one_at(writer) {
            Some(message) => self.branches[writer].member.port.has_message(xid, message).await,
            None => Ok(false),
        }
    }

    pub(super) async fn register(&mut self, writers: &[usize]) -> Result<()> {
        let registered = tokio::time::timeout_at(self.deadline, self.coordinator.registered()).await;
        let registered = registered.unwrap_or_else(|_| Err(late(LOG_IS_SILENT)))?;
        self.registered = Some(registered.clone());
        self.make_fresh(&registered, writers).await
    }

    /// Within the deadline.
    async fn make_fresh(&self, registered: &Registered, writers: &[usize]) -> Result<()> {
        let made = tokio::time::timeout_at(self.deadline, self.have_marks_made(registered, writers)).await;
        made.unwrap_or_else(|_| Err(late("the decision log, or a participant, did not answer")))
    }

    async fn have_marks_made(&self, registered: &Registered, writers: &[usize]) -> Result<()> {
        let members: Vec<_> =
            writers.iter().map(|writer| Arc::clone(&self.branches[*writer].member)).collect();
        if registered.registration.are_fresh(&members)? {
            return Ok(());
        }
        let used = registered.registration.use_participants(&members).await;
        apply_again(&self.scope, &registered.registration, self.id.coordinator);
        used
    }

    pub(super) async fn decide(&mut self) {
        let Some(registered) = self.registered.clone() else { return };
        if !matches!(self.rest, Rest::Await(_)) {
            let writers: Vec<usize> = self.machine.written().map(|(branch, _)| branch).collect();
            // The PREPAREs may have taken long.
            if let Err(error) = self.make_fresh(&registered, &writers).await {
                self.blame(Some(error));
                return self.machine.on(Event::Decided(Decided::No));
            }
            self.rest = Rest::Await(registered.decider.submit(self.decision()));
        }
        let Rest::Await(verdict) = &mut self.rest else { return };
        match tokio::time::timeout_at(self.deadline, verdict).await {
            Ok(Ok(verdict)) => {
                self.rest = match verdict.decided {
                    Decided::Yes => Rest::Commit(verdict.batch),
                    Decided::No => Rest::RollBack,
                    Decided::Unclear => Rest::Recoverers,
                };
                self.machine.on(Event::Decided(verdict.decided));
            }
            Ok(Err(_)) => {
                self.rest = Rest::Recoverers;
                self.machine.on(Event::Decided(Decided::Unclear));
            }
            Err(_) => self.interrupt().await,
        }
    }

    fn decision(&self) -> Decision {
        // Every one of them: what a decision does not name is rolled back.
        let branches = self.machine.written().map(|(place, xid)| {
            let branch = &self.branches[place];
            let timeline = branch.instance.as_ref().and_then(|instance| instance.database.timeline.clone());
            DecidedBranch {
                participant: branch.member.name.clone(),
                xid,
                timeline: timeline.unwrap_or_default(),
                lsn: branch.position,
                is_home: self.messages.wait_at(place),
            }
        });
        Decision { number: self.id.number, branches: branches.collect() }
    }

    pub(super) fn name(&self, place: usize) -> BranchName {
        self.scope.name(self.id, &self.branches[place].member.name, self.messages.wait_at(place))
    }

    /// Has what is left settled, by a task of its own that goes on when nobody waits for it.
    pub(super) fn settle(&mut self) -> impl Future<Output = Result<bool, tokio::task::JoinError>> + use<> {
        let rest = std::mem::replace(&mut self.rest, Rest::Nothing);
        let (settler, registered, id) = (self.scope.settler.clone(), self.registered.clone(), self.id);
        let branches: Vec<Branch> =
            self.machine.written().filter_map(|(place, xid)| self.branch(place, xid)).collect();
        let (place, locks, locked) = (self.place.take(), Arc::clone(&self.locks), self.take_locked());
        self.scope.runtime.spawn(async move {
            let Some(Registered { registration, decider }) = registered else { return true };
            let was_in_doubt = matches!(rest, Rest::Await(_));
            let rest = match rest {
                Rest::Await(_) if decider.withdraw(id.number).await => Rest::RollBack,
                Rest::Await(verdict) => match verdict.await {
                    Ok(Verdict { decided: Decided::Yes, batch }) => Rest::Commit(batch),
                    Ok(Verdict { decided: Decided::No, .. }) => Rest::RollBack,
                    _ => Rest::Recoverers,
                },
                known => known,
            };
            let outcome = match rest {
                Rest::Commit(_) => Some(Outcome::Committed),
                Rest::RollBack => Some(Outcome::RolledBack),
                Rest::Nothing | Rest::Recoverers | Rest::Await(_) => None,
            };
            if let (true, Some(outcome)) = (was_in_doubt, outcome) {
                // Before it is applied: once its batch is deleted nobody else could tell.
                let kept = settler.keep_outcome(&registration, id, outcome).await;
                tracing::info!(transaction = %id, ?outcome, kept, "a transaction that was in doubt has ended");
            }
            let is_settled = match rest {
                Rest::Commit(batch) => settler.commit(&registration, batch, branches).await,
                Rest::RollBack => settler.roll_back(branches).await,
                Rest::Nothing => true,
                // What is not known is not settled.
                Rest::Recoverers | Rest::Await(_) => false,
            };
            drop(place);
            if is_settled {
                locks.release(id, locked).await;
            }
            is_settled
        })
    }

    /// The same where there is something left, without waiting for it.
    pub(super) fn settle_rest(&mut self) {
        if !matches!(self.rest, Rest::Nothing) || !self.locked.is_empty() {
            drop(self.settle());
        }
    }

    fn branch(&self, place: usize, xid: u64) -> Option<Branch> {
        let open = &self.branches[place];
        let (member, owner) = (Arc::clone(&open.member), open.role.clone());
        let prepared =
            Prepared { database: open.instance.as_ref()?.database.clone(), position: open.position };
        Some(Branch { member, name: self.name(place), owner, xid, prepared })
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        self.settle_rest();
    }
}
