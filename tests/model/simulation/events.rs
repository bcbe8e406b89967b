//! What befalls the world during a run, at random: servers, sessions and processes.

use std::sync::Arc;
use std::time::Duration;

use onecommit::id::{CoordinatorId, TransactionId};
use onecommit::protocol::history::FRESH_FOR;
use tokio::time::sleep;
use uuid::Uuid;

use super::chance::Event;
use super::program::Program;
use super::sim::{Process, SESSION_TIMEOUT, Sim, State, To};
use crate::world::{Branch, Copied, Log, Session, Whose};

/// A younger copy can't be told from what it replaces: marks are announced each ten seconds at least.
const COPY_AGE_MIN: Duration = Duration::from_secs(11);

/// Copies, with the time at which each was made.
#[derive(Default)]
struct Copies {
    databases: Vec<(Duration, Vec<Copied>)>,
    logs: Vec<(Duration, Log)>,
}

/// Has events happen until `until`; starts further programs in the place of those that it kills.
pub async fn happen(sim: Arc<Sim>, until: Duration, programs: Program) {
    let mut copies = Copies::default();
    while sim.now() < until {
        let pause = sim.lock().chance.between_ms(50, 700);
        sleep(pause).await;
        copies.take(&sim);
        let event = {
            let mut inner = sim.lock();
            let (events, drawn) = (inner.weather.events.clone(), inner.chance.below(1000) as u32);
            let mut sum = 0;
            events.into_iter().find_map(|(event, weight)| {
                sum += weight;
                (drawn < sum).then_some(event)
            })
        };
        if let Some(event) = event {
            befall(&sim, event, &copies, &programs);
        }
    }
}

impl Copies {
    fn take(&mut self, sim: &Sim) {
        let (now, inner) = (sim.now(), sim.lock());
        if self.logs.last().is_none_or(|(at, _)| now - *at >= Duration::from_secs(3)) {
            self.databases
                .push((now, inner.world.databases.iter().map(|database| database.copy()).collect()));
            self.logs.push((now, inner.world.log.clone()));
        }
    }
}

fn befall(sim: &Arc<Sim>, event: Event, copies: &Copies, programs: &Program) {
    let has_happened = match event {
        Event::SessionLost => lose_session(sim),
        Event::LogAway => take_log_away(sim),
        Event::LogRestore => restore_log(sim, copies),
        Event::Kill => kill(sim, programs),
        Event::Pause => pause(sim),
        _ => befall_database(sim, event, copies),
    };
    if has_happened {
        sim.note(format!("------ {event:?}"));
        sim.hit(&format!("{event:?}"));
    }
}

fn befall_database(sim: &Arc<Sim>, event: Event, copies: &Copies) -> bool {
    let mut inner = sim.lock();
    let place = {
        let databases = inner.world.databases.len();
        inner.chance.below(databases)
    };
    let (lost, is_restart) = (1 + inner.chance.below(6), inner.chance.per_mille(500));
    let (whose, is_archived) = (inner.chance.below(3), inner.chance.per_mille(500));
    let (number, strangers) = (inner.chance.next() % 1000, inner.chance.below(4));
    let old: Vec<&Copied> = {
        let is_old = |at: &Duration| sim.now() - *at >= COPY_AGE_MIN;
        copies.databases.iter().filter(|(at, _)| is_old(at)).map(|(_, all)| &all[place]).collect()
    };
    let copied = (!old.is_empty()).then(|| *inner.chance.pick(&old));
    let all: Vec<CoordinatorId> = inner.world.log.all().map(|(id, _)| id).collect();
    let known = if all.is_empty() { CoordinatorId(Uuid::from_u128(0xbad)) } else { *inner.chance.pick(&all) };
    let database = &mut inner.world.databases[place];
    match event {
        Event::Crash => database.crash(is_restart),
        Event::CleanFailover => database.fail_over(0),
        Event::LossyFailover => database.fail_over(lost),
        Event::Restore => match copied {
            Some(copied) => database.restore(copied, is_archived),
            None => return false,
        },
        Event::StrangerCommits => database.stranger_commits(),
        Event::StrangerPrepares => {
            let whose = [Whose::OtherIncarnation, Whose::OtherNamespace, Whose::OtherParticipant][whose];
            // A copied program may even have a coordinator's id.
            let transaction = TransactionId { coordinator: known, number: 1000 + number };
            database.stranger_prepares(Branch { transaction, is_home: false, whose });
        }
        _ => return false,
    }
    // Whoever is quicker gets the numbers that are handed out again.
    (0..strangers).for_each(|_| database.stranger_commits());
    let goes_down = !matches!(event, Event::StrangerCommits | Event::StrangerPrepares);
    database.is_up = !goes_down && database.is_up;
    let away = inner.chance.between_ms(1, 2500);
    drop(inner);
    if goes_down {
        back_later(sim, To::Database(place), away);
    }
    true
}

fn back_later(sim: &Arc<Sim>, what: To, away: Duration) {
    let sim = Arc::clone(sim);
    tokio::spawn(async move {
        sleep(away).await;
        let mut inner = sim.lock();
        match what {
            To::Database(place) => inner.world.databases[place].is_up = true,
            To::Log => inner.log_is_up = true,
        }
    });
}

fn take_log_away(sim: &Arc<Sim>) -> bool {
    let away = {
        let mut inner = sim.lock();
        inner.log_is_up = false;
        inner.chance.between_ms(1, 5000)
    };
    back_later(sim, To::Log, away);
    true
}

fn restore_log(sim: &Arc<Sim>, copies: &Copies) -> bool {
    let mut inner = sim.lock();
    let is_old = |at: &Duration| sim.now() - *at >= COPY_AGE_MIN;
    let old: Vec<&(Duration, Log)> = copies.logs.iter().filter(|(at, _)| is_old(at)).collect();
    if old.is_empty() {
        return false;
    }
    let (at, copied) = *inner.chance.pick(&old);
    inner.world.log.restore(copied);
    let behind = *at..*at + FRESH_FOR;
    let unnoticed: Vec<_> =
        inner.decided.iter().filter(|(_, decided)| behind.contains(decided)).map(|(id, _)| *id).collect();
    inner.world.truth.unnoticed.extend(unnoticed);
    inner.sessions.clear();
    true
}

fn lose_session(sim: &Sim) -> bool {
    let mut inner = sim.lock();
    let sessions: Vec<Session> = inner.sessions.keys().copied().collect();
    if sessions.is_empty() {
        return false;
    }
    let session = *inner.chance.pick(&sessions);
    expire(&mut inner, session);
    true
}

fn expire(inner: &mut super::sim::Inner, session: Session) {
    inner.sessions.remove(&session);
    inner.world.log.expire(session);
}

fn running(sim: &Sim) -> Option<Process> {
    let running = sim.running();
    (!running.is_empty()).then(|| *sim.lock().chance.pick(&running))
}

/// Another one takes its place some time later.
fn kill(sim: &Arc<Sim>, programs: &Program) -> bool {
    let Some(process) = running(sim) else { return false };
    sim.set_state(process, State::Dead);
    sim.note(format!("p{process} is killed"));
    expire_unless_running(sim, process);
    let (sim, programs) = (Arc::clone(sim), programs.clone());
    tokio::spawn(async move {
        let after = sim.lock().chance.between_ms(1, 3000);
        sleep(after).await;
        programs.start(&sim);
    });
    true
}

/// For less than the session's timeout, or for more.
fn pause(sim: &Arc<Sim>) -> bool {
    let Some(process) = running(sim) else { return false };
    sim.set_state(process, State::Paused);
    sim.note(format!("p{process} is paused"));
    expire_unless_running(sim, process);
    let sim = Arc::clone(sim);
    tokio::spawn(async move {
        let after = sim.lock().chance.between_ms(10, 6000);
        sleep(after).await;
        sim.set_state(process, State::Runs);
    });
    true
}

fn expire_unless_running(sim: &Arc<Sim>, process: Process) {
    let sim = Arc::clone(sim);
    tokio::spawn(async move {
        sleep(SESSION_TIMEOUT).await;
        if sim.state(process) == State::Runs {
            return;
        }
        let mut inner = sim.lock();
        let of_process = inner.sessions.iter().filter(|(_, owner)| **owner == process);
        let sessions: Vec<Session> = of_process.map(|(session, _)| *session).collect();
        sessions.into_iter().for_each(|session| expire(&mut inner, session));
    });
}
