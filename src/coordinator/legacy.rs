//! What one participant has of a dead coordinator: its prepared branches, which are committed where they are
//! decided and rolled back where they are not, and its history row, which is closed behind them.
//!
//! Promises to touch nothing where a history was lost, and to close the row only in the very instance of
//! the server that has listed and ended the branches.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;

use super::identity::Scope;
use super::member::Member;
use super::missing;
use crate::decision_log::{Fence, Legacy, LogSession};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, ParticipantName, TransactionId};
use crate::participant::{End, Instance, PreparedBranch};
use crate::protocol::branch::BranchName;
use crate::protocol::decision::{DecidedBranch, Decision, Outcome, Used};
use crate::protocol::fate::Meaning;
use crate::protocol::history::{Marks, Verdict};
use crate::protocol::recovery::{self, Ends, OrphanRule, Plan};

const OPERATION: &str = "settle transactions";
/// Branches of one participant that are ended at the same time: half of the connections that there are, unless
/// configured otherwise.
const ENDED_AT_ONCE: usize = 8;

/// A coordinator's decisions, by batch.
pub(super) type Batches = BTreeMap<u64, Vec<Decision>>;

/// Whether a branch is of this installation, coordinator and participant.
pub(super) fn is_of(scope: &Scope, name: &BranchName, member: &Member, id: CoordinatorId) -> bool {
    name.is_of(&scope.namespace, scope.incarnation)
        && name.transaction.coordinator == id
        && name.participant == member.name
}

/// What a participant has of a dead coordinator, where nothing speaks against settling it.
pub(super) struct Examined {
    instance: Instance,
    /// Its prepared branches.
    pub(super) mine: Vec<PreparedBranch>,
    ends: Ends,
    /// Their branches that are not prepared.
    absent: Vec<(BranchName, DecidedBranch)>,
    is_settled: bool,
}

/// Reads and judges, and touches nothing; `Refused` where a history was lost. None where another instance
/// of the server answered in between.
pub(super) async fn examine(
    scope: &Scope,
    member: &Member,
    used: &Used,
    id: CoordinatorId,
    batches: &Batches,
) -> Result<Option<Examined>> {
    let (instance, prepared) = member.port.prepared().await?;
    if !instance.database.is_same(&used.database) {
        let why = "this is another database than the one in which a dead coordinator prepared transactions: \
                   give the participant its old address until they are settled";
        let refused = Error::new(ErrorKind::Refused, OPERATION, why);
        return Err(refused.with("found", &instance.database).with("expected", &used.database));
    }
    let mine: Vec<PreparedBranch> =
        prepared.into_iter().filter(|branch| is_of(scope, &branch.name, member, id)).collect();
    let (row_instance, row) = member.port.history(id).await?;
    if row_instance != instance {
        return Ok(None);
    }
    let decided = decided_in(batches, &member.name);
    let numbers: BTreeSet<u64> = mine.iter().map(number).collect();
    let plan = recovery::plan(&used.marks, row, &numbers, &decided.keys().copied().collect());
    let name = |number: u64, branch: &DecidedBranch| {
        scope.name(TransactionId { coordinator: id, number }, &member.name, branch.is_home)
    };
    let absent = decided.iter().filter(|(number, _)| !numbers.contains(number));
    let absent = absent.map(|(number, branch)| (name(*number, branch), branch.clone())).collect();
    let mut examined = Examined { instance, mine, ends: Ends::default(), absent, is_settled: false };
    match plan {
        Plan::Nothing => examined.is_settled = true,
        Plan::Settle(ends) => examined.ends = ends,
        Plan::Refuse(lost) => {
            let refused = refuse(lost, &examined).with("found_mark", row.map_or(0, |row| row.mark));
            let Marks { announced, acknowledged } = used.marks;
            return Err(refused.with("expected_marks", format!("{acknowledged} to {announced}")));
        }
    }
    Ok(Some(examined))
}

/// Whether a recoverer would settle it: not where a history was lost, or a decided branch. Touches nothing.
pub(super) async fn expect_whole(
    scope: &Scope,
    member: &Member,
    used: &Used,
    id: CoordinatorId,
    batches: &Batches,
) -> Result<()> {
    let Some(examined) = examine(scope, member, used, id, batches).await? else { return Ok(()) };
    if !examined.is_settled {
        are_committed(member, used, &examined).await?;
    }
    Ok(())
}

/// Settles what a dead coordinator has there; true where nothing is left. The transactions of which it
/// rolls a branch back are added to `rolled_back`.
pub(super) async fn settle(
    scope: &Scope,
    session: &dyn LogSession,
    member: &Member,
    used: &Used,
    legacy: &Legacy,
    rolled_back: &mut BTreeSet<u64>,
) -> Result<bool> {
    let id = legacy.fence.coordinator;
    let Some(examined) = examine(scope, member, used, id, &legacy.batches).await? else { return Ok(false) };
    if examined.is_settled {
        return Ok(true);
    }
    let is_undecided = |branch: &&PreparedBranch| examined.ends.roll_back.contains(&number(branch));
    let undecided = examined.mine.iter().filter(is_undecided);
    keep_rolled_back(session, legacy.fence, undecided, rolled_back).await?;
    end_all(member, &examined.mine, &examined.ends.commit).await?;
    if !are_committed(member, used, &examined).await? {
        return Ok(false);
    }
    // Whoever answered the list and the ends, or nobody.
    member.port.close_history(id, &examined.instance).await
}

/// Before they are gone: whoever takes over from a recoverer that dies would not know of them.
async fn keep_rolled_back(
    session: &dyn LogSession,
    fence: Fence,
    branches: impl Iterator<Item = &PreparedBranch>,
    rolled_back: &mut BTreeSet<u64>,
) -> Result<()> {
    let transactions = branches.map(|branch| branch.name.transaction);
    let unkept: Vec<_> =
        transactions.filter(|transaction| !rolled_back.contains(&transaction.number)).collect();
    if !unkept.is_empty() {
        let outcomes: Vec<_> = unkept.iter().map(|transaction| (*transaction, Outcome::RolledBack)).collect();
        session.keep_outcomes(fence, &outcomes).await?;
        rolled_back.extend(unkept.iter().map(|transaction| transaction.number));
    }
    Ok(())
}

/// Rolls back what a paused owner has prepared behind the end of a participant that is settled: it would keep
/// its locks for as long as another participant keeps the record. An error is one of the decision log; what the
/// participant itself answers, or does not, is no reason to keep the record any longer.
pub(super) async fn end_late(
    scope: &Scope,
    session: &dyn LogSession,
    member: &Member,
    legacy: &Legacy,
    rolled_back: &mut BTreeSet<u64>,
) -> Result<()> {
    let Ok(mut late) = orphans(scope, member, legacy.fence.coordinator).await else { return Ok(()) };
    let decided = decided_in(&legacy.batches, &member.name);
    late.retain(|branch| !decided.contains_key(&number(branch)));
    keep_rolled_back(session, legacy.fence, late.iter(), rolled_back).await?;
    for branch in &late {
        let _ = member.port.end(&branch.name, Some(&branch.owner), End::RollBack).await;
    }
    Ok(())
}

/// Whether decided branches that are not listed were all committed before; false where that is to be asked
/// again.
async fn are_committed(member: &Member, used: &Used, examined: &Examined) -> Result<bool> {
    let mut torn = Vec::new();
    for (name, branch) in &examined.absent {
        let prepared = branch.prepared_in(&used.database);
        let looked = missing::look(&*member.port, branch.xid, &prepared).await;
        let found = looked.map_err(|error| error.with("branch", name))?;
        if found.instance != examined.instance || found.meaning == Meaning::NotYet {
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
    Err(Error::new(ErrorKind::Refused, OPERATION, why).with("instance", &examined.instance))
}

/// Ends the branches of a coordinator without a record, and keeps that: their caller may have been told that
/// the outcome is not known.
pub(super) async fn end_orphans(
    scope: &Scope,
    session: &dyn LogSession,
    member: &Member,
    fence: Fence,
    rolled_back: &mut BTreeSet<u64>,
) -> Result<()> {
    let orphans = orphans(scope, member, fence.coordinator).await?;
    keep_rolled_back(session, fence, orphans.iter(), rolled_back).await?;
    end_all(member, &orphans, &BTreeSet::new()).await
}

/// Commits those of these transactions and rolls the others back, several at a time: a coordinator may have left
/// a thousand, and each end is a forced write.
async fn end_all(member: &Member, branches: &[PreparedBranch], commit: &BTreeSet<u64>) -> Result<()> {
    for piece in branches.chunks(ENDED_AT_ONCE) {
        let ends = piece.iter().map(|branch| {
            let end = if commit.contains(&number(branch)) { End::Commit } else { End::RollBack };
            member.port.end(&branch.name, Some(&branch.owner), end)
        });
        try_join_all(ends).await?;
    }
    Ok(())
}

/// The branches of a coordinator without a record that may be rolled back. A closed row: everything was
/// settled, and these were prepared behind it. Otherwise the record is gone and the row is not, so that a
/// history was lost: `Refused`.
pub(super) async fn orphans(
    scope: &Scope,
    member: &Member,
    id: CoordinatorId,
) -> Result<Vec<PreparedBranch>> {
    let (instance, row) = member.port.history(id).await?;
    let (list_instance, prepared) = member.port.prepared().await?;
    let mine: Vec<PreparedBranch> =
        prepared.into_iter().filter(|branch| is_of(scope, &branch.name, member, id)).collect();
    if mine.is_empty() {
        return Ok(Vec::new());
    }
    if instance != list_instance {
        // Whoever took this for an answer would say that nothing is left here.
        let why =
            "the server was restarted, or another one took its place, between two questions: run this again";
        return Err(Error::new(ErrorKind::Unreachable, OPERATION, why));
    }
    if recovery::judge_orphans(row) == OrphanRule::Refuse {
        let why = format!(
            "there are prepared branches of a coordinator that the decision log does not know, and nothing says \
             that it was settled: the decision log was emptied or restored, or this database was. Nothing was \
             touched. Compare them with the other participants, and end them by hand: {}",
            names(&mine)
        );
        return Err(Error::new(ErrorKind::Refused, OPERATION, why));
    }
    Ok(mine)
}

/// A participant's branches of decided transactions, by number.
pub(super) fn decided_in(batches: &Batches, participant: &ParticipantName) -> BTreeMap<u64, DecidedBranch> {
    let decisions = batches.values().flatten();
    let branches =
        decisions.flat_map(|decision| decision.branches.iter().map(|branch| (decision.number, branch)));
    let here = branches.filter(|(_, branch)| branch.participant == *participant);
    here.map(|(number, branch)| (number, branch.clone())).collect()
}

fn refuse(verdict: Verdict, examined: &Examined) -> Error {
    let what = match verdict {
        Verdict::RecordLost => "the decision log was restored: it is older than this database",
        _ => "this database has lost history: it was restored, or a failover went back",
    };
    let absent: Vec<String> = examined.absent.iter().map(|(name, _)| name.to_string()).collect();
    let absent = match absent.is_empty() {
        true => String::new(),
        false => format!("; decided to be committed, and not prepared here: {}", absent.join(", ")),
    };
    let why = format!(
        "{what}. Nothing was touched: branches that look undecided may have been decided. Compare the participants, \
         and end them by hand: {}{absent}",
        names(&examined.mine)
    );
    Error::new(ErrorKind::Refused, OPERATION, why)
}

fn number(branch: &PreparedBranch) -> u64 {
    branch.name.transaction.number
}

fn names(branches: &[PreparedBranch]) -> String {
    let names: Vec<String> = branches.iter().map(|branch| branch.name.to_string()).collect();
    if names.is_empty() { "(none is prepared now)".to_string() } else { names.join(", ") }
}
