//! One session: a connection to the outbox, one reader on it, and the shards that are delivered
//! through it. What was read and where it stood lives and dies with the session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::asides::Asides;
use super::careful::PartSize;
use super::committed::Committed;
use super::counted::Tally;
use super::deliver::Deliverer;
use super::keeper::Keeper;
use super::part::Part;
use super::prune;
use super::read::{Begin, CHUNKS, Command, Flow, Reader};
use super::settings::RelaySettings;
use super::take::{Taken, Taker};
use super::told::{Told, note_error};
use super::wait::{chance, stopped};
use super::writer::ShardWriter;
use crate::config::Followed;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, RelayId, ShardIndex};
use crate::outbox::{Delivered, OutboxSource};
use crate::protocol::lease::share;

/// Commands that may wait for the reader: an add and a remove for each of 256 shards.
const COMMANDS: usize = 512;

/// Taking a shard opens a connection to the database and several to Kafka: of many shards only so
/// many are taken at once.
const TAKEN_AT_ONCE: usize = 4;

/// Shards that are taken at about the same time begin at one window: each on its own would have
/// the whole backlog read once for each. No shard waits longer than this for the others.
const BEGIN_TOGETHER: Duration = Duration::from_millis(500);

/// How often a session looks whether there is anything to do where all is as it should be; a lease that
/// was renewed, lost or given up wakes it.
const CALM: Duration = Duration::from_secs(1);

/// What outlives a session.
pub(super) struct Shared {
    pub(super) id: RelayId,
    pub(super) source: Arc<dyn OutboxSource>,
    pub(super) taker: Taker,
    pub(super) keeper: Keeper,
    pub(super) settings: Followed<RelaySettings>,
    pub(super) tally: Arc<Tally>,
}

struct Running {
    epoch: Epoch,
    since: Instant,
    stop: Arc<AtomicBool>,
    stopping: bool,
    release: bool,
    had_error: bool,
    delivers: Arc<AtomicBool>,
}

struct Failure {
    count: u32,
    not_before: Instant,
    told: Told,
    in_taking: bool,
}

/// How a shard's deliverer or its taking ended.
type Ended<T> = (ShardIndex, Result<T>);

pub(super) struct Session<'a> {
    shared: &'a Shared,
    commands: mpsc::Sender<Command>,
    committed: Arc<Committed>,
    flow: Arc<Flow>,
    running: BTreeMap<ShardIndex, Running>,
    delivering: JoinSet<Ended<()>>,
    taking: JoinSet<Ended<Option<Taken>>>,
    being_taken: BTreeSet<ShardIndex>,
    part: &'a mut Part,
    checking: JoinSet<Result<()>>,
    /// Taken, but not yet added to what the reader reads for; since when the first of them is.
    to_begin: BTreeMap<ShardIndex, Begin>,
    to_begin_since: Instant,
    failures: BTreeMap<ShardIndex, Failure>,
    /// When it was last planned, and whether a shard's taking or its deliverer has ended since.
    planned: Instant,
    changed: bool,
}

impl<'a> Session<'a> {
    /// Runs until the relay is stopped (Ok) or the session fails.
    pub(super) async fn run(
        shared: &'a Shared,
        stop: &mut watch::Receiver<bool>,
        told: &mut Told,
        part: &'a mut Part,
    ) -> Result<()> {
        // Before any progress is read: the reader notices a crash of the database from here on.
        let outbox = tokio::select! {
            connected = shared.source.connect() => connected?,
            () = stopped(stop) => return Ok(()),
        };
        if told.clear() {
            tracing::info!("goes on, nothing is away any more");
        }
        let (commands, received) = mpsc::channel(COMMANDS);
        let settings = shared.settings.clone();
        let (committed, flow) = (Arc::new(Committed::default()), Arc::new(Flow::default()));
        let reader = Reader {
            outbox,
            commands: received,
            settings: settings.clone(),
            flow: Arc::clone(&flow),
            committed: Arc::clone(&committed),
        };
        let mut background: JoinSet<Result<()>> = JoinSet::new();
        background.spawn(reader.run());
        let pruner =
            prune::run(Arc::clone(&shared.source), Arc::clone(&committed), Arc::clone(&flow), settings);
        let pruning = async {
            pruner.await;
            Ok(())
        };
        background.spawn(pruning.in_current_span());
        let mut session = Session {
            shared,
            commands,
            committed,
            flow,
            running: BTreeMap::new(),
            delivering: JoinSet::new(),
            taking: JoinSet::new(),
            being_taken: BTreeSet::new(),
            part,
            checking: JoinSet::new(),
            to_begin: BTreeMap::new(),
            to_begin_since: Instant::now(),
            failures: BTreeMap::new(),
            planned: Instant::now(),
            changed: false,
        };
        let ended = session.supervise(&mut background, stop).await;
        // The reader's end of every chunk channel goes with it: deliverers finish and end.
        background.shutdown().await;
        session.end().await;
        ended
    }

    async fn supervise(
        &mut self,
        background: &mut JoinSet<Result<()>>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<()> {
        let mut seen = self.shared.keeper.seen.clone();
        self.plan().await;
        loop {
            self.shared.tally.note_turn();
            let pause = if self.is_calm() { CALM } else { self.shared.settings.now().retry.first };
            let next_plan = (self.planned + pause).into();
            tokio::select! {
                // In this order: a reader that failed ends its deliverers, too, and has the cause.
                biased;
                () = stopped(stop) => return Ok(()),
                Some(ended) = background.join_next() => return Err(failure_of(ended)),
                Some(ended) = self.delivering.join_next() => self.delivered(ended.map_err(panicked)?).await,
                Some(taken) = self.taking.join_next() => self.taken(taken.map_err(panicked)?).await?,
                Some(checked) = self.checking.join_next() => self.checked(checked.map_err(panicked)?)?,
                changed = seen.changed() => {
                    changed.map_err(|_| Error::new(ErrorKind::Failed, "keep leases", "the lease keeper ended"))?;
                    self.shared.keeper.seen.borrow().check()?;
                    self.plan().await;
                }
                () = tokio::time::sleep_until(next_plan) => self.plan().await,
            }
            self.begin_taken().await;
        }
    }

    /// Whether nothing is under way, and nothing waits for its time.
    fn is_calm(&self) -> bool {
        let settled = |running: &Running| !running.stopping && !running.had_error;
        !self.changed
            && self.failures.is_empty()
            && self.being_taken.is_empty()
            && self.to_begin.is_empty()
            && self.running.values().all(settled)
    }

    /// Compares what is owned with what is run, and with what would be an even share.
    async fn plan(&mut self) {
        (self.planned, self.changed) = (Instant::now(), false);
        let seen = self.shared.keeper.seen.borrow().clone();
        self.clear_errors();
        let Some(renewed_at) = seen.renewed_at.filter(|_| seen.is_fresh()) else { return };
        let me = Some(self.shared.id);
        let share = share(self.shared.id, &seen.view.live, &seen.view.owners);
        for (shard, owner) in &seen.view.owners {
            let running = self.running.get(shard);
            let mine = *owner == me;
            let lost = |running: &Running| !mine && !running.stopping && running.since < renewed_at;
            if running.is_some_and(lost) {
                tracing::info!(%shard, "the lease is another relay's now");
                self.stop_shard(*shard, false).await;
            } else if share.release.contains(shard) {
                match running {
                    Some(_) => self.stop_shard(*shard, true).await,
                    None if !self.being_taken.contains(shard) => self.release(*shard).await,
                    None => {}
                }
            } else if running.is_none() && (mine || share.take.contains(shard)) {
                self.take(*shard);
            }
        }
    }

    fn take(&mut self, shard: ShardIndex) {
        let waits = self.failures.get(&shard).is_some_and(|failure| failure.not_before > Instant::now());
        if waits || self.being_taken.len() >= TAKEN_AT_ONCE || !self.being_taken.insert(shard) {
            return;
        }
        let taker = self.shared.taker.clone();
        let failed_before = self.failures.get(&shard).is_some_and(|failure| failure.in_taking);
        self.taking.spawn(async move { (shard, taker.take(shard, failed_before).await) });
    }

    async fn taken(&mut self, (shard, taken): Ended<Option<Taken>>) -> Result<()> {
        self.being_taken.remove(&shard);
        self.changed = true;
        match taken {
            Ok(Some(taken)) => {
                self.part.worked();
                self.start(taken);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Refused => Err(error),
            Err(error) => {
                self.failed(shard, &error, true);
                Ok(())
            }
        }
    }

    fn start(&mut self, mut taken: Taken) {
        let (shard, epoch, progress) = (taken.shard, taken.epoch, taken.progress.clone());
        tracing::info!(%shard, %epoch, "delivers");
        let (chunks, received) = mpsc::channel(CHUNKS);
        let stop = Arc::new(AtomicBool::new(false));
        let (position, barrier) = (progress.position.clone(), progress.barrier());
        let (had_error, delivers) = (taken.had_error, Arc::new(AtomicBool::new(false)));
        self.committed.note(Delivered { shard, epoch, position: position.clone(), barrier });
        let (source, settings) = (Arc::clone(&self.shared.source), self.shared.settings.clone());
        let runtime = Handle::current();
        let resumed = std::mem::take(&mut taken.resumed);
        let voucher = resumed.voucher;
        let asides = Asides::new((shard, epoch), resumed, source, settings.clone(), runtime.clone());
        let (committed, delivers_too) = (Arc::clone(&self.committed), Arc::clone(&delivers));
        let deliverer = Deliverer {
            writer: ShardWriter::new(taken, voucher, asides, committed, delivers_too, runtime.clone()),
            chunks: received,
            stop: Arc::clone(&stop),
            lease: self.shared.keeper.seen.clone(),
            flow: Arc::clone(&self.flow),
            settings,
            runtime,
            part_size: PartSize::default(),
            has_looked: false,
        };
        self.delivering.spawn_blocking(move || (shard, deliverer.run()));
        let (since, stopping, release) = (Instant::now(), false, false);
        let running = Running { epoch, since, stop, stopping, release, had_error, delivers };
        self.running.insert(shard, running);
        if self.to_begin.is_empty() {
            self.to_begin_since = Instant::now();
        }
        self.to_begin.insert(shard, Begin { shard, epoch, position, barrier, chunks });
    }

    async fn begin_taken(&mut self) {
        if !self.being_taken.is_empty() && self.to_begin_since.elapsed() < BEGIN_TOGETHER {
            return;
        }
        if !self.to_begin.is_empty() {
            let all = std::mem::take(&mut self.to_begin).into_values().collect();
            self.command(Command::Add(all)).await;
        }
    }

    async fn end_reading(&mut self, shard: ShardIndex) {
        self.to_begin.remove(&shard);
        self.command(Command::Remove(shard)).await;
    }

    async fn stop_shard(&mut self, shard: ShardIndex, release: bool) {
        let Some(running) = self.running.get_mut(&shard).filter(|running| !running.stopping) else { return };
        running.stopping = true;
        running.release = release;
        running.stop.store(true, Ordering::SeqCst);
        self.end_reading(shard).await;
    }

    async fn delivered(&mut self, (shard, ended): Ended<()>) {
        let running = self.running.remove(&shard);
        self.changed = true;
        self.committed.forget(shard);
        self.end_reading(shard).await;
        if let Err(error) = &ended {
            self.failed(shard, error, false);
            if let Some(running) = &running {
                self.note_error(shard, running.epoch, Some(error.to_string()));
            }
        }
        if running.is_some_and(|running| running.release) {
            self.release(shard).await;
        }
    }

    /// The shard waits before it is taken again. What keeps it is told once.
    fn failed(&mut self, shard: ShardIndex, error: &Error, in_taking: bool) {
        let none = || Failure { count: 0, not_before: Instant::now(), told: Told::default(), in_taking };
        let failure = self.failures.entry(shard).or_insert_with(none);
        if failure.told.is_news(error) {
            tracing::warn!(%shard, %error, "the shard waits, nothing is lost");
        }
        failure.in_taking = in_taking;
        failure.count += 1;
        failure.not_before = Instant::now() + self.shared.settings.now().retry.wait(failure.count, chance());
        // Whoever was fenced has shown that others can deliver, and nothing of itself.
        if error.kind() != ErrorKind::Fenced {
            self.part.failed();
        }
        if self.part.is_in_doubt() && self.checking.is_empty() {
            self.checking.spawn(self.shared.taker.clone().check());
        }
    }

    /// What fails may be a shard's own trouble, and the same with any relay: then this one stays.
    fn checked(&mut self, checked: Result<()>) -> Result<()> {
        match checked {
            Err(error) if error.kind() == ErrorKind::Refused || self.part.is_in_doubt() => Err(error),
            _ => {
                self.part.worked();
                Ok(())
            }
        }
    }

    /// Gives a lease up; where that fails, the next plan does it again.
    async fn release(&self, shard: ShardIndex) {
        if let Err(error) = self.shared.keeper.release(shard).await {
            tracing::debug!(%shard, %error, "the lease was not given up yet");
        }
    }

    /// Forgets the failures of shards that deliver again, and takes back their noted errors.
    fn clear_errors(&mut self) {
        let mut cleared = Vec::new();
        let delivering =
            self.running.iter_mut().filter(|(_, running)| running.delivers.swap(false, Ordering::Relaxed));
        for (shard, running) in delivering {
            self.part.worked();
            let (failed, had_error) =
                (self.failures.remove(shard).is_some(), std::mem::take(&mut running.had_error));
            if failed || had_error {
                tracing::info!(%shard, "delivers again");
            }
            if had_error {
                cleared.push((*shard, running.epoch));
            }
        }
        for (shard, epoch) in cleared {
            self.note_error(shard, epoch, None);
        }
    }

    fn note_error(&self, shard: ShardIndex, epoch: Epoch, error: Option<String>) {
        let source = Arc::clone(&self.shared.source);
        tokio::spawn(async move { note_error(&*source, shard, epoch, error).await });
    }

    /// A reader that has ended is noticed, with its reason, by [`Session::supervise`].
    async fn command(&self, command: Command) {
        let _ = self.commands.send(command).await;
    }

    /// Waits, within the limit, for the batches in flight.
    async fn end(&mut self) {
        // Deliverers that were never added wait for chunks from here.
        self.to_begin.clear();
        for running in self.running.values() {
            running.stop.store(true, Ordering::SeqCst);
        }
        let all = async {
            while self.delivering.join_next().await.is_some() {}
            while self.taking.join_next().await.is_some() {}
        };
        let limit = self.shared.settings.now().shutdown_limit;
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("a batch in flight did not end in time; the next owner fences it");
        }
    }
}

fn failure_of(ended: Result<Result<()>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) => Error::new(ErrorKind::Failed, "read outbox", "the reader ended by itself"),
        Err(error) => panicked(error),
    }
}

fn panicked(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Failed, "run relay", "a part of the relay ended early").caused_by(error)
}
