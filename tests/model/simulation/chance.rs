//! Chance that can be had again: all that happens at random in a run comes from its seed.

use std::time::Duration;

/// SplitMix64: G. L. Steele, D. Lea, C. H. Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Chance(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of 0..`limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn per_mille(&mut self, of_thousand: u32) -> bool {
        self.next() % 1000 < u64::from(of_thousand)
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn between_ms(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.next() % (most - least + 1))
    }
}

/// How often what goes wrong, of a thousand calls or of a thousand events. What is 0 never happens in a run.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    pub request_lost: u32,
    pub answer_lost: u32,
    pub late: u32,
    pub statement_fails: u32,
    /// A caller that goes away in the middle.
    pub caller_gone: u32,
    /// A transaction over one database, which its plain COMMIT decides.
    pub one_database: u32,
    pub events: Vec<(Event, u32)>,
}

/// Makes a run's weather.
pub type Draw = fn(&mut Chance) -> Weather;

/// What befalls the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A server recovers inside, or is started again.
    Crash,
    /// To a standby that has everything.
    CleanFailover,
    /// To a standby that lacks the last changes.
    LossyFailover,
    /// A copy of a database takes its place.
    Restore,
    SessionLost,
    LogAway,
    /// A copy of the decision log takes its place.
    LogRestore,
    Kill,
    Pause,
    StrangerCommits,
    StrangerPrepares,
}

impl Event {
    const HARMLESS: [Event; 8] = [
        Event::Crash,
        Event::CleanFailover,
        Event::SessionLost,
        Event::LogAway,
        Event::Kill,
        Event::Pause,
        Event::StrangerCommits,
        Event::StrangerPrepares,
    ];
    const LOSES: [Event; 3] = [Event::LossyFailover, Event::Restore, Event::LogRestore];
}

const ONE_DATABASE: u32 = 100;

impl Weather {
    pub fn calm() -> Self {
        Weather { one_database: ONE_DATABASE, ..Weather::default() }
    }

    /// COMMITs without an answer, and servers that give their numbers to strangers before somebody asks.
    pub fn of_lost_commits(_: &mut Chance) -> Self {
        let events = vec![(Event::Crash, 500), (Event::StrangerCommits, 200)];
        Weather { request_lost: 150, one_database: 1000, events, ..Weather::default() }
    }

    /// Every kind of trouble is in about half of the runs, and those that lose history in a third.
    pub fn of(chance: &mut Chance) -> Self {
        let often = |chance: &mut Chance, most| {
            if chance.per_mille(500) { chance.below(most as usize) as u32 } else { 0 }
        };
        let loses = chance.per_mille(333);
        let mut events: Vec<(Event, u32)> =
            Event::HARMLESS.into_iter().map(|event| (event, often(chance, 100))).collect();
        if loses {
            // One kind in a run: what each does to the other is not promised.
            events.push((*chance.pick(&Event::LOSES), 40));
        }
        Weather {
            request_lost: often(chance, 60),
            answer_lost: often(chance, 60),
            late: often(chance, 60),
            statement_fails: often(chance, 100),
            caller_gone: often(chance, 200),
            one_database: ONE_DATABASE,
            events: events.into_iter().filter(|(_, weight)| *weight > 0).collect(),
        }
    }
}
