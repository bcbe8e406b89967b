//! A process with a node, and callers that run transactions through it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use onecommit::coordinator::{CoordinatorSettings, Member, NewId, Node};
use onecommit::lock::{LockSession, LockStore};
use onecommit::protocol::retry::Backoff;
use onecommit::{Error, ErrorKind, Result};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::application;
use super::chance::Chance;
use super::decision_log::SimulatedLog;
use super::participant::{SimulatedParticipant, incarnation, namespace, participant};
use super::sim::{Process, Sim};

/// How a program is started.
#[derive(Clone)]
pub struct Program {
    pub callers: usize,
    pub transactions: usize,
    pub started: Arc<Mutex<Vec<Started>>>,
}

/// One that was started.
pub struct Started {
    pub process: Process,
    /// It settles as long as it is here.
    _node: Arc<Node>,
    pub callers: Vec<JoinHandle<()>>,
}

impl Program {
    pub fn start(&self, sim: &Arc<Sim>) {
        let process = sim.start_process();
        let node = Arc::new(open(sim, process));
        let call = |_| {
            let (sim, node) = (Arc::clone(sim), Arc::clone(&node));
            tokio::spawn(application::work(sim, process, node, self.transactions))
        };
        let callers = (0..self.callers).map(call).collect();
        self.started.lock().expect("nobody panics with it").push(Started { process, _node: node, callers });
    }
}

/// Nobody locks in a run.
struct NoLocks;

#[async_trait]
impl LockStore for NoLocks {
    async fn open(&self) -> Result<Box<dyn LockSession>> {
        Err(Error::new(ErrorKind::Unreachable, "open locks", "the world has none"))
    }
}

fn open(sim: &Arc<Sim>, process: Process) -> Node {
    let databases = sim.lock().world.databases.len();
    let member = |place| {
        let port = SimulatedParticipant { sim: Arc::clone(sim), process, place };
        Member::new(participant(place), Arc::new(port), Some("onecommit".to_string()))
    };
    let log = Arc::new(SimulatedLog { sim: Arc::clone(sim), process });
    let members = (0..databases).map(member).collect();
    let new_id = ids(process);
    Node::open_with_ids(namespace(), incarnation(), members, log, Arc::new(NoLocks), settings(), new_id)
}

/// The same in each run, and in no order.
fn ids(process: Process) -> NewId {
    let made = AtomicU64::new(0);
    Arc::new(move || {
        let number = made.fetch_add(1, Ordering::Relaxed);
        let mut mixed = Chance::new((process as u64) << 32 | number);
        Uuid::from_u64_pair(mixed.next(), mixed.next())
    })
}

/// Quick, so that much happens in a run.
fn settings() -> CoordinatorSettings {
    CoordinatorSettings {
        deadline: Duration::from_secs(6),
        home_wait: Duration::from_millis(300),
        in_flight_max: 4,
        mark_interval: Duration::from_millis(700),
        sweep_interval: Duration::from_millis(300),
        orphan_interval: Duration::from_millis(900),
        retry: Backoff { first: Duration::from_millis(20), limit: Duration::from_millis(500) },
        ..CoordinatorSettings::default()
    }
}
