//! Brings prepared branches to their end, over connections of our own, for as long as it takes: whoever
//! leaves a transaction unsettled (a caller that went away, a deadline, a lost answer) leaves it to this,
//! as nobody else settles for a coordinator that lives.
//!
//! Promises that a branch counts as ended only when its database says so of its number: a PREPARE can
//! land behind the ROLLBACK PREPARED that did not find it.

use std::pin::pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::member::Member;
use super::missing;
use super::registration::Registration;
use super::settings::CoordinatorSettings;
use crate::config::Followed;
use crate::error::{ErrorKind, Result};
use crate::id::TransactionId;
use crate::participant::{End, Ended, Instance, PreparedBranch};
use crate::protocol::branch::BranchName;
use crate::protocol::decision::Outcome;
use crate::protocol::fate::{Fate, Meaning, Prepared};
use crate::protocol::retry::Backoff;

/// A branch that is prepared, or may be.
#[derive(Clone)]
pub(super) struct Branch {
    pub(super) member: Arc<Member>,
    pub(super) name: BranchName,
    /// Who prepared it, None for our own login.
    pub(super) owner: Option<String>,
    pub(super) xid: u64,
    pub(super) prepared: Prepared,
}

/// What became of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is ended as it should be.
    Yes,
    /// The node was closed meanwhile: it is left to whoever recovers.
    Closed,
    /// It ended otherwise, or its database has lost it. A person was told.
    Lost,
}

/// How branches are settled.
#[derive(Clone)]
pub(super) struct Settler {
    pub(super) retry: Backoff,
    pub(super) settings: Followed<CoordinatorSettings>,
    pub(super) closed: watch::Receiver<bool>,
}

impl Settler {
    /// Commits the branches of a decided transaction. The one with the messages goes first, so that
    /// cause and effect are in order for whoever reads another branch.
    pub(super) async fn commit(
        &self,
        registration: &Arc<Registration>,
        batch: u64,
        branches: Vec<Branch>,
    ) -> bool {
        let (homes, others): (Vec<_>, Vec<_>) = branches.into_iter().partition(|branch| branch.name.is_home);
        let mut at_home = pin!(are_all_settled(self.begin_commit(registration, batch, homes)));
        let home_wait = self.settings.now().home_wait;
        let home_in_time = tokio::time::timeout(home_wait, &mut at_home).await.ok();
        if home_in_time.is_none() {
            tracing::warn!("the branch with the messages is not applied yet: the others are, before it");
        }
        let elsewhere = self.begin_commit(registration, batch, others);
        let is_home_settled = match home_in_time {
            Some(is_settled) => is_settled,
            None => at_home.await,
        };
        are_all_settled(elsewhere).await && is_home_settled
    }

    fn begin_commit(
        &self,
        registration: &Arc<Registration>,
        batch: u64,
        branches: Vec<Branch>,
    ) -> JoinSet<Settled> {
        let mut ending = JoinSet::new();
        for branch in branches {
            let (settler, registration) = (self.clone(), Arc::clone(registration));
            ending.spawn(async move {
                let settled = settler.end(&branch, End::Commit).await;
                if settled == Settled::Yes {
                    registration.applied(batch, branch.name.transaction.number, &branch.member.name);
                }
                settled
            });
        }
        ending
    }

    /// Rolls the branches of a transaction back that was not decided and never will be.
    pub(super) async fn roll_back(&self, branches: Vec<Branch>) -> bool {
        let mut ending = JoinSet::new();
        for branch in branches {
            let settler = self.clone();
            ending.spawn(async move { settler.end(&branch, End::RollBack).await });
        }
        are_all_settled(ending).await
    }

    /// Keeps how a transaction ended, for whoever was told that it is not known; whether that succeeded
    /// before somebody else took over.
    pub(super) async fn keep_outcome(
        &self,
        registration: &Registration,
        transaction: TransactionId,
        outcome: Outcome,
    ) -> bool {
        let mut failures = 0;
        loop {
            match registration.keep_outcome(transaction, outcome).await {
                Ok(()) => return true,
                Err(error) if !error.is_retriable() || error.kind() == ErrorKind::Fenced => return false,
                Err(_) => failures += 1,
            }
            if self.is_closed_during_wait(failures).await {
                return false;
            }
        }
    }

    /// Lists a participant's prepared branches, as soon as it answers; None where the node is closed before.
    pub(super) async fn prepared(&self, member: &Member) -> Option<(Instance, Vec<PreparedBranch>)> {
        let mut failures = 0;
        loop {
            match member.port.prepared().await {
                Ok(listed) => return Some(listed),
                Err(error) if failures == 0 => {
                    tracing::warn!(participant = %member.name, %error, "prepared branches can't be listed now");
                }
                Err(_) => {}
            }
            failures += 1;
            if self.is_closed_during_wait(failures).await {
                return None;
            }
        }
    }

    /// Ends one branch.
    pub(super) async fn end(&self, branch: &Branch, end: End) -> Settled {
        let (mut failures, mut told) = (0, false);
        loop {
            match try_to_end(branch, end).await {
                Ok(Some(settled)) => return settled,
                Ok(None) => {}
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(branch = %branch.name, %error, "a branch can't be ended now: nothing is lost");
                }
                Err(_) => {}
            }
            failures += 1;
            if self.is_closed_during_wait(failures).await {
                return Settled::Closed;
            }
        }
    }

    /// Waits between two attempts; true where the node is closed meanwhile.
    async fn is_closed_during_wait(&self, failures: u32) -> bool {
        let mut closed = self.closed.clone();
        tokio::select! {
            () = tokio::time::sleep(self.retry.wait(failures, 0.5)) => false,
            _ = closed.wait_for(|closed| *closed) => true,
        }
    }
}

/// Waits for all; whether each is ended as it should be.
async fn are_all_settled(mut ending: JoinSet<Settled>) -> bool {
    let mut are_all_settled = true;
    while let Some(settled) = ending.join_next().await {
        are_all_settled &= settled.is_ok_and(|settled| settled == Settled::Yes);
    }
    are_all_settled
}

/// None where it is to be tried again.
async fn try_to_end(branch: &Branch, end: End) -> Result<Option<Settled>> {
    if branch.member.port.end(&branch.name, branch.owner.as_deref(), end).await? == Ended::Now {
        return Ok(Some(Settled::Yes));
    }
    let (instance, fate, settled) = match end {
        End::Commit => {
            let found = missing::look(&*branch.member.port, branch.xid, &branch.prepared).await?;
            let settled = match found.meaning {
                Meaning::Committed => Some(Settled::Yes),
                Meaning::NotYet => None,
                Meaning::Lost => Some(Settled::Lost),
            };
            (found.instance, found.fate, settled)
        }
        End::RollBack => {
            let (instance, fate) = branch.member.port.fate(branch.xid).await?;
            let settled = match fate {
                Fate::InProgress => None,
                // On a server that has never seen it, it is not prepared either, and can't be any more.
                Fate::RolledBack | Fate::Unknown => Some(Settled::Yes),
                Fate::Committed if branch.prepared.has_its_number(&instance.database) => Some(Settled::Lost),
                // A stranger got its number.
                Fate::Committed => Some(Settled::Yes),
            };
            (instance, fate, settled)
        }
    };
    if settled == Some(Settled::Lost) {
        let wanted = match end {
            End::Commit => "committed",
            End::RollBack => "rolled back",
        };
        tracing::error!(
            branch = %branch.name, xid = branch.xid, prepared_in = %branch.prepared.database, ?fate, %instance,
            "a transaction is torn: this branch was to be {wanted}, and its database says otherwise. Its participant \
             lost history, or somebody ended the branch by hand: compare both sides, and mend it by hand"
        );
    }
    Ok(settled)
}
