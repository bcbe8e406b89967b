//! One thing that was looked at, and what to do about it.

use crate::error::{Error, ErrorKind};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, and may not for ever.
    Warning,
    /// It does not work, or what it promises is in danger.
    Problem,
}

impl Severity {
    /// The word for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at, and how it is.
    pub what: String,
    /// Where: a participant, a topic, a path.
    pub place: String,
    /// What to do; None exactly where all is well.
    pub todo: Option<String>,
}

/// All that was found, in the order in which it was looked at.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Each finding.
    pub all: Vec<Finding>,
    /// Whether a server could not be reached, so that nothing is known of what it alone knows.
    pub unreachable: bool,
}

impl Findings {
    /// How many there are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.all.iter().filter(|finding| finding.severity == severity).count()
    }

    pub(super) fn ok(&mut self, place: &str, what: impl Into<String>) {
        self.add(Severity::Ok, place, what.into(), None);
    }

    pub(super) fn warning(&mut self, place: &str, what: impl Into<String>, todo: impl Into<String>) {
        self.add(Severity::Warning, place, what.into(), Some(todo.into()));
    }

    pub(super) fn problem(&mut self, place: &str, what: impl Into<String>, todo: impl Into<String>) {
        self.add(Severity::Problem, place, what.into(), Some(todo.into()));
    }

    /// Something that could not be looked at.
    pub(super) fn failed(&mut self, place: &str, error: &Error) {
        self.unreachable |= error.kind() == ErrorKind::Unreachable;
        let todo = match error.kind() {
            ErrorKind::Unreachable => {
                "start the server, or correct its address in the configuration; relays wait for it by themselves"
            }
            ErrorKind::Refused => "do what docs/refusals.md says of it: a relay would refuse, too",
            ErrorKind::Configuration | ErrorKind::Invalid => "do what the error says, and run this again",
            ErrorKind::Fenced
            | ErrorKind::Conflict
            | ErrorKind::InDoubt
            | ErrorKind::Unclear
            | ErrorKind::Failed => "run this again; where it stays so, look into the server's own log",
        };
        // A server that is away is met more than once.
        let what = error.to_string();
        if !self.all.iter().any(|finding| finding.what == what) {
            self.problem(place, what, todo);
        }
    }

    fn add(&mut self, severity: Severity, place: &str, what: String, todo: Option<String>) {
        self.all.push(Finding { severity, what, place: place.to_string(), todo });
    }
}

/// What is planted into healthy facts, how bad it is, and a word of what is said.
#[cfg(test)]
pub(super) type Case<Planted> = (fn(&mut Planted), Severity, &'static str);

/// Fails unless each case has the one finding it is to have, and none where all is healthy.
#[cfg(test)]
pub(super) fn assert_each_found<Planted>(
    cases: impl IntoIterator<Item = Case<Planted>>,
    judged: fn(fn(&mut Planted)) -> Findings,
) {
    let healthy = judged(|_| {});
    assert!(healthy.all.iter().all(|finding| finding.severity == Severity::Ok), "{healthy:?}");
    for (number, (plant, severity, said)) in cases.into_iter().enumerate() {
        let findings = judged(plant);
        let bad: Vec<_> = findings.all.iter().filter(|one| one.severity != Severity::Ok).collect();
        let of = if severity == Severity::Ok { findings.all.iter().collect() } else { bad.clone() };
        let told = |one: &Finding| {
            format!("{} {}", one.what, one.todo.as_deref().unwrap_or_default()).contains(said)
        };
        assert_eq!(bad.len(), usize::from(severity != Severity::Ok), "case {number}: {bad:?}");
        assert!(of.iter().any(|one| one.severity == severity && told(one)), "case {number}: {of:?}");
    }
}
