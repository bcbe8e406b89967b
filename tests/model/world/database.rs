//! One database that prepares transactions, as PostgreSQL does it: numbers of transactions that are handed out
//! again after a crash, timelines, prepared branches that outlive the server, history rows that are written
//! only in the instance that is meant. What was flushed is a list of changes, so that a failover can lose any
//! suffix of it, and a copy can be put in its place.

use std::collections::BTreeMap;

use onecommit::id::{CoordinatorId, TransactionId};
use onecommit::protocol::fate::{Fate, Switch};
use onecommit::protocol::history::{CompareAndSet, Row};
use onecommit::protocol::progress::DatabaseIdentity;
use onecommit::protocol::transaction::{Committed, Vote};

pub type Xid = u64;
/// A connection of the application's.
pub type Connection = u32;

/// Older changes can't be lost any more, and are kept as what they made.
const CHANGES_MAX: usize = 64;

/// A prepared branch's name, without the participant's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Branch {
    pub transaction: TransactionId,
    pub is_home: bool,
    pub whose: Whose,
}

/// To whom a prepared branch belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Whose {
    Ours,
    /// Of the same names, with another incarnation.
    OtherIncarnation,
    OtherNamespace,
    /// Of a participant of another name that is this very database.
    OtherParticipant,
}

/// One life of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    pub timeline: u32,
    pub started: u32,
    pub life: u32,
}

/// What came of writing a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Marking {
    Written,
    OtherInstance,
    Lost(Option<Row>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Change {
    Prepared {
        branch: Branch,
        work: Work,
    },
    Ended {
        branch: Branch,
        commits: bool,
    },
    /// By a plain COMMIT.
    Committed(Work),
    Row(CoordinatorId, Row),
}

/// What a transaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Work {
    /// None for a stranger's.
    transaction: Option<TransactionId>,
    xid: Xid,
    messages: u32,
}

/// All that is flushed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Contents {
    prepared: BTreeMap<Branch, Work>,
    /// Numbers that were committed.
    committed: BTreeMap<Xid, Work>,
    rows: BTreeMap<CoordinatorId, Row>,
    /// The highest number that the log tells of.
    highest: Xid,
}

impl Contents {
    fn take(&mut self, change: Change) {
        match change {
            Change::Prepared { branch, work } => {
                self.highest = self.highest.max(work.xid);
                self.prepared.insert(branch, work);
            }
            Change::Ended { branch, commits } => {
                if let Some(work) = self.prepared.remove(&branch).filter(|_| commits) {
                    self.committed.insert(work.xid, work);
                }
            }
            Change::Committed(work) => {
                self.highest = self.highest.max(work.xid);
                self.committed.insert(work.xid, work);
            }
            Change::Row(coordinator, row) => drop(self.rows.insert(coordinator, row)),
        }
    }
}

/// A copy of the database, as a base backup is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Copied {
    contents: Contents,
    position: u64,
    timeline: u32,
    left: Vec<(u32, u64)>,
}

/// A transaction that is open on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Open {
    transaction: TransactionId,
    xid: Option<Xid>,
    messages: u32,
    is_failed: bool,
}

/// What a statement of the application's found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ran {
    Wrote(Xid),
    Failed,
    NoTransaction,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Database {
    number: usize,
    instance: Instance,
    pub is_up: bool,
    /// A failover or a restore has lost something that was flushed.
    pub has_lost_history: bool,
    /// A copy went on under the timeline on which it was taken, which then has two histories.
    pub is_forked: bool,
    base: Contents,
    base_position: u64,
    changes: Vec<Change>,
    now: Contents,
    left: Vec<(u32, u64)>,
    next_xid: Xid,
    open: BTreeMap<Connection, Open>,
}

impl Database {
    pub fn new(number: usize) -> Self {
        Database {
            number,
            instance: Instance { timeline: 1, started: 1, life: 1 },
            is_up: true,
            has_lost_history: false,
            is_forked: false,
            base: Contents::default(),
            base_position: 1,
            changes: Vec::new(),
            now: Contents::default(),
            left: Vec::new(),
            next_xid: 1,
            open: BTreeMap::new(),
        }
    }

    // What the coordinator asks.

    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// As the product spells it.
    pub fn identity(&self) -> DatabaseIdentity {
        let (system, database) = (format!("70{}", self.number), "5".to_string());
        DatabaseIdentity { system, database, timeline: Some(timeline(self.instance.timeline)) }
    }

    /// When its server was started: no two servers at the same time.
    pub fn started(&self) -> String {
        format!("{}.{}", self.number, self.instance.started)
    }

    pub fn switches(&self) -> Vec<Switch> {
        let left = self.left.iter();
        left.map(|(number, position)| Switch { timeline: timeline(*number), position: *position }).collect()
    }

    pub fn prepared(&self) -> impl Iterator<Item = Branch> {
        self.now.prepared.keys().copied()
    }

    /// Whether there was such a branch. Whether it may be ended so is the world's to judge.
    pub(super) fn end(&mut self, branch: Branch, commits: bool) -> bool {
        let is_there = self.now.prepared.contains_key(&branch);
        if is_there {
            self.write(Change::Ended { branch, commits });
        }
        is_there
    }

    pub fn fate(&self, xid: Xid) -> Fate {
        let is_open = self.open.values().any(|open| open.xid == Some(xid));
        if xid >= self.next_xid {
            Fate::Unknown
        } else if is_open || self.now.prepared.values().any(|work| work.xid == xid) {
            Fate::InProgress
        } else if self.now.committed.contains_key(&xid) {
            Fate::Committed
        } else {
            Fate::RolledBack
        }
    }

    pub fn has_message(&self, xid: Xid, transaction: TransactionId) -> bool {
        let work = self.now.committed.get(&xid);
        work.is_some_and(|work| work.transaction == Some(transaction) && work.messages > 0)
    }

    /// False where there is a row.
    pub fn open_history(&mut self, coordinator: CoordinatorId) -> bool {
        let is_new = !self.now.rows.contains_key(&coordinator);
        if is_new {
            self.write(Change::Row(coordinator, Row { mark: 0, is_closed: false }));
        }
        is_new
    }

    pub fn history(&self, coordinator: CoordinatorId) -> Option<Row> {
        self.now.rows.get(&coordinator).copied()
    }

    pub fn mark(&mut self, coordinator: CoordinatorId, write: CompareAndSet, there: Instance) -> Marking {
        if there != self.instance {
            return Marking::OtherInstance;
        }
        let row = self.history(coordinator);
        let is_expected = |row: Row| write.expected.contains(&row.mark) || row.mark == write.mark;
        if !row.is_some_and(|row| is_expected(row) && !row.is_closed) {
            return Marking::Lost(row);
        }
        self.write(Change::Row(coordinator, Row { mark: write.mark, is_closed: false }));
        Marking::Written
    }

    /// False where another instance answers.
    pub fn close_history(&mut self, coordinator: CoordinatorId, there: Instance) -> bool {
        if there == self.instance {
            let mark = self.history(coordinator).map_or(0, |row| row.mark);
            self.write(Change::Row(coordinator, Row { mark, is_closed: true }));
        }
        there == self.instance
    }

    // What the application does, on its own connections.

    /// False where one is open.
    pub fn begin(&mut self, connection: Connection, transaction: TransactionId) -> bool {
        let is_new = !self.open.contains_key(&connection);
        let open = Open { transaction, xid: None, messages: 0, is_failed: false };
        self.open.entry(connection).or_insert(open);
        is_new
    }

    pub fn work(&mut self, connection: Connection) -> Ran {
        let next = self.next_xid;
        match self.open.get_mut(&connection) {
            None => Ran::NoTransaction,
            Some(open) if open.is_failed => Ran::Failed,
            Some(open) => {
                let xid = *open.xid.get_or_insert(next);
                self.next_xid = self.next_xid.max(xid + 1);
                Ran::Wrote(xid)
            }
        }
    }

    pub fn stage(&mut self, connection: Connection, messages: u32) -> Ran {
        let ran = self.work(connection);
        if let (Ran::Wrote(_), Some(open)) = (ran, self.open.get_mut(&connection)) {
            open.messages += messages;
        }
        ran
    }

    pub fn fail(&mut self, connection: Connection) {
        if let Some(open) = self.open.get_mut(&connection) {
            open.is_failed = true;
        }
    }

    /// The transaction that is open there, with its number.
    pub fn asked(&self, connection: Connection) -> Option<(TransactionId, Option<Xid>, bool)> {
        self.open.get(&connection).map(|open| (open.transaction, open.xid, open.is_failed))
    }

    pub fn prepare(&mut self, connection: Connection, branch: Branch, xid: Xid) -> Vote {
        if let Some(open) = self.open.remove(&connection)
            && let (false, Some(xid)) = (open.is_failed, open.xid)
        {
            let work = Work { transaction: Some(open.transaction), xid, messages: open.messages };
            self.write(Change::Prepared { branch, work });
        }
        match self.fate(xid) {
            Fate::InProgress => Vote::Prepared { lsn: self.position() },
            Fate::RolledBack => Vote::RolledBack,
            Fate::Committed | Fate::Unknown => Vote::Unknown,
        }
    }

    pub fn commit(&mut self, connection: Connection, xid: Option<Xid>) -> Committed {
        if let Some(open) = self.open.remove(&connection)
            && let (false, Some(xid)) = (open.is_failed, open.xid)
        {
            let work = Work { transaction: Some(open.transaction), xid, messages: open.messages };
            self.write(Change::Committed(work));
        }
        match xid.map(|xid| self.fate(xid)) {
            Some(Fate::Committed) => Committed::Yes,
            Some(Fate::RolledBack) => Committed::No,
            Some(Fate::InProgress | Fate::Unknown) | None => Committed::Unknown,
        }
    }

    pub fn roll_back(&mut self, connection: Connection) {
        self.open.remove(&connection);
    }

    /// Somebody else's transaction commits.
    pub fn stranger_commits(&mut self) {
        let work = Work { transaction: None, xid: self.next_xid, messages: 0 };
        self.next_xid += 1;
        self.write(Change::Committed(work));
    }

    /// Somebody else's branch is prepared.
    pub fn stranger_prepares(&mut self, branch: Branch) {
        let work = Work { transaction: None, xid: self.next_xid, messages: 0 };
        self.next_xid += 1;
        self.write(Change::Prepared { branch, work });
    }

    // What befalls the server.

    /// It goes down, with every connection and all that was not flushed. `restarts` says whether its start
    /// time changes: it does not where the server recovers inside from the death of one backend.
    pub fn crash(&mut self, restarts: bool) {
        self.open.clear();
        self.instance.started += u32::from(restarts);
        self.instance.life += 1;
        // What was handed out and never reached the log is handed out again.
        self.next_xid = self.now.highest + 1;
    }

    /// Another server takes its place, which lacks the last `lost` changes.
    pub fn fail_over(&mut self, lost: usize) {
        let lost = lost.min(self.changes.len());
        self.has_lost_history |= lost > 0;
        self.changes.truncate(self.changes.len() - lost);
        self.now = self.base.clone();
        self.changes.iter().for_each(|change| self.now.take(*change));
        self.left.push((self.instance.timeline, self.position()));
        self.instance.timeline += 1;
        self.crash(true);
    }

    pub fn copy(&self) -> Copied {
        let (contents, left) = (self.now.clone(), self.left.clone());
        Copied { contents, position: self.position(), timeline: self.instance.timeline, left }
    }

    /// A copy takes its place. Where it is recovered from an archive it goes on under a new timeline.
    pub fn restore(&mut self, copied: &Copied, is_archived: bool) {
        self.has_lost_history |= self.position() > copied.position;
        (self.base, self.now) = (copied.contents.clone(), copied.contents.clone());
        (self.base_position, self.left) = (copied.position, copied.left.clone());
        self.changes.clear();
        let newest = self.instance.timeline;
        self.instance.timeline = copied.timeline;
        self.is_forked |= self.has_lost_history && !is_archived;
        if is_archived {
            self.left.push((copied.timeline, copied.position));
            self.instance.timeline = newest + 1;
        }
        self.crash(true);
    }

    // What is true of it.

    pub fn position(&self) -> u64 {
        self.base_position + self.changes.len() as u64
    }

    /// The messages of a transaction, if it is committed here.
    pub fn committed(&self, transaction: TransactionId) -> Option<u32> {
        let mut works = self.now.committed.values();
        works.find_map(|work| (work.transaction == Some(transaction)).then_some(work.messages))
    }

    fn write(&mut self, change: Change) {
        self.now.take(change);
        self.changes.push(change);
        if self.changes.len() > CHANGES_MAX {
            self.base.take(self.changes.remove(0));
            self.base_position += 1;
        }
    }
}

fn timeline(number: u32) -> String {
    format!("{number:08X}")
}
