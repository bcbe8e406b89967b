//! What a run is made of: the world, chance, the processes, and every call between them. A call takes its
//! time; its request or its answer may be lost, or it is given up and done later all the same.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use onecommit::MessageId;
use onecommit::id::TransactionId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::chance::{Chance, Draw, Weather};
use crate::world::{Connection, Session, World};

/// After this long without an answer a call is given up.
const LIMIT: Duration = Duration::from_millis(800);
/// After this long a session of a process that says nothing is over.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(2);

pub type Process = usize;

/// How a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Runs,
    Paused,
    Dead,
}

/// Whom a call goes to.
#[derive(Clone, Copy, Debug)]
pub enum To {
    Database(usize),
    Log,
}

/// What a transaction of the application's is meant to do.
#[derive(Clone, Debug, Default)]
pub struct Meant {
    /// Where it writes.
    pub writes: Vec<usize>,
    /// Where its messages wait, and how many.
    pub messages: Option<(usize, u32)>,
}

/// See the module.
pub struct Sim {
    inner: Mutex<Inner>,
    began: Instant,
}

pub struct Inner {
    pub world: World,
    pub chance: Chance,
    pub weather: Weather,
    pub log_is_up: bool,
    /// So many coordinators are registered without hearing of it.
    pub registrations_unheard: u32,
    pub trace: Vec<String>,
    processes: Vec<State>,
    pub sessions: BTreeMap<Session, Process>,
    pub meant: BTreeMap<TransactionId, Meant>,
    /// When each transaction was decided.
    pub decided: BTreeMap<TransactionId, Duration>,
    pub messages: BTreeMap<MessageId, TransactionId>,
    /// How often each thing went wrong: a run in which nothing did proves nothing.
    pub hits: BTreeMap<String, u32>,
    next_connection: Connection,
    /// Somebody goes on. (A watch channel wakes those who wait in an order that no seed gives.)
    goes_on: Arc<Notify>,
}

enum Trip {
    Arrives,
    RequestLost,
    AnswerLost,
    Late(Duration),
}

impl Sim {
    pub fn new(seed: u64, databases: usize, weather: Draw) -> Arc<Self> {
        let mut chance = Chance::new(seed);
        let weather = weather(&mut chance);
        let inner = Inner {
            world: World::new(databases),
            chance,
            weather,
            log_is_up: true,
            registrations_unheard: 0,
            trace: Vec::new(),
            processes: Vec::new(),
            sessions: BTreeMap::new(),
            meant: BTreeMap::new(),
            decided: BTreeMap::new(),
            messages: BTreeMap::new(),
            hits: BTreeMap::new(),
            next_connection: 0,
            goes_on: Arc::default(),
        };
        Arc::new(Sim { inner: Mutex::new(inner), began: Instant::now() })
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics with it")
    }

    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn note(&self, text: String) {
        let at = self.now().as_millis();
        self.lock().trace.push(format!("{at:>6} {text}"));
    }

    pub fn hit(&self, what: &str) {
        *self.lock().hits.entry(what.to_string()).or_default() += 1;
    }

    pub fn start_process(&self) -> Process {
        let mut inner = self.lock();
        inner.processes.push(State::Runs);
        inner.processes.len() - 1
    }

    pub fn state(&self, process: Process) -> State {
        self.lock().processes[process]
    }

    /// One that is dead stays so.
    pub fn set_state(&self, process: Process, state: State) {
        let mut inner = self.lock();
        if inner.processes[process] != State::Dead {
            inner.processes[process] = state;
        }
        inner.goes_on.notify_waiters();
    }

    pub fn running(&self) -> Vec<Process> {
        let inner = self.lock();
        (0..inner.processes.len()).filter(|process| inner.processes[*process] == State::Runs).collect()
    }

    pub fn connect(&self) -> Connection {
        let mut inner = self.lock();
        inner.next_connection += 1;
        inner.next_connection
    }

    /// A process that is dead says nothing any more, and one that is paused only when it goes on.
    pub async fn gate(&self, process: Process) {
        loop {
            let goes_on = {
                let inner = self.lock();
                match inner.processes[process] {
                    State::Runs => return,
                    State::Dead => None,
                    State::Paused => Some(Arc::clone(&inner.goes_on).notified_owned()),
                }
            };
            match goes_on {
                Some(goes_on) => goes_on.await,
                None => pending().await,
            }
        }
    }

    /// Asks, and returns what is answered; None where no answer comes, whatever became of the request.
    pub async fn call<T: Debug + Send + 'static>(
        self: &Arc<Self>,
        process: Process,
        to: To,
        what: String,
        effect: impl FnOnce(&mut World) -> T + Send + 'static,
    ) -> Option<T> {
        self.gate(process).await;
        let (trip, there, back) = self.trip(to);
        sleep(there).await;
        let answer = match trip {
            Trip::Arrives | Trip::AnswerLost => self.done(process, to, &what, effect),
            Trip::RequestLost => None,
            Trip::Late(delay) => {
                let sim = Arc::clone(self);
                tokio::spawn(async move {
                    sleep(delay).await;
                    sim.done(process, to, &format!("late: {what}"), effect);
                });
                None
            }
        };
        match trip {
            Trip::Arrives => sleep(back).await,
            _ => sleep(LIMIT).await,
        }
        self.gate(process).await;
        answer.filter(|_| matches!(trip, Trip::Arrives))
    }

    /// Does it now, if the server is up.
    fn done<T: Debug>(
        &self,
        process: Process,
        to: To,
        what: &str,
        effect: impl FnOnce(&mut World) -> T,
    ) -> Option<T> {
        let answer = {
            let mut inner = self.lock();
            let is_up = match to {
                To::Database(place) => inner.world.databases[place].is_up,
                To::Log => inner.log_is_up,
            };
            let answer = is_up.then(|| effect(&mut inner.world));
            if inner.world.truth.decided.len() > inner.decided.len() {
                let (now, decided) = (self.now(), inner.world.truth.decided.clone());
                for id in decided {
                    inner.decided.entry(id).or_insert(now);
                }
            }
            answer
        };
        self.note(format!("p{process} {what}: {answer:?}"));
        answer
    }

    fn trip(&self, to: To) -> (Trip, Duration, Duration) {
        let mut inner = self.lock();
        let Weather { request_lost, answer_lost, late, .. } = inner.weather;
        let chance = &mut inner.chance;
        let (there, back) = (chance.between_ms(1, 4), chance.between_ms(1, 4));
        let (trip, hit) = if chance.per_mille(request_lost) {
            (Trip::RequestLost, "request lost")
        } else if chance.per_mille(answer_lost) {
            (Trip::AnswerLost, "answer lost")
        } else if chance.per_mille(late) && matches!(to, To::Database(_)) {
            // What a session has asked for is done in order, so there is nothing late in the log.
            (Trip::Late(chance.between_ms(1, 4000)), "late")
        } else {
            return (Trip::Arrives, there, back);
        };
        *inner.hits.entry(format!("{hit} {to:?}")).or_default() += 1;
        (trip, there, back)
    }
}
