//! What is counted of one store: its errors, whether it is away, and the calls that are under way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, ErrorKind, Result};

/// All kinds of errors.
pub const KINDS: [ErrorKind; 7] = [
    ErrorKind::Invalid,
    ErrorKind::Configuration,
    ErrorKind::Unreachable,
    ErrorKind::Refused,
    ErrorKind::Fenced,
    ErrorKind::Unclear,
    ErrorKind::Failed,
];

/// One store, as this relay meets it.
#[derive(Debug, Default)]
pub struct StoreTally {
    errors: [AtomicU64; KINDS.len()],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    away: Option<Away>,
    answered: bool,
    under_way: BTreeMap<u64, (&'static str, Instant)>,
    calls: u64,
}

/// A store that can't be reached.
#[derive(Clone, Debug)]
pub struct Away {
    /// Since when.
    pub since: SystemTime,
    /// What the last try said.
    pub error: String,
}

impl StoreTally {
    /// How many errors of each of [`KINDS`] there were.
    pub fn errors(&self) -> [u64; KINDS.len()] {
        std::array::from_fn(|kind| self.errors[kind].load(Ordering::Relaxed))
    }

    /// Since when it can't be reached; None where the last call was answered, or none was made.
    pub fn away(&self) -> Option<Away> {
        self.state().away.clone()
    }

    /// Whether it was ever reached.
    pub fn has_answered(&self) -> bool {
        self.state().answered
    }

    /// The call that is under way for longest, and for how long.
    pub fn longest(&self) -> Option<(&'static str, Duration)> {
        let state = self.state();
        let longest = state.under_way.values().min_by_key(|(_, began)| *began);
        longest.map(|(operation, began)| (*operation, began.elapsed()))
    }

    /// Counts what a call ended with. Errors that are no outage leave open whether it is away.
    pub fn note<T>(&self, answer: &Result<T>) {
        match answer {
            Ok(_) => {
                let mut state = self.state();
                state.away = None;
                state.answered = true;
            }
            Err(error) => self.note_error(error),
        }
    }

    fn note_error(&self, error: &Error) {
        if let Some(kind) = KINDS.iter().position(|kind| *kind == error.kind()) {
            self.errors[kind].fetch_add(1, Ordering::Relaxed);
        }
        if error.kind() == ErrorKind::Unreachable {
            let mut state = self.state();
            let since = state.away.as_ref().map_or_else(SystemTime::now, |away| away.since);
            state.away = Some(Away { since, error: error.to_string() });
        }
    }

    /// Runs a call that waits, counted.
    pub(super) async fn call<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let _under_way = self.begin(operation);
        let answer = call.await;
        self.note(&answer);
        answer
    }

    /// Runs a call that blocks, counted.
    pub(super) fn block<T>(&self, operation: &'static str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let _under_way = self.begin(operation);
        let answer = call();
        self.note(&answer);
        answer
    }

    fn begin(&self, operation: &'static str) -> UnderWay<'_> {
        let mut state = self.state();
        state.calls += 1;
        let number = state.calls;
        state.under_way.insert(number, (operation, Instant::now()));
        UnderWay { store: self, number }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that has not ended; dropped, it has, also where it was given up.
struct UnderWay<'a> {
    store: &'a StoreTally,
    number: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.store.state().under_way.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(kind: ErrorKind, why: &str) -> Result<()> {
        Err(Error::new(kind, "connect", why))
    }

    #[test]
    fn a_store_is_away_from_its_first_refusal_to_its_first_answer() {
        let store = StoreTally::default();
        assert!(store.away().is_none() && !store.has_answered());
        store.note(&failing(ErrorKind::Unreachable, "closed"));
        let first = store.away().expect("away");
        store.note(&failing(ErrorKind::Fenced, "another"));
        store.note(&failing(ErrorKind::Unreachable, "refused"));
        let last = store.away().expect("still away");
        assert_eq!((last.since, last.error.as_str()), (first.since, "connect: refused"));
        store.note(&Ok(()));
        assert!(store.away().is_none() && store.has_answered());
        assert_eq!(store.errors(), [0, 0, 2, 0, 1, 0, 0]);
    }

    #[test]
    fn the_longest_call_is_told_until_it_ends_or_is_given_up() {
        let store = StoreTally::default();
        let first = store.begin("read outbox");
        let second = store.begin("prune");
        assert_eq!(store.longest().map(|(operation, _)| operation), Some("read outbox"));
        drop(first);
        assert_eq!(store.longest().map(|(operation, _)| operation), Some("prune"));
        drop(second);
        assert!(store.longest().is_none());
    }
}
