//! The relays: connections that read, with what each shard has delivered and how much of it is
//! settled, that is, what a committed progress says. A relay that starts again begins at the
//! settled position, and the log of its shards is cut back to it.

use onecommit::ErrorKind;
use onecommit::id::{Epoch, ShardIndex};
use onecommit::outbox::postgres::{Limits, PostgresSource};
use onecommit::outbox::{Barrier, Batch, Delivered, Outbox, OutboxSource as _};
use onecommit::protocol::position::Position;
use onecommit::protocol::progress::Progress;

use super::chance::Chance;
use super::ledger::Ledger;

/// How often each situation came up: a run that never met one proves nothing about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub small: usize,
    pub pieces: usize,
    pub to_backlog: usize,
    pub to_small: usize,
    pub restarts: usize,
    pub inherited: usize,
    pub fenced: usize,
    pub pruned: u64,
    pub emptied: usize,
    pub messages: usize,
    pub late_commits: usize,
    pub large_messages: usize,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.small += other.small;
        self.pieces += other.pieces;
        self.to_backlog += other.to_backlog;
        self.to_small += other.to_small;
        self.restarts += other.restarts;
        self.inherited += other.inherited;
        self.fenced += other.fenced;
        self.pruned += other.pruned;
        self.emptied += other.emptied;
        self.messages += other.messages;
        self.late_commits += other.late_commits;
        self.large_messages += other.large_messages;
    }

    pub fn are_all_met(&self) -> bool {
        let met = [
            self.small,
            self.pieces,
            self.to_backlog,
            self.to_small,
            self.restarts,
            self.inherited,
            self.fenced,
            self.pruned as usize,
            self.emptied,
            self.late_commits,
            self.large_messages,
        ];
        met.iter().all(|times| *times > 0)
    }
}

struct Step {
    messages: Vec<usize>,
    position: Position,
    barrier: Barrier,
}

struct Shard {
    epoch: Epoch,
    owner: Option<usize>,
    log: Vec<Step>,
    settled: usize,
    /// By how much of the log was pruned last: no relay prunes by an older progress.
    pruned: usize,
}

struct Relay {
    outbox: Box<dyn Outbox>,
    /// Another relay has taken a shard without this one's knowledge.
    robbed: bool,
    backlog: bool,
}

/// All relays of one outbox.
pub struct Relays {
    source: PostgresSource,
    relays: Vec<Relay>,
    shards: Vec<Shard>,
    pub counts: Counts,
}

impl Relays {
    pub async fn new(source: PostgresSource, count: usize, shards: u16, chance: &mut Chance) -> Self {
        let shard = || Shard { epoch: Epoch(1), owner: None, log: Vec::new(), settled: 0, pruned: 1 };
        let shards = (0..shards).map(|_| shard()).collect();
        let mut all = Relays { source, relays: Vec::new(), shards, counts: Counts::default() };
        for _ in 0..count {
            let relay = all.connect(chance).await;
            all.relays.push(relay);
        }
        for shard in 0..all.shards.len() {
            let relay = chance.below(count);
            all.take(relay, shard, true).await;
        }
        all
    }

    async fn connect(&self, chance: &mut Chance) -> Relay {
        let limits = Limits {
            small_window_rows: *chance.pick(&[10, 100, 1000]),
            piece_rows: *chance.pick(&[20, 300, 4000]),
            bytes: *chance.pick(&[20_000, 500_000, 8 * 1024 * 1024]),
            walk_ids: *chance.pick(&[50, 3000, 500_000]),
            truncate_bytes: *chance.pick(&[0, u64::MAX]),
            truncate_lock_ms: 20,
        };
        let outbox = PostgresSource { limits, ..self.source.clone() }.connect().await.expect("connect");
        Relay { outbox, robbed: false, backlog: false }
    }

    /// One step of a random relay: mostly a read.
    pub async fn step(&mut self, chance: &mut Chance, ledger: &Ledger) {
        let relay = chance.below(self.relays.len());
        match chance.below(1000) {
            0..650 => {
                self.read(relay, chance, ledger).await;
            }
            650..880 => self.settle(chance.below(self.shards.len()), chance).await,
            880..940 => drop(self.prune(relay, chance).await),
            940..960 => {
                // The shards are left at different places of one window.
                for shard in 0..self.shards.len() {
                    self.settle(shard, chance).await;
                }
                self.restart(relay, chance).await;
            }
            960..970 => self.give_up(chance),
            970..980 => self.rob(relay, chance).await,
            _ => self.adopt(relay, chance).await,
        }
    }

    /// One read; whether anything came or is known to wait.
    async fn read(&mut self, index: usize, chance: &mut Chance, ledger: &Ledger) -> bool {
        match self.relays[index].outbox.read().await {
            Ok(batch) => self.deliver(index, batch, ledger),
            Err(error) => {
                let fenced = error.kind() == ErrorKind::Fenced && self.relays[index].robbed;
                assert!(fenced, "read: {error}");
                let after = self.relays[index].outbox.read().await.expect_err("read after an error");
                assert_eq!(after.kind(), ErrorKind::Unclear, "{after}");
                self.counts.fenced += 1;
                self.restart(index, chance).await;
                true
            }
        }
    }

    fn deliver(&mut self, index: usize, batch: Batch, ledger: &Ledger) -> bool {
        let found = !batch.chunks.is_empty();
        let relay = &mut self.relays[index];
        if found {
            *(if batch.backlog { &mut self.counts.pieces } else { &mut self.counts.small }) += 1;
            self.counts.to_backlog += usize::from(batch.backlog && !relay.backlog);
            self.counts.to_small += usize::from(!batch.backlog && relay.backlog);
            relay.backlog = batch.backlog;
        }
        let shards = self.shards.len() as u16;
        for chunk in batch.chunks {
            let recognise = |row| ledger.recognise(chunk.shard, shards, row);
            let messages: Vec<usize> = chunk.messages.iter().map(recognise).collect();
            assert!(!messages.is_empty(), "an empty chunk");
            assert!(chunk.messages.is_sorted_by(|a, b| a.id < b.id), "ids in a chunk");
            let shard = &mut self.shards[usize::from(chunk.shard.0)];
            // Kafka refuses what a robbed relay still sends.
            if shard.owner == Some(index) {
                let (position, barrier) = (chunk.position, chunk.barrier);
                shard.log.push(Step { messages, position, barrier });
            }
        }
        found || batch.more
    }

    /// Commits some of what a shard has read, as a relay does: not without the barrier.
    async fn settle(&mut self, index: usize, chance: &mut Chance) {
        let shard = &mut self.shards[index];
        let waiting = shard.log.len() - shard.settled;
        for _ in 0..chance.between(0, waiting) {
            shard.log[shard.settled].barrier.wait().await.expect("barrier");
            shard.settled += 1;
        }
    }

    /// Lets go of everything the relay holds; it comes back with all its shards, or some of them.
    async fn restart(&mut self, relay: usize, chance: &mut Chance) {
        self.counts.restarts += 1;
        self.relays[relay] = self.connect(chance).await;
        for shard in 0..self.shards.len() {
            if self.shards[shard].owner == Some(relay) {
                self.free(shard);
                if chance.percent(80) {
                    self.take(relay, shard, chance.percent(50)).await;
                }
            }
        }
    }

    fn free(&mut self, index: usize) {
        let shard = &mut self.shards[index];
        shard.owner = None;
        shard.log.truncate(shard.settled);
    }

    /// Takes a free shard at its settled position.
    async fn take(&mut self, relay: usize, index: usize, new_epoch: bool) {
        let number = ShardIndex(index as u16);
        let outbox = &mut self.relays[relay].outbox;
        let shard = &mut self.shards[index];
        if new_epoch {
            shard.epoch = shard.epoch.next();
        }
        outbox.claim(number, shard.epoch).await.expect("claim");
        let (position, barrier) = match shard.log.last() {
            None => (outbox.origin(), None),
            Some(step) => (step.position.clone(), step.barrier.id),
        };
        // As it comes back from Kafka.
        let database = outbox.identity().await.expect("identity");
        let progress = Progress {
            barrier: barrier.map(|barrier| barrier.0),
            ..Progress::birth(shard.epoch, 1, database, position)
        };
        let progress = Progress::decode(&progress.encode()).expect("progress");
        if let Some(barrier) = progress.barrier() {
            assert!(outbox.has_barrier(number, barrier).await.expect("barrier"), "the named barrier is gone");
        }
        let inherited = matches!(progress.position, Position::Snapshots { this: Some(_), .. });
        self.counts.inherited += usize::from(inherited);
        outbox.add(number, shard.epoch, &progress.position, progress.barrier()).expect("add");
        shard.owner = Some(relay);
    }

    /// A shard is given up in good order; nobody has it then.
    fn give_up(&mut self, chance: &mut Chance) {
        let index = chance.below(self.shards.len());
        if let Some(relay) = self.shards[index].owner {
            self.relays[relay].outbox.remove(ShardIndex(index as u16));
            self.free(index);
        }
    }

    async fn adopt(&mut self, relay: usize, chance: &mut Chance) {
        let free: Vec<usize> =
            (0..self.shards.len()).filter(|shard| self.shards[*shard].owner.is_none()).collect();
        if !free.is_empty() {
            let shard = *chance.pick(&free);
            self.take(relay, shard, chance.percent(70)).await;
        }
    }

    /// A shard is taken over from a relay that goes on as if nothing had happened.
    async fn rob(&mut self, robber: usize, chance: &mut Chance) {
        let index = chance.below(self.shards.len());
        let Some(victim) = self.shards[index].owner.filter(|owner| *owner != robber) else { return };
        let (shard, epoch) = (ShardIndex(index as u16), self.shards[index].epoch);
        let settled = self.shards[index].settled;
        self.free(index);
        self.take(robber, index, true).await;
        self.relays[victim].robbed = true;
        if settled > 0 && chance.percent(30) {
            let step = &self.shards[index].log[settled - 1];
            let (position, barrier) = (step.position.clone(), step.barrier.id);
            let delivered = Delivered { shard, epoch, position, barrier };
            let pruned = self.relays[victim].outbox.prune(&[delivered], 10).await;
            assert_eq!(pruned.expect_err("a robbed relay pruned").kind(), ErrorKind::Fenced);
            self.counts.fenced += 1;
            self.restart(victim, chance).await;
        }
    }

    /// Prunes by a progress that was committed, though perhaps not the last. Returns whether more may
    /// go, by the same progress.
    async fn prune(&mut self, relay: usize, chance: &mut Chance) -> bool {
        let mut delivered = Vec::new();
        for (index, shard) in self.shards.iter_mut().enumerate() {
            if shard.owner != Some(relay) || shard.settled == 0 {
                continue;
            }
            if chance.percent(70) {
                shard.pruned = shard.settled;
            } else {
                shard.pruned = chance.between(shard.pruned, shard.settled);
            }
            let step = &shard.log[shard.pruned - 1];
            let (position, barrier) = (step.position.clone(), step.barrier.id);
            let shard = Delivered { shard: ShardIndex(index as u16), epoch: shard.epoch, position, barrier };
            delivered.push(shard);
        }
        let limit = *chance.pick(&[1, 40, 1000, 5000]);
        let pruned = self.relays[relay].outbox.prune(&delivered, limit).await.expect("prune");
        self.counts.pruned += pruned.messages;
        !pruned.all
    }

    /// What `backlog` counts, over all shards; and how many messages are settled.
    pub async fn backlog_and_settled(&mut self) -> (u64, usize) {
        let (mut backlog, mut settled) = (0, 0);
        for (index, shard) in self.shards.iter().enumerate() {
            let done = &shard.log[..shard.settled];
            settled += done.iter().map(|step| step.messages.len()).sum::<usize>();
            let outbox = &mut self.relays[0].outbox;
            let position = done.last().map_or(outbox.origin(), |step| step.position.clone());
            let count = outbox.backlog(ShardIndex(index as u16), &position).await.expect("backlog");
            backlog += count.messages;
        }
        (backlog, settled)
    }

    /// Reads until nothing is left, settles and prunes it all; what each shard delivered.
    pub async fn finish(&mut self, chance: &mut Chance, ledger: &Ledger) -> Vec<Vec<usize>> {
        for shard in 0..self.shards.len() {
            if self.shards[shard].owner.is_none() {
                self.take(chance.below(self.relays.len()), shard, true).await;
            }
        }
        for relay in 0..self.relays.len() {
            while self.read(relay, chance, ledger).await {}
        }
        // A robbed relay may have let go of a shard in the last reads.
        while self.shards.iter().any(|shard| shard.owner.is_none()) {
            self.adopt(0, chance).await;
        }
        while self.read(0, chance, ledger).await {}
        for index in 0..self.shards.len() {
            while self.shards[index].settled < self.shards[index].log.len() {
                self.settle(index, chance).await;
            }
        }
        let flat = |shard: &Shard| shard.log.iter().flat_map(|step| step.messages.clone()).collect();
        self.shards.iter().map(flat).collect()
    }

    /// Prunes until nothing more goes.
    pub async fn prune_all(&mut self, chance: &mut Chance) {
        for relay in 0..self.relays.len() {
            loop {
                let before = self.counts.pruned;
                let mut more = false;
                for _ in 0..20 {
                    more = self.prune(relay, chance).await;
                }
                if self.counts.pruned == before && !more {
                    break;
                }
            }
        }
    }
}
