//! Every order of events in a small world: one coordinator, two that recover it, two databases; requests that are
//! lost or late, processes and sessions that end, servers that crash and fail over, copies of the decision log that
//! take its place. stateright walks through all of it, and looks behind each step at what must never happen.

mod owner;
mod recoverer;
mod request;

use std::sync::Arc;
use std::time::{Duration, Instant};

use onecommit::id::CoordinatorId;
use stateright::{Checker, HasDiscoveries, Model, Property};
use uuid::Uuid;

use self::owner::Owner;
use self::recoverer::Recoverer;
use self::request::{Answer, Request, Trip};
use crate::world::{Log, Whose, World, Wrong};

const DATABASES: usize = 2;
/// Longer than marks stay fresh.
const TICK: Duration = Duration::from_secs(11);

/// How often each thing may happen in one run of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    /// Requests and answers that are lost, or late.
    troubles: u8,
    /// Sessions that end though their process lives.
    sessions: u8,
    /// Recoverers that die.
    deaths: u8,
    crashes: u8,
    clean_failovers: u8,
    lossy_failovers: u8,
    /// Strangers' commits, which take numbers.
    strangers: u8,
    /// Copies of the decision log that take its place.
    log_restores: u8,
    /// Callers that don't wait any longer.
    interrupts: u8,
}

/// A small world.
struct Small {
    transactions: u64,
    passes: u8,
    budget: Budget,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    world: World,
    owner: Owner,
    recoverers: [Recoverer; 2],
    late: Vec<Request>,
    copied: Option<Arc<Log>>,
    ticks: u8,
    budget: Budget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Owner(Trip),
    Recoverer(usize, Trip),
    /// What was given up is done.
    Late(usize),
    KillOwner,
    LoseOwnersSession,
    KillRecoverer(usize),
    LoseRecoverersSession(usize),
    Crash(usize),
    /// The last so many changes are lost.
    FailOver(usize, usize),
    StrangerCommits(usize),
    /// What is decided behind it is decided by younger marks: a copy that is hardly older than what it lacks can't be
    /// told from the log. So nothing is on its way to the log meanwhile.
    CopyLog,
    RestoreLog,
    Interrupt,
}

fn coordinator() -> CoordinatorId {
    CoordinatorId(Uuid::from_u128(1))
}

impl State {
    fn now(&self) -> Duration {
        TICK * u32::from(self.ticks)
    }

    fn perform(&mut self, request: &Request, trip: Trip) -> Answer {
        self.budget.troubles -= u8::from(trip != Trip::Arrives);
        match trip {
            Trip::Arrives => request.run(&mut self.world),
            Trip::AnswerLost => {
                request.run(&mut self.world);
                Answer::Lost
            }
            Trip::RequestLost => Answer::Lost,
            Trip::Late => {
                self.late.push(request.clone());
                Answer::Lost
            }
        }
    }

    fn act(&mut self, action: Action) -> Option<()> {
        match action {
            Action::Owner(trip) => {
                let request = self.owner.next(self.now(), &self.world)?;
                let answer = self.perform(&request, trip);
                self.owner.take(&request, answer, self.now(), &mut self.world);
            }
            Action::Recoverer(which, trip) => {
                let request = self.recoverers[which].next(&self.world)?;
                let answer = self.perform(&request, trip);
                self.recoverers[which].take(&request, answer, &mut self.world);
            }
            Action::Late(which) => {
                self.late.remove(which).run(&mut self.world);
            }
            Action::KillOwner => {
                self.owner.is_dead = true;
                self.world.log.expire(self.owner.session);
            }
            Action::LoseOwnersSession => {
                self.budget.sessions -= 1;
                self.world.log.expire(self.owner.session);
            }
            Action::KillRecoverer(which) => {
                self.budget.deaths -= 1;
                self.world.log.expire(self.recoverers[which].session);
                let session = self.world.log.open();
                self.recoverers[which].die(session);
            }
            Action::LoseRecoverersSession(which) => {
                self.budget.sessions -= 1;
                self.world.log.expire(self.recoverers[which].session);
            }
            other => self.befall(other),
        }
        Some(())
    }

    fn befall(&mut self, action: Action) {
        match action {
            Action::Crash(place) => {
                self.budget.crashes -= 1;
                self.world.databases[place].crash(false);
            }
            Action::FailOver(place, lost) => {
                let budget = &mut self.budget;
                let left = if lost == 0 { &mut budget.clean_failovers } else { &mut budget.lossy_failovers };
                *left -= 1;
                self.world.databases[place].fail_over(lost);
            }
            Action::StrangerCommits(place) => {
                self.budget.strangers -= 1;
                self.world.databases[place].stranger_commits();
            }
            Action::CopyLog => {
                self.copied = Some(Arc::new(self.world.log.clone()));
                self.ticks += 1;
            }
            Action::RestoreLog => {
                self.budget.log_restores -= 1;
                if let Some(copied) = self.copied.take() {
                    self.world.log.restore(&copied);
                }
            }
            Action::Interrupt => {
                self.budget.interrupts -= 1;
                self.owner.interrupt(&mut self.world);
            }
            other => panic!("somebody's own: {other:?}"),
        }
    }

    /// Nobody does anything any more: all has to be settled, where no history was lost.
    fn judge_quiet(&mut self) {
        let owner_rests = self.owner.is_dead || self.owner.clone().next(self.now(), &self.world).is_none();
        let is_needed = Recoverer::is_needed(&self.world, coordinator());
        let is_idle = self.recoverers.iter().all(Recoverer::is_idle);
        let is_lost = self.world.log.was_restored;
        if !(owner_rests && is_idle && self.late.is_empty()) || is_needed || is_lost {
            return;
        }
        let decided: Vec<_> = self.world.truth.decided.iter().copied().collect();
        for (place, database) in self.world.databases.iter().enumerate() {
            if database.has_lost_history {
                continue;
            }
            let left = database.prepared().find(|branch| branch.whose == Whose::Ours);
            let lacks = decided.iter().find(|id| database.committed(**id).is_none());
            let truth = &mut self.world.truth;
            if let Some(left) = left {
                truth.wrong(Wrong::ForEverInDoubt, format!("{left:?} in {place}"));
            }
            if let Some(lacks) = lacks {
                truth.wrong(Wrong::Torn, format!("{lacks} is decided, and not committed in {place}"));
            }
        }
    }
}

impl Model for Small {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut world = World::new(DATABASES);
        let [owner, one, two] = std::array::from_fn(|_| world.log.open());
        let recoverer = |session| Recoverer::new(coordinator(), session, self.passes);
        vec![State {
            owner: Owner::new(coordinator(), owner, DATABASES, self.transactions),
            recoverers: [recoverer(one), recoverer(two)],
            world,
            late: Vec::new(),
            copied: None,
            ticks: 0,
            budget: self.budget,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let budget = &state.budget;
        let mut asks = |request: Option<Request>, action: fn(usize, Trip) -> Action, which| {
            let Some(request) = request else { return };
            actions.push(action(which, Trip::Arrives));
            if budget.troubles > 0 {
                actions.extend(request.troubles().iter().map(|trip| action(which, *trip)));
            }
        };
        if !state.owner.is_dead {
            asks(state.owner.clone().next(state.now(), &state.world), |_, trip| Action::Owner(trip), 0);
        }
        for (which, recoverer) in state.recoverers.iter().enumerate() {
            asks(recoverer.next(&state.world), Action::Recoverer, which);
        }
        actions.extend((0..state.late.len()).map(Action::Late));
        self.add_ends(state, actions);
        self.add_events(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        state.act(action)?;
        state.judge_quiet();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("nothing goes wrong", |_, state: &State| {
            state.world.truth.first_wrong().is_none()
        })]
    }
}

impl Small {
    /// Processes and sessions that end.
    fn add_ends(&self, state: &State, actions: &mut Vec<Action>) {
        let (budget, log) = (&state.budget, &state.world.log);
        if !state.owner.is_dead {
            actions.push(Action::KillOwner);
            if budget.sessions > 0 && log.lives(state.owner.session) {
                actions.push(Action::LoseOwnersSession);
            }
            if budget.interrupts > 0 && state.owner.waits_for_decision() {
                actions.push(Action::Interrupt);
            }
        }
        let working = state.recoverers.iter().enumerate().filter(|(_, recoverer)| !recoverer.is_idle());
        for (which, recoverer) in working {
            if budget.deaths > 0 {
                actions.push(Action::KillRecoverer(which));
            }
            if budget.sessions > 0 && log.lives(recoverer.session) {
                actions.push(Action::LoseRecoverersSession(which));
            }
        }
    }

    /// What befalls the servers.
    fn add_events(&self, state: &State, actions: &mut Vec<Action>) {
        let budget = &state.budget;
        for (place, database) in state.world.databases.iter().enumerate() {
            if budget.crashes > 0 {
                actions.push(Action::Crash(place));
            }
            if budget.clean_failovers > 0 {
                actions.push(Action::FailOver(place, 0));
            }
            if budget.lossy_failovers > 0 {
                let changes = database.position() as usize - 1;
                actions.extend((1..=changes).map(|lost| Action::FailOver(place, lost)));
            }
            if budget.strangers > 0 && database.instance().life > 1 {
                actions.push(Action::StrangerCommits(place));
            }
        }
        if budget.log_restores > 0 && state.copied.is_some() {
            actions.push(Action::RestoreLog);
        } else if budget.log_restores > 0 && !state.owner.waits_for_decision() {
            actions.push(Action::CopyLog);
        }
    }
}

/// Walks through a small world breadth first, so that what is found is found by the fewest steps; or, where `make
/// model` asks for it, through large ones depth first, whose states don't fit into memory otherwise.
fn walk(name: &str, small: Small, large: Vec<(&str, Small)>) {
    let is_large = std::env::var("ONECOMMIT_TEST_MODEL").is_ok_and(|text| text == "large");
    if !is_large {
        let began = Instant::now();
        let checker = small.checker().threads(2).finish_when(HasDiscoveries::Any);
        return judge(name, began, checker.spawn_bfs().join());
    }
    for (what, world) in large {
        let began = Instant::now();
        let checker = world.checker().threads(2).finish_when(HasDiscoveries::Any);
        judge(&format!("{name}, {what}"), began, checker.spawn_dfs().join());
    }
}

fn judge(name: &str, began: Instant, checker: impl Checker<Small>) {
    let (distinct, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {distinct} distinct states, depth {depth}, {} s", began.elapsed().as_secs());
    if let Some((_, path)) = checker.discoveries().into_iter().next() {
        let last =
            path.last_state().world.truth.first_wrong().map(|(wrong, what)| format!("{wrong:?}: {what}"));
        let actions: Vec<String> = path.into_actions().iter().map(|action| format!("{action:?}")).collect();
        panic!("{}, by\n{}", last.unwrap_or_default(), actions.join("\n"));
    }
}

/// One transaction, which each recoverer takes over once.
fn one(budget: Budget) -> Small {
    Small { transactions: 1, passes: 1, budget }
}

#[test]
fn processes_and_sessions_end_in_every_order() {
    let budget = Budget { troubles: 1, sessions: 1, ..Budget::default() };
    let large = Small { passes: 2, ..one(Budget { deaths: 1, ..budget }) };
    walk("sessions", one(budget), vec![("and recoverers that die", large)]);
}

#[test]
fn callers_give_up_in_every_order() {
    let budget = Budget { troubles: 1, interrupts: 1, ..Budget::default() };
    walk("callers", one(budget), vec![("two transactions", Small { transactions: 2, ..one(budget) })]);
}

#[test]
fn servers_crash_and_lose_history_in_every_order() {
    let budget = Budget { strangers: 1, lossy_failovers: 1, ..Budget::default() };
    let with_trouble = |budget: Budget| one(Budget { troubles: 1, ..budget });
    // All at once are more than can be walked through: each with each.
    let large = vec![
        ("lossy failover and strangers", with_trouble(budget)),
        ("crash and strangers", with_trouble(Budget { crashes: 1, lossy_failovers: 0, ..budget })),
        ("crash, lossy failover and strangers", one(Budget { crashes: 1, ..budget })),
        ("two kinds of failover", with_trouble(Budget { clean_failovers: 1, strangers: 0, ..budget })),
    ];
    walk("servers", one(budget), large);
}

#[test]
fn a_copy_of_the_log_takes_its_place_in_every_order() {
    let budget = Budget { log_restores: 1, ..Budget::default() };
    let large = Small { transactions: 2, ..one(Budget { troubles: 1, ..budget }) };
    walk("log", one(budget), vec![("two transactions", large)]);
}
