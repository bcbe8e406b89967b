//! Windows over a PostgreSQL of a few lines: transactions draw a number, then ids, and end, in any
//! order; every step of a reader may fall between any two of theirs.

use std::collections::BTreeSet;
use std::str::FromStr;

use proptest::prelude::*;

use super::*;
use crate::id::MessageId;
use crate::message::Message;

const SHARDS: u16 = 3;
const SMALL: usize = 3;
const PIECE: usize = 2;
const WALK: i64 = 7;

#[derive(Clone, Copy, PartialEq)]
enum State {
    Running,
    Committed,
    RolledBack,
}

/// The server. Transaction n has the number n + 3.
#[derive(Default)]
struct Server {
    transactions: Vec<State>,
    completed: u64,
    last_id: i64,
    rows: Vec<StoredMessage>,
}

impl Server {
    fn begin(&mut self) -> u64 {
        self.transactions.push(State::Running);
        self.transactions.len() as u64 + 2
    }

    fn end(&mut self, xid: u64, state: State) {
        self.transactions[xid as usize - 3] = state;
        self.completed = self.completed.max(xid);
    }

    fn state(&self, xid: u64) -> State {
        self.transactions[xid as usize - 3]
    }

    fn running(&self) -> Vec<u64> {
        (3..self.transactions.len() as u64 + 3).filter(|xid| self.state(*xid) == State::Running).collect()
    }

    fn insert(&mut self, xid: u64, key: u8) {
        self.last_id += 1;
        let message = Message::stored("t", Some(vec![key].into()), None, Vec::new(), None);
        let message_id = MessageId::random();
        self.rows.push(StoredMessage {
            id: self.last_id,
            message_id,
            transaction: xid,
            created_at_ms: 0,
            message,
        });
    }

    fn snapshot(&self) -> Snapshot {
        let xmax = self.completed.max(2) + 1;
        let running: Vec<u64> = self.running().into_iter().filter(|xid| *xid < xmax).collect();
        let xmin = running.first().copied().unwrap_or(xmax);
        let list: Vec<String> = running.iter().map(u64::to_string).collect();
        format!("{xmin}:{xmax}:{}", list.join(",")).parse().unwrap()
    }

    /// Committed rows by id that `wanted` picks, up to a limit.
    fn select(&self, limit: usize, wanted: impl Fn(&StoredMessage) -> bool) -> Vec<StoredMessage> {
        let committed = self.rows.iter().filter(|row| self.state(row.transaction) == State::Committed);
        committed.filter(|row| wanted(row)).take(limit).cloned().collect()
    }
}

/// What the reader waits for inside one read, while others go on.
enum Reading {
    Nothing,
    /// The snapshot is taken and the last id read; the barrier has no number yet.
    Begun {
        this: Snapshot,
        last_id: i64,
        rows: Option<Vec<StoredMessage>>,
    },
}

/// A barrier: its number, and whose it is.
type Named = (u64, ShardIndex);

#[derive(Default)]
struct Log {
    steps: Vec<(Vec<i64>, Position, Named)>,
    cleared: usize,
}

struct Run {
    server: Server,
    windows: Windows<Named>,
    reading: Reading,
    barriers: Vec<u64>,
    unused: BTreeSet<Named>,
    logs: Vec<Log>,
}

impl Run {
    fn new() -> Self {
        let logs = (0..SHARDS).map(|_| Log::default()).collect();
        let (server, windows) = (Server::default(), Windows::new(SHARDS));
        let (reading, barriers, unused) = (Reading::Nothing, Vec::new(), BTreeSet::new());
        let mut run = Run { server, windows, reading, barriers, unused, logs };
        (0..SHARDS).for_each(|shard| run.take(shard));
        run
    }

    fn take(&mut self, shard: u16) {
        let log = &mut self.logs[usize::from(shard)];
        log.steps.truncate(log.cleared);
        let birth = (Vec::new(), Position::before_any_snapshot(), (0, ShardIndex(shard)));
        let (_, position, barrier) = log.steps.last().cloned().unwrap_or(birth);
        let Position::Snapshots { prev, this, last } = position else { unreachable!() };
        self.windows.add(ShardIndex(shard), (prev, this, last), barrier);
    }

    fn step(&mut self, (action, choice): (u8, u8)) {
        let running: Vec<u64> =
            self.server.running().into_iter().filter(|xid| !self.barriers.contains(xid)).collect();
        let one = running.get(usize::from(choice) % running.len().max(1)).copied();
        let shard = u16::from(choice) % SHARDS;
        match (action, one) {
            (0..10, _) if running.len() < 6 => drop(self.server.begin()),
            (0..40, Some(xid)) => self.server.insert(xid, choice),
            (40..52, Some(xid)) => self.server.end(xid, State::Committed),
            (52..55, Some(xid)) => self.server.end(xid, State::RolledBack),
            (55..58, _) => self.commit_barriers(),
            (58..90, _) => self.read(),
            (90..96, _) => {
                let log = &mut self.logs[usize::from(shard)];
                log.cleared += usize::from(choice) % (log.steps.len() - log.cleared + 1);
            }
            (96..98, _) if matches!(self.reading, Reading::Nothing) => self.take(shard),
            (98, _) if matches!(self.reading, Reading::Nothing) => self.windows.remove(ShardIndex(shard)),
            (99, _) => {
                self.windows = Windows::new(SHARDS);
                self.reading = Reading::Nothing;
                (0..SHARDS).for_each(|shard| self.take(shard));
            }
            _ => {}
        }
    }

    fn commit_barriers(&mut self) {
        for xid in std::mem::take(&mut self.barriers) {
            self.server.end(xid, State::Committed);
        }
    }

    /// Half of a read: up to the barrier, or from there on.
    fn read(&mut self) {
        match std::mem::replace(&mut self.reading, Reading::Nothing) {
            Reading::Begun { this, last_id, rows } => self.end_read(this, last_id, rows),
            Reading::Nothing => match self.windows.next_read() {
                Next::Nothing => {}
                Next::Piece(piece) => self.read_piece(&piece),
                Next::Poll { prev } => {
                    let fresh = |row: &StoredMessage| {
                        row.transaction >= prev.xmax() || prev.in_progress().contains(&row.transaction)
                    };
                    let rows = self.server.select(usize::MAX, fresh);
                    let rows = (rows.len() < SMALL).then_some(rows);
                    self.begin_read(rows);
                }
                Next::Open => self.begin_read(None),
            },
        }
    }

    fn begin_read(&mut self, rows: Option<Vec<StoredMessage>>) {
        let (this, last_id) = (self.server.snapshot(), self.server.last_id);
        self.reading = Reading::Begun { this, last_id, rows };
    }

    fn end_read(&mut self, this: Snapshot, last_id: i64, rows: Option<Vec<StoredMessage>>) {
        self.commit_barriers();
        let barrier = self.server.begin();
        self.barriers.push(barrier);
        self.windows.note_floor(last_id, barrier);
        let barriers = self.windows.waiting().into_iter().map(|shard| (shard, (barrier, shard))).collect();
        match rows {
            None => self.windows.opened(&this, &barriers),
            Some(rows) => {
                let chunks = self.windows.polled(this, rows, &barriers);
                self.deliver(chunks);
            }
        }
    }

    fn read_piece(&mut self, piece: &Piece) {
        let walk_up_to = piece.after + WALK;
        let rows = self.server.select(PIECE, |row| {
            let old = |floor| row.id <= floor && piece.prev.in_progress().contains(&row.transaction);
            row.id > piece.after
                && row.id <= walk_up_to
                && piece.this.sees(row.transaction)
                && !piece.prev.sees(row.transaction)
                && piece.old_up_to.is_none_or(old)
        });
        let end = piece.old_up_to.unwrap_or(self.server.last_id);
        let read_up_to = if rows.len() == PIECE { rows.last().map_or(0, |row| row.id) } else { walk_up_to };
        let chunks = self.windows.piece_read(rows, (read_up_to < end).then_some(read_up_to));
        self.deliver(chunks);
        for barrier in self.windows.take_unused() {
            let log = &self.logs[usize::from(barrier.1.0)];
            assert!(log.steps.iter().all(|step| step.2 != barrier), "{barrier:?} is named");
            self.unused.insert(barrier);
        }
    }

    fn deliver(&mut self, chunks: Vec<Chunk<Named>>) {
        for chunk in chunks {
            assert!(!self.unused.contains(&chunk.barrier), "{:?} was unused", chunk.barrier);
            let ids: Vec<i64> = chunk.messages.iter().map(|row| row.id).collect();
            let step = (ids, chunk.position, chunk.barrier);
            self.logs[usize::from(chunk.shard.0)].steps.push(step);
        }
    }

    fn finish(&mut self) {
        if let Reading::Begun { .. } = self.reading {
            self.read();
        }
        self.commit_barriers();
        for xid in self.server.running() {
            self.server.end(xid, State::Committed);
        }
        (0..SHARDS).for_each(|shard| self.take(shard));
        // Each read but a poll moves a window on by a row at least, or ends it; every other one is a poll.
        for _ in 0..8 * self.server.rows.len() + 40 {
            self.read();
        }
    }

    fn check(&self) {
        let mut read: Vec<i64> = Vec::new();
        for log in &self.logs {
            let ids: Vec<i64> = log.steps.iter().flat_map(|step| step.0.clone()).collect();
            let mut last_of_transaction = BTreeMap::new();
            for id in &ids {
                let transaction = self.server.rows[*id as usize - 1].transaction;
                assert!(last_of_transaction.insert(transaction, *id) < Some(*id), "order of {id}");
            }
            read.extend(ids);
        }
        read.sort_unstable();
        let committed = self.server.select(usize::MAX, |_| true);
        assert_eq!(read, committed.iter().map(|row| row.id).collect::<Vec<_>>());
    }
}

#[test]
fn a_large_window_of_one_shard_holds_up_no_other() {
    let mut windows: Windows<()> = Windows::new(2);
    let snapshot = |xmax: u64| Snapshot::from_str(&format!("{xmax}:{xmax}:")).unwrap();
    let (long_ago, lately) = (snapshot(3), snapshot(10));
    windows.add(ShardIndex(0), (lately.clone(), None, 0), ());
    windows.add(ShardIndex(1), (long_ago, None, 0), ());
    assert_eq!(windows.next_read(), Next::Open);
    windows.opened(&snapshot(20), &BTreeMap::from([(ShardIndex(0), ()), (ShardIndex(1), ())]));
    let mut polls = 0;
    for _ in 0..10 {
        match windows.next_read() {
            Next::Poll { prev } => {
                assert!(prev != lately, "it goes on");
                polls += 1;
                windows.polled(prev, Vec::new(), &BTreeMap::new());
            }
            Next::Piece(piece) => {
                let more = (piece.prev != lately).then_some(piece.after + 1);
                windows.piece_read(Vec::new(), more);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(polls >= 3, "{polls} of 10 reads were the small shard's");
}

/// With transactions always in progress each window has an old part, so that two pieces read it.
#[test]
fn shards_that_were_taken_one_after_the_other_come_to_share_a_poll() {
    let mut windows: Windows<()> = Windows::new(2);
    windows.note_floor(100, 3);
    let busy = |xmax: u64| Snapshot::from_str(&format!("{}:{xmax}:{}", xmax - 1, xmax - 1)).unwrap();
    windows.add(ShardIndex(0), (busy(20), None, 0), ());
    windows.add(ShardIndex(1), (busy(10), None, 0), ());
    for now in (30..).step_by(10).take(20) {
        match windows.next_read() {
            Next::Poll { .. } if windows.waiting().len() == 2 => return,
            Next::Poll { .. } => drop(windows.polled(busy(now), Vec::new(), &BTreeMap::new())),
            Next::Open => {
                let waiting = windows.waiting().into_iter().map(|shard| (shard, ())).collect();
                windows.opened(&busy(now), &waiting);
            }
            Next::Piece(_) => drop(windows.piece_read(Vec::new(), None)),
            Next::Nothing => panic!("two shards are owned"),
        }
    }
    panic!("20 reads, and never one poll for both");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_committed_row_is_read_once(steps in prop::collection::vec((0u8..100, any::<u8>()), 1..400)) {
        let mut run = Run::new();
        steps.into_iter().for_each(|step| run.step(step));
        run.finish();
        run.check();
    }
}
