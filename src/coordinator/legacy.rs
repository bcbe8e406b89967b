//! What one participant has of a dead coordinator: its prepared branches, which are committed where they are
//! decided and rolled back where they are not, and its history row, which is closed behind them.
//!
//! Promises to touch nothing where a history was lost, and to close the row only in the very instance of
//! the server that has listed and ended the branches.

use std::collections::{BTreeMap, BTreeSet};

use super::identity::Scope;
use super::member::Member;
use crate::decision_log::{Legacy, LogSession};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, ParticipantName};
use crate::participant::{End, Instance, PreparedBranch};
use crate::protocol::branch::BranchName;
use crate::protocol::decision::{DecidedBranch, Outcome, Used};
use crate::protocol::fate::{self, Meaning};
use crate::protocol::history::Verdict;

const OPERATION: &str = "settle transactions";

/// Whether a branch is of this installation, coordinator and participant.
pub(super) fn is_of(scope: &Scope, name: &BranchName, member: &Member, id: CoordinatorId) -> bool {
    name.namespace == scope.namespace
        && name.incarnation == scope.incarnation
        && name.transaction.coordinator == id
        && name.participant == member.name
}

/// Settles what a dead coordinator has there; true where nothing is left. The transactions of which it
/// rolls a branch back are added to `rolled_back`.
pub(super) async fn settle(
    scope: &Scope,
    session: &dyn LogSession,
    member: &Member,
    used: &Used,
    id: CoordinatorId,
    legacy: &Legacy,
    rolled_back: &mut BTreeSet<u64>,
) -> Result<bool> {
    let (instance, prepared) = member.port.prepared().await?;
    if !instance.database.is_same(&used.database) {
        let why = "this is another database than the one in which a dead coordinator prepared transactions: \
                   give the participant its old address until they are settled";
        let refused = Error::new(ErrorKind::Refused, OPERATION, why);
        return Err(refused.with("found", &instance.database).with("expected", &used.database));
    }
    let mine: Vec<PreparedBranch> =
        prepared.into_iter().filter(|branch| is_of(scope, &branch.name, member, id)).collect();
    let decided = decided_in(legacy, &member.name);
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
    // Before they are gone: whoever takes over from a recoverer that dies would not know of them.
    let undecided = mine.iter().filter(|branch| !is_decided(branch)).map(|branch| branch.name.transaction);
    let unkept: Vec<_> = undecided.filter(|transaction| !rolled_back.contains(&transaction.number)).collect();
    if !unkept.is_empty() {
        let outcomes: Vec<_> = unkept.iter().map(|transaction| (*transaction, Outcome::RolledBack)).collect();
        session.keep_outcomes(legacy.fence, &outcomes).await?;
        rolled_back.extend(unkept.iter().map(|transaction| transaction.number));
    }
    for branch in &mine {
        let end = if is_decided(branch) { End::Commit } else { End::RollBack };
        member.port.end(&branch.name, Some(&branch.owner), end).await?;
    }
    for (number, branch) in &decided {
        let is_listed = mine.iter().any(|listed| listed.name.transaction.number == *number);
        if !is_listed && !is_committed(member, used, &instance, *number, branch).await? {
            return Ok(false);
        }
    }
    // Whoever answered the list and the ends, or nobody.
    member.port.close_history(id, &instance).await
}

/// Whether a decided branch that is not listed was committed before.
async fn is_committed(
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

/// Ends the branches of a coordinator without a record. A closed row: everything was settled, and these
/// were prepared behind it. Otherwise the record is gone and the row is not, so that a history was lost.
pub(super) async fn end_orphans(scope: &Scope, member: &Member, id: CoordinatorId) -> Result<()> {
    let (instance, row) = member.port.history(id).await?;
    let (list_instance, prepared) = member.port.prepared().await?;
    let mine: Vec<PreparedBranch> =
        prepared.into_iter().filter(|branch| is_of(scope, &branch.name, member, id)).collect();
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

fn decided_in(legacy: &Legacy, participant: &ParticipantName) -> BTreeMap<u64, DecidedBranch> {
    let decisions = legacy.batches.values().flatten();
    let branches =
        decisions.flat_map(|decision| decision.branches.iter().map(|branch| (decision.number, branch)));
    let here = branches.filter(|(_, branch)| branch.participant == *participant);
    here.map(|(number, branch)| (number, branch.clone())).collect()
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
