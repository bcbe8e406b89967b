//! A transfer without a coordinator: two plain commits, the floor, and the floor with one part of the
//! protocol after the other, as it is said on the same connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use onecommit::id::{CoordinatorId, Incarnation, ParticipantName, TransactionId};
use onecommit::participant::Isolation;
use onecommit::participant::postgres::branch::{self, Work};
use onecommit::protocol::batch::Entry;
use onecommit::protocol::branch::BranchName;
use onecommit::protocol::decision::{DecidedBranch, Decision};
use onecommit::protocol::transaction::Vote;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::decisions::Decisions;
use super::update;
use crate::Result;

const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// A timeline's name is as long as this.
const TIMELINE: &str = "00000001";

/// How much of the protocol is there. Each part is there with all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Two plain commits: not atomic.
    Plain,
    /// PREPARE TRANSACTION and COMMIT PREPARED: after a crash nobody knows.
    Floor,
    /// A decision between the two.
    Decided,
    /// The begin tells where it is, and leaves its mark.
    Marked,
    /// Each branch is asked what it did.
    Asked,
    /// The vote counts by the number's status, and has the log's position.
    Voted,
}

/// Transfers of one kind.
pub(super) struct Bare {
    part: Part,
    decisions: Option<Decisions>,
    coordinator: CoordinatorId,
    incarnation: Incarnation,
    names: [ParticipantName; 2],
    next: AtomicU64,
}

impl Bare {
    pub(super) fn new(part: Part, decisions: Option<Decisions>) -> Result<Self> {
        Ok(Bare {
            part,
            decisions,
            coordinator: CoordinatorId::random(),
            incarnation: Incarnation::random(),
            names: ["one".parse()?, "two".parse()?],
            next: AtomicU64::new(0),
        })
    }

    pub(super) async fn transfer(&self, connections: &[Client; 2], account: i32) -> Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = TransactionId { coordinator: self.coordinator, number };
        let begin = match self.part < Part::Marked {
            true => "begin".to_string(),
            false => branch::begin(id, Isolation::ReadCommitted, LOCK_TIMEOUT),
        };
        both(connections, [&begin, &begin]).await?;
        let update = update(account);
        both(connections, [&update, &update]).await?;
        if self.part == Part::Plain {
            return both(connections, ["commit", "commit"]).await.map(drop);
        }
        let mut xids = [0, 0];
        if self.part >= Part::Asked {
            for (xid, row) in xids.iter_mut().zip(both(connections, [branch::ASK, branch::ASK]).await?) {
                let Work::Wrote { xid: found, .. } = branch::asked(id, &row)? else {
                    return Err("the branch wrote nothing".into());
                };
                *xid = found;
            }
        }
        let names = self.names.each_ref().map(|participant| BranchName {
            namespace: "bench".parse().expect("a name"),
            incarnation: self.incarnation,
            transaction: id,
            participant: participant.clone(),
            is_home: false,
        });
        let lsns = self.prepare(connections, &names, xids).await?;
        if let Some(decisions) = &self.decisions {
            decisions.decide(self.decision(number, xids, lsns)).await?;
        }
        let commits = names.map(|name| format!("commit prepared '{name}'"));
        both(connections, [&commits[0], &commits[1]]).await.map(drop)
    }

    async fn prepare(
        &self,
        connections: &[Client; 2],
        names: &[BranchName; 2],
        xids: [u64; 2],
    ) -> Result<[u64; 2]> {
        let says = |at: usize| match self.part < Part::Voted {
            true => format!("prepare transaction '{}'", names[at]),
            false => branch::prepare(&names[at], xids[at]),
        };
        let rows = both(connections, [&says(0), &says(1)]).await?;
        let mut lsns = [0, 0];
        if self.part >= Part::Voted {
            for (position, row) in lsns.iter_mut().zip(rows) {
                let Vote::Prepared { lsn } = branch::voted(&row)? else { return Err("not prepared".into()) };
                *position = lsn;
            }
        }
        Ok(lsns)
    }

    fn decision(&self, number: u64, xids: [u64; 2], lsns: [u64; 2]) -> Entry {
        let branches = (0..2).map(|at| DecidedBranch {
            participant: self.names[at].clone(),
            xid: xids[at],
            timeline: TIMELINE.to_string(),
            lsn: lsns[at],
            is_home: false,
        });
        let decision = Decision { number, branches: branches.collect() };
        Entry { number, bytes: decision.encode() }
    }
}

/// Says both at the same time; each one's last row.
async fn both(connections: &[Client; 2], sql: [&str; 2]) -> Result<Vec<Vec<Option<String>>>> {
    let said = connections.iter().zip(sql).map(|(connection, sql)| connection.simple_query(sql));
    let answers = try_join_all(said).await?;
    let row = |messages: Vec<SimpleQueryMessage>| {
        let last = messages.into_iter().rev().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        last.map_or_else(Vec::new, |row| (0..row.len()).map(|at| row.get(at).map(str::to_string)).collect())
    };
    Ok(answers.into_iter().map(row).collect())
}
