//! The workers' processes, which are killed one after the other. A kill counts only where it is proved to
//! have hit a transaction half done: branches of the dead worker's were prepared behind its death.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::databases::Databases;
use super::worker::{COMMITTED, ROLLED_BACK};
use crate::cli::demo::process;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, TransactionId};

const WORKERS: usize = 3;
/// How long a fresh worker may take to make its first transfer.
const START_LIMIT: Duration = Duration::from_secs(120);
/// A kill comes at a random moment within this after the first transfer.
const KILL_WITHIN_MS: u32 = 150;

/// What the workers were told.
#[derive(Default)]
pub(super) struct Told {
    pub(super) committed: BTreeSet<TransactionId>,
    pub(super) rolled_back: BTreeSet<TransactionId>,
}

/// Running workers.
pub(super) struct Workers<'a> {
    program: &'a [OsString],
    databases: &'a Databases<'a>,
    running: Vec<Worker>,
    started: u32,
    told: Arc<Mutex<Told>>,
    /// What the dead have left, and since when it waits for others to settle it.
    left: BTreeMap<TransactionId, Instant>,
    /// All that they have left so far.
    pub(super) unfinished: BTreeSet<TransactionId>,
    pub(super) slowest: Duration,
    pub(super) kills: u32,
}

struct Worker {
    child: Child,
    name: String,
    /// It works for as long as this is held.
    stdin: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
    /// Whose transactions it makes; None before the first.
    coordinator: Arc<Mutex<Option<CoordinatorId>>>,
    started: Instant,
    kill_at: Option<Instant>,
}

impl<'a> Workers<'a> {
    pub(super) fn start(program: &'a [OsString], databases: &'a Databases<'a>) -> Result<Self> {
        let mut workers = Workers {
            program,
            databases,
            running: Vec::new(),
            started: 0,
            told: Arc::default(),
            left: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            slowest: Duration::ZERO,
            kills: 0,
        };
        for _ in 0..WORKERS {
            workers.start_one()?;
        }
        Ok(workers)
    }

    fn start_one(&mut self) -> Result<()> {
        self.started += 1;
        let name = format!("worker-{}", self.started);
        let (log, words) = (self.databases.log(&name), ["demo", "bank-worker"]);
        let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
        let mut child =
            process::start(self.program, &self.databases.config_file, &words, &log, stdin, stdout)?;
        let (stdin, coordinator) = (child.stdin.take(), Arc::new(Mutex::new(None)));
        let reader = child.stdout.take().map(|stdout| {
            let (told, seen) = (Arc::clone(&self.told), Arc::clone(&coordinator));
            std::thread::spawn(move || read(stdout, &told, &seen))
        });
        let started = Instant::now();
        self.running.push(Worker { child, name, stdin, reader, coordinator, started, kill_at: None });
        Ok(())
    }

    /// Goes on a little: kills the worker that lives longest a random moment after it has begun to work, and
    /// starts another one, until there were `kills`.
    pub(super) fn step(&mut self, kills: u32) -> Result<()> {
        for worker in &mut self.running {
            process::check(&mut worker.child, "worker", &self.databases.log(&worker.name))?;
        }
        self.watch()?;
        let Some(oldest) = self.running.first_mut().filter(|_| self.kills < kills) else { return Ok(()) };
        match oldest.kill_at {
            None if lock(&oldest.coordinator).is_some() => {
                let wait = Uuid::new_v4().as_fields().0 % KILL_WITHIN_MS;
                oldest.kill_at = Some(Instant::now() + Duration::from_millis(u64::from(wait)));
                Ok(())
            }
            None if oldest.started.elapsed() > START_LIMIT => {
                let said = std::fs::read_to_string(self.databases.log(&oldest.name)).unwrap_or_default();
                let why = "a worker makes no transfer";
                Err(Error::new(ErrorKind::Failed, "demo", why).with(process::LOG, said))
            }
            Some(at) if Instant::now() >= at => self.kill(),
            _ => Ok(()),
        }
    }

    fn kill(&mut self) -> Result<()> {
        let mut victim = self.running.remove(0);
        process::kill(&mut victim.child)?;
        let died = Instant::now();
        let coordinator = *lock(&victim.coordinator);
        let prepared = self.databases.prepared()?;
        let left: BTreeSet<TransactionId> =
            prepared.into_iter().filter(|transaction| Some(transaction.coordinator) == coordinator).collect();
        self.kills += u32::from(!left.is_empty());
        self.left.extend(left.iter().map(|transaction| (*transaction, died)));
        self.unfinished.extend(left);
        victim.join();
        self.start_one()
    }

    /// Sees what was settled meanwhile; whether all of it is.
    pub(super) fn watch(&mut self) -> Result<bool> {
        if !self.left.is_empty() {
            let prepared: BTreeSet<TransactionId> = self.databases.prepared()?.into_iter().collect();
            let (left, settled) =
                self.left.iter().partition(|(transaction, _)| prepared.contains(transaction));
            let settled: BTreeMap<TransactionId, Instant> = settled;
            self.left = left;
            let times = settled.values().map(Instant::elapsed);
            self.slowest = times.fold(self.slowest, Duration::max);
        }
        Ok(self.left.is_empty())
    }

    /// Transfers that were told to be committed so far.
    pub(super) fn committed(&self) -> u64 {
        lock(&self.told).committed.len() as u64
    }

    /// Has the workers end when they have made their transfers; returns what all were told.
    pub(super) fn stop(&mut self, limit: Duration) -> Result<Told> {
        let began = Instant::now();
        for worker in &mut self.running {
            worker.stdin = None;
        }
        for worker in &mut self.running {
            while matches!(worker.child.try_wait(), Ok(None)) {
                if began.elapsed() > limit {
                    return Err(Error::new(ErrorKind::Failed, "demo", "a worker did not end in time"));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            worker.join();
        }
        self.running.clear();
        Ok(std::mem::take(&mut lock(&self.told)))
    }
}

impl Worker {
    /// Takes the last that it said.
    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = process::kill(&mut self.child);
    }
}

/// Reads what a worker was told, until its death. A line that was cut off is none.
fn read(stdout: ChildStdout, told: &Mutex<Told>, coordinator: &Mutex<Option<CoordinatorId>>) {
    let mut lines = BufReader::new(stdout);
    let mut line = String::new();
    while matches!(lines.read_line(&mut line), Ok(1..)) && line.ends_with('\n') {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [outcome, transfer] = words[..]
            && let Ok(transfer) = transfer.parse::<TransactionId>()
        {
            *lock(coordinator) = Some(transfer.coordinator);
            match outcome {
                COMMITTED => drop(lock(told).committed.insert(transfer)),
                ROLLED_BACK => drop(lock(told).rolled_back.insert(transfer)),
                _ => {}
            }
        }
        line.clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
