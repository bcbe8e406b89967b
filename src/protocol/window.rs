//! Which rows a PostgreSQL outbox is asked for next, for all the shards that one relay owns.
//!
//! A window is what the snapshot `this` sees and `prev` did not (the technique of Skytools PgQ).
//! Shards whose (prev, this) agree are read together. A shard that was just taken may have to
//! finish the window of its former owner first; it is read by turns with the others and joins
//! them at the next fresh window, for which all the shards that wait get one and the same `this`.
//! Within a window every shard is delivered in ascending id, so (prev, this, last id) is enough to
//! go on anywhere in it.

use std::collections::{BTreeMap, VecDeque};

use crate::id::ShardIndex;
use crate::message::StoredMessage;
use crate::protocol::floor::Floors;
use crate::protocol::position::Position;
use crate::protocol::slot::{shard_of, slot};
use crate::protocol::snapshot::Snapshot;

/// Messages of one shard in their order, and where the shard stands after them.
#[derive(Debug)]
pub struct Chunk<B> {
    /// Whose they are.
    pub shard: ShardIndex,
    /// In the order of delivery.
    pub messages: Vec<StoredMessage>,
    /// The shard's position once they are delivered.
    pub position: Position,
    /// The barrier that vouches for the position.
    pub barrier: B,
}

/// A chunk has at most this many messages: a batch can end behind each chunk.
pub const CHUNK_MESSAGES: usize = 256;

/// What to read next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// No shard is owned.
    Nothing,
    /// All shards stand at `prev`: one small statement, whose own snapshot becomes `this`.
    Poll {
        /// The finished window before.
        prev: Snapshot,
    },
    /// Take a fresh snapshot and a barrier; its rows are then read in pieces.
    Open,
    /// Read one bounded piece of a window.
    Piece(Piece),
}

/// A piece: rows that `this` sees and `prev` does not, with id above `after`, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The window before.
    pub prev: Snapshot,
    /// The window read.
    pub this: Snapshot,
    /// Rows up to this id were read.
    pub after: i64,
    /// Only rows of transactions in progress at `prev`, with id up to this (see
    /// [`Floors`]); the others come after them.
    pub old_up_to: Option<i64>,
}

struct Segment<B> {
    piece: Piece,
    /// Of a former owner, whose positions name its barriers.
    inherited: bool,
    /// Another window may begin before this one is finished. A fresh window with more rows than one
    /// piece takes gets it too: a shard that comes back with a large backlog held up all the others.
    takes_turns: bool,
    shards: BTreeMap<ShardIndex, (i64, B)>,
}

/// The windows of the shards that one relay owns. `B` is what vouches for a window's barrier.
pub struct Windows<B> {
    shards_of_outbox: u16,
    waiting: BTreeMap<ShardIndex, Snapshot>,
    segments: VecDeque<Segment<B>>,
    unused: Vec<B>,
    floors: Floors,
    fresh_turn: bool,
}

impl<B: Clone> Windows<B> {
    /// No shards yet, of an outbox with this many.
    pub fn new(shards_of_outbox: u16) -> Self {
        Windows {
            shards_of_outbox,
            waiting: BTreeMap::new(),
            segments: VecDeque::new(),
            unused: Vec::new(),
            floors: Floors::default(),
            fresh_turn: true,
        }
    }

    /// Adds a shard that was just taken, at (prev, this, last). One that is there already begins
    /// anew: in two places it would be read twice.
    pub fn add(&mut self, shard: ShardIndex, window: (Snapshot, Option<Snapshot>, i64), barrier: B) {
        self.remove(shard);
        let (prev, this, last) = window;
        let Some(this) = this else {
            self.waiting.insert(shard, prev);
            return;
        };
        let same = |segment: &&mut Segment<B>| segment.piece.prev == prev && segment.piece.this == this;
        if let Some(segment) = self.segments.iter_mut().find(same) {
            // Rows that others have passed are read again; each shard skips up to its own last.
            segment.piece.after = segment.piece.after.min(last);
            segment.piece.old_up_to = None;
            segment.shards.insert(shard, (last, barrier));
            return;
        }
        let piece = Piece { prev, this, after: last, old_up_to: None };
        let shards = BTreeMap::from([(shard, (last, barrier))]);
        self.segments.push_back(Segment { piece, inherited: true, takes_turns: true, shards });
    }

    /// Removes a shard that was given up or lost.
    pub fn remove(&mut self, shard: ShardIndex) {
        self.waiting.remove(&shard);
        for segment in &mut self.segments {
            segment.shards.remove(&shard);
        }
        self.segments.retain(|segment| !segment.shards.is_empty());
    }

    /// The shards that wait for a fresh window: those that a poll or an opened window serves.
    pub fn waiting(&self) -> Vec<ShardIndex> {
        self.waiting.keys().copied().collect()
    }

    /// Whether a window is begun and not yet read to its end.
    pub fn has_open(&self) -> bool {
        !self.segments.is_empty()
    }

    /// The shards that the piece named by [`Windows::next_read`] serves; the rows of others are
    /// read in vain.
    pub fn served(&self) -> Vec<ShardIndex> {
        self.segments.front().map_or_else(Vec::new, |segment| segment.shards.keys().copied().collect())
    }

    /// The barriers, since the last call, of shards for which a whole window had nothing: no position
    /// names them, nor ever will.
    pub fn take_unused(&mut self) -> Vec<B> {
        std::mem::take(&mut self.unused)
    }

    /// Notes a floor pair; see [`Floors`].
    pub fn note_floor(&mut self, last_value: i64, barrier_xid: u64) {
        self.floors.note(last_value, barrier_xid);
    }

    /// What to read next. A fresh window is begun when the one before has had a piece at least;
    /// inherited and large windows take turns with it.
    pub fn next_read(&mut self) -> Next {
        let may_begin = !self.waiting.is_empty() && self.segments.iter().all(|segment| segment.takes_turns);
        if may_begin && (self.fresh_turn || self.segments.is_empty()) {
            self.fresh_turn = false;
            let mut prevs = self.waiting.values();
            let first = prevs.next().expect("a shard is waiting").clone();
            return if prevs.all(|prev| *prev == first) { Next::Poll { prev: first } } else { Next::Open };
        }
        self.fresh_turn = true;
        match self.segments.front() {
            Some(segment) => Next::Piece(segment.piece.clone()),
            None => Next::Nothing,
        }
    }

    /// A poll read the whole window `this`, its rows by id. Every waiting shard moves on; those with
    /// rows have a barrier.
    pub fn polled(
        &mut self,
        this: Snapshot,
        rows: Vec<StoredMessage>,
        barriers: &BTreeMap<ShardIndex, B>,
    ) -> Vec<Chunk<B>> {
        let Some(prev) = self.waiting.values().next().cloned() else { return Vec::new() };
        let mut shards: BTreeMap<ShardIndex, (i64, B)> =
            barriers.iter().map(|(shard, barrier)| (*shard, (0, barrier.clone()))).collect();
        let chunks = self.split((&prev, &this), rows, &mut shards, true);
        for waiting in self.waiting.values_mut() {
            *waiting = this.clone();
        }
        chunks
    }

    /// A fresh window was opened for the waiting shards that have a barrier in it.
    pub fn opened(&mut self, this: &Snapshot, barriers: &BTreeMap<ShardIndex, B>) {
        for (shard, barrier) in barriers {
            let Some(prev) = self.waiting.remove(shard) else { continue };
            let entry = (*shard, (0, barrier.clone()));
            let same = |segment: &&mut Segment<B>| !segment.takes_turns && segment.piece.prev == prev;
            if let Some(segment) = self.segments.iter_mut().find(same) {
                segment.shards.extend([entry]);
                continue;
            }
            let floor = self.floors.after(&prev);
            let has_old = floor > 0 && !prev.in_progress().is_empty();
            let (after, old_up_to) = if has_old { (0, Some(floor)) } else { (floor, None) };
            let piece = Piece { prev, this: this.clone(), after, old_up_to };
            let shards = BTreeMap::from([entry]);
            self.segments.push_back(Segment { piece, inherited: false, takes_turns: false, shards });
        }
    }

    /// The piece that [`Windows::next_read`] named was read, up to the id `read_up_to` where more may
    /// follow behind it; None where nothing does.
    pub fn piece_read(&mut self, rows: Vec<StoredMessage>, read_up_to: Option<i64>) -> Vec<Chunk<B>> {
        let Some(mut segment) = self.segments.pop_front() else { return Vec::new() };
        let finished = read_up_to.is_none() && segment.piece.old_up_to.is_none();
        let window = (segment.piece.prev.clone(), segment.piece.this.clone());
        let chunks = self.split((&window.0, &window.1), rows, &mut segment.shards, finished);
        match (read_up_to, segment.piece.old_up_to) {
            (Some(read_up_to), _) => {
                segment.piece.after = read_up_to;
                segment.takes_turns = true;
                self.segments.push_back(segment);
            }
            // The rest follows at once. Taking turns here, two shards that once stood at different
            // snapshots passed each other by for as long as transactions were in progress, and no
            // poll served both any more.
            (None, Some(floor)) => {
                segment.piece.after = floor;
                segment.piece.old_up_to = None;
                self.segments.push_front(segment);
            }
            (None, None) => {
                for (shard, (last, barrier)) in segment.shards {
                    self.waiting.insert(shard, window.1.clone());
                    if !segment.inherited && last == 0 {
                        self.unused.push(barrier);
                    }
                }
            }
        }
        chunks
    }

    /// Shares rows out by shard, drops what a shard has passed or does not own, cuts chunks.
    fn split(
        &self,
        (prev, this): (&Snapshot, &Snapshot),
        rows: Vec<StoredMessage>,
        shards: &mut BTreeMap<ShardIndex, (i64, B)>,
        finished: bool,
    ) -> Vec<Chunk<B>> {
        let mut chunks: Vec<Chunk<B>> = Vec::new();
        let mut open: BTreeMap<ShardIndex, usize> = BTreeMap::new();
        let chunk_messages = rows.len().min(CHUNK_MESSAGES);
        for row in rows {
            let slot = slot(row.message.key(), row.transaction);
            let shard = shard_of(slot, self.shards_of_outbox);
            let Some((last, barrier)) = shards.get_mut(&shard) else { continue };
            if row.id <= *last {
                continue;
            }
            *last = row.id;
            let index = *open.entry(shard).or_insert(usize::MAX);
            match chunks.get_mut(index) {
                Some(chunk) if chunk.messages.len() < CHUNK_MESSAGES => {
                    chunk.messages.push(row);
                    if let Position::Snapshots { last: end, .. } = &mut chunk.position {
                        *end = *last;
                    }
                }
                _ => {
                    open.insert(shard, chunks.len());
                    let (mut messages, barrier) = (Vec::with_capacity(chunk_messages), barrier.clone());
                    messages.push(row);
                    let (prev, this) = (prev.clone(), Some(this.clone()));
                    let position = Position::Snapshots { prev, this, last: *last };
                    chunks.push(Chunk { shard, messages, position, barrier });
                }
            }
        }
        if finished {
            for index in open.into_values() {
                chunks[index].position = Position::finished(this.clone());
            }
        }
        chunks
    }
}

#[cfg(test)]
mod tests;
