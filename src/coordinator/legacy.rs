//! What one participant has of a dead coordinator: its prepared branches, which are committed where they are
//! decided and rolled back where they are not, and its history row, which is closed behind them.
//!
//! Promises to touch nothing where a history was lost, and to close the row only in the very instance of
//! the server that has listed and ended the branches.

use std::collections::{BTreeMap, BTreeSet};

use super::identity::Scope;
use super::member::Member;
use super::missing;
use crate::decision_log::Legacy;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, ParticipantName, TransactionId};
use crate::participant::{End, Instance, PreparedBranch};
use crate::protocol::branch::BranchName;
use crate::protocol::decision::{DecidedBranch, Used};
use crate::protocol::fate::Meaning;
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
    let is_listed = |number: u64| mine.iter().any(|branch| branch.name.transaction.number == number);
    let name = |number: u64, branch: &DecidedBranch| {
        scope.name(TransactionId { coordinator: id, number }, &member.name, branch.is_home)
    };
    let absent: Vec<(BranchName, &DecidedBranch)> = decided
        .iter()
        .filter(|(number, _)| !is_listed(**number))
        .map(|(number, branch)| (name(*number, branch), branch))
        .collect();
    let (row_instance, row) = member.port.history(id).await?;
    if row_instance != instance {
        return Ok(false);
    }
    match used.marks.judge(row, mine.iter().any(|branch| !is_decided(branch))) {
        Verdict::Settled => return Ok(true),
        Verdict::Settle => {}
        lost @ (Verdict::ParticipantLost | Verdict::RecordLost) => {
            return Err(refuse(lost, &mine, &absent));
        }
    }
    for branch in &mine {
        let end = if is_decided(branch) { End::Commit } else { End::RollBack };
        member.port.end(&branch.name, Some(&branch.owner), end).await?;
        if end == End::RollBack {
            rolled_back.insert(branch.name.transaction.number);
        }
    }
    if !are_committed(member, used, &instance, absent).await? {
        return Ok(false);
    }
    // Whoever answered the list and the ends, or nobody.
    member.port.close_history(id, &instance).await
}

/// Whether decided branches that are not listed were all committed before; false where that is to be asked
/// again.
async fn are_committed(
    member: &Member,
    used: &Used,
    instance: &Instance,
    absent: Vec<(BranchName, &DecidedBranch)>,
) -> Result<bool> {
    let mut torn = Vec::new();
    for (name, branch) in absent {
        let prepared = branch.prepared_in(&used.database);
        let looked = missing::look(&*member.port, branch.xid, &prepared).await;
        let found = looked.map_err(|error| error.with("branch", &name))?;
        if found.instance != *instance || found.meaning == Meaning::NotYet {
            return Ok(false);
        }
        if found.meaning == Meaning::Lost {
            let DecidedBranch { xid, timeline, lsn, .. } = branch;
            torn.push(format!(
                "{name} (number {xid}, prepared before {:X}/{:X} on timeline {timeline}; its status here: {:?})",
                lsn >> 32,
                lsn & 0xffff_ffff,
                found.fate
            ));
        }
    }
    if torn.is_empty() {
        return Ok(true);
    }
    let torn = torn.join(", ");
    let why = format!(
        "a decided transaction is torn: the participant has lost its branch, by a failover or a restore, or \
         somebody has ended it by hand. Compare it with the other participants, and do by hand what it did: {torn}"
    );
    Err(Error::new(ErrorKind::Refused, OPERATION, why).with("instance", instance))
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

fn refuse(verdict: Verdict, branches: &[PreparedBranch], absent: &[(BranchName, &DecidedBranch)]) -> Error {
    let what = match verdict {
        Verdict::RecordLost => "the decision log was restored: it is older than this database",
        _ => "this database has lost history: it was restored, or a failover went back",
    };
    let absent: Vec<String> = absent.iter().map(|(name, _)| name.to_string()).collect();
    let absent = match absent.is_empty() {
        true => String::new(),
        false => format!("; decided to be committed, and not prepared here: {}", absent.join(", ")),
    };
    let why = format!(
        "{what}. Nothing was touched: branches that look undecided may have been decided. Compare the participants, \
         and end them by hand: {}{absent}",
        names(branches)
    );
    Error::new(ErrorKind::Refused, OPERATION, why)
}

fn names(branches: &[PreparedBranch]) -> String {
    let names: Vec<String> = branches.iter().map(|branch| branch.name.to_string()).collect();
    if names.is_empty() { "(none is prepared now)".to_string() } else { names.join(", ") }
}
