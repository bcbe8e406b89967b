//! Whole nodes in a world at random: the product's coordinator as it runs in production, over ports that lead
//! to the simulated world, on one thread and with a clock that jumps to the next thing that happens. All chance
//! comes from a seed, so that a run can be had again, bit for bit.
//!
//! `ONECOMMIT_TEST_SEED=7 cargo test --test model one_seed -- --nocapture` prints one run.

mod application;
mod chance;
mod decision_log;
mod events;
mod participant;
mod program;
mod sim;
mod sql;
mod verdict;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chance::{Draw, Weather};
use program::Program;
use sim::{Sim, State};
use tokio::time::sleep;

use crate::world::Wrong;

/// For so long things go wrong.
const TROUBLE: Duration = Duration::from_secs(25);
/// Within so long everything is settled, once nothing goes wrong any more.
const SETTLES_WITHIN: Duration = Duration::from_secs(180);

/// What came of a run.
struct Run {
    wrong: Option<(Wrong, String)>,
    trace: Vec<String>,
    hits: BTreeMap<String, u32>,
}

/// Runs it on one thread, and on a clock that jumps.
fn simulated<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(work)
}

fn run(seed: u64, weather: Draw) -> Run {
    simulated(async {
        let sim = Sim::new(seed, 2 + usize::from(seed % 4 == 3), weather);
        let programs = Program { callers: 2, transactions: 12, started: Arc::new(Mutex::default()) };
        for _ in 0..2 {
            programs.start(&sim);
        }
        let events = tokio::spawn(events::happen(Arc::clone(&sim), TROUBLE, programs.clone()));
        events.await.expect("events");
        settle(&sim, &programs).await;
        let mut inner = sim.lock();
        verdict::judge(&mut inner);
        let wrong = inner.world.truth.first_wrong().map(|(wrong, what)| (wrong, what.to_string()));
        let (trace, hits) = (std::mem::take(&mut inner.trace), std::mem::take(&mut inner.hits));
        Run { wrong, trace, hits }
    })
}

/// Nothing goes wrong any more, and one more program comes: all has to be settled in time.
async fn settle(sim: &Arc<Sim>, programs: &Program) {
    sleep(Duration::from_secs(8)).await;
    sim.note("------ calm".to_string());
    sim.lock().weather = Weather::calm();
    Program { callers: 0, ..programs.clone() }.start(sim);
    let callers: Vec<_> = {
        let mut started = programs.started.lock().expect("nobody panics with it");
        let living = started.iter_mut().filter(|one| sim.state(one.process) == State::Runs);
        living.flat_map(|one| std::mem::take(&mut one.callers)).collect()
    };
    for caller in callers {
        caller.await.expect("a caller");
    }
    let until = sim.now() + SETTLES_WITHIN;
    loop {
        let left = verdict::unsettled(&sim.lock());
        if left.is_empty() {
            return;
        }
        if sim.now() > until {
            let mut inner = sim.lock();
            return inner.world.truth.wrong(Wrong::ForEverInDoubt, left.join("; "));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Says what went wrong, and how it is had again.
fn expect_right(seed: u64, run: &Run) {
    if let Some((wrong, what)) = &run.wrong {
        let again = format!("ONECOMMIT_TEST_SEED={seed} cargo test --test model one_seed -- --nocapture");
        panic!("{wrong:?}: {what}\nagain by: {again}");
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn one_seed_runs_again_bit_for_bit() {
    let seed = number("ONECOMMIT_TEST_SEED").unwrap_or(7);
    let (first, second) = (run(seed, Weather::of), run(seed, Weather::of));
    let differs = first.trace.iter().zip(&second.trace).position(|(one, other)| one != other);
    assert_eq!(differs.map(|at| (&first.trace[at], &second.trace[at])), None);
    assert!(first.trace.len() == second.trace.len() && first.trace.len() > 500);
    if number("ONECOMMIT_TEST_SEED").is_some() {
        first.trace.iter().for_each(|line| println!("{line}"));
    }
    expect_right(seed, &first);
}

/// Runs these seeds in such a weather; returns what went wrong in the world, and how often.
fn run_all(seeds: Range<u64>, weather: Draw) -> BTreeMap<String, u32> {
    let mut hits: BTreeMap<String, u32> = BTreeMap::new();
    for seed in seeds {
        let run = run(seed, weather);
        expect_right(seed, &run);
        run.hits.into_iter().for_each(|(what, times)| *hits.entry(what).or_default() += times);
    }
    hits
}

#[test]
fn whatever_befalls_the_world_nothing_is_torn_told_wrong_or_forgotten() {
    let (first, seeds) = (number("ONECOMMIT_TEST_SEED_FIRST").unwrap_or(0), number("ONECOMMIT_TEST_SEEDS"));
    let (seeds, began) = (seeds.unwrap_or(500), Instant::now());
    let hits = run_all(first..first + seeds, Weather::of);
    println!("{seeds} seeds in {} s: {hits:?}", began.elapsed().as_secs());
}

#[test]
fn numbers_of_lost_commits_are_given_to_strangers() {
    let hits = run_all(0..20, Weather::of_lost_commits);
    assert!(hits["Crash"] > 100 && hits["told Committed"] > 100, "{hits:?}");
}

/// Its own attempt holds the id for as long as the session that it was made in: who goes on under it would find
/// somebody else alive.
#[test]
fn a_coordinator_that_may_be_registered_is_given_up() {
    simulated(async {
        let sim = Sim::new(7, 2, |_| Weather::calm());
        sim.lock().registrations_unheard = 6;
        let programs = Program { callers: 1, transactions: 12, started: Arc::new(Mutex::default()) };
        programs.start(&sim);
        settle(&sim, &programs).await;
        let inner = sim.lock();
        assert_eq!(inner.registrations_unheard, 0);
        let told: Vec<&String> = inner.trace.iter().filter(|line| line.contains("told of")).collect();
        let failed = told.iter().filter(|line| line.contains("Err(")).count();
        assert!(failed == 1 && told.len() > 8, "{told:?}");
    });
}
