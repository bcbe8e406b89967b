//! The world around the coordinator: databases that prepare branches, crash, fail over and are restored, and
//! a decision log with sessions and fences. One deterministic state, without a clock and without chance:
//! whoever drives it says what happens next.
//!
//! Promises that whatever is done to it is judged at once: the first thing that must never happen is kept in
//! its [`Truth`], and every driver looks there behind each step.

mod database;
mod log;
mod truth;

use onecommit::ParticipantName;
use onecommit::id::TransactionId;
use onecommit::protocol::batch::{Answer, Request};
use onecommit::protocol::decision::{Decision, Outcome};
use onecommit::protocol::transaction::Committed;

pub use database::{Branch, Connection, Copied, Database, Instance, Marking, Ran, Whose, Xid};
pub use log::{Coordinator, Log, Refused, Right, Session};
pub use truth::{Told, Truth, Wrong};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// By participant, in the order of [`World::place`].
    pub databases: Vec<Database>,
    pub log: Log,
    pub truth: Truth,
}

/// The participants' names, by their place.
pub const NAMES: [&str; 3] = ["billing", "orders", "stock"];

impl World {
    pub fn new(databases: usize) -> Self {
        let databases = (0..databases).map(Database::new).collect();
        World { databases, log: Log::default(), truth: Truth::default() }
    }

    /// Where a participant's database is.
    pub fn place(name: &ParticipantName) -> usize {
        NAMES.iter().position(|known| *known == name.as_str()).expect("one of ours")
    }

    /// Ends a prepared branch; whether there was one.
    pub fn end(&mut self, place: usize, branch: Branch, commits: bool) -> bool {
        let is_ended = self.databases[place].end(branch, commits);
        match (is_ended, branch.whose) {
            (false, _) => {}
            (true, Whose::Ours) => self.truth.ends(branch.transaction, commits),
            (true, whose) => {
                self.truth.wrong(Wrong::StrangersBranch, format!("{branch:?} in {place}, {whose:?}"))
            }
        }
        is_ended
    }

    /// A plain COMMIT on a connection of the application's.
    pub fn commit(&mut self, place: usize, connection: Connection, xid: Option<Xid>) -> Committed {
        let transaction = self.databases[place].asked(connection).map(|(transaction, ..)| transaction);
        let committed = self.databases[place].commit(connection, xid);
        if let Some(id) = transaction.filter(|id| self.databases[place].committed(*id).is_some())
            && self.truth.told.get(&id) == Some(&Told::RolledBack)
        {
            self.truth.wrong(Wrong::Untrue, format!("{id} commits, and was told as rolled back"));
        }
        committed
    }

    /// None where the session is over.
    pub fn decide(&mut self, session: Session, right: Right, request: &Request) -> Option<Answer> {
        let known = self.log.find(right.coordinator);
        let goes = known.into_iter().flat_map(|known| {
            request.delete.iter().filter_map(|batch| Some((*batch, known.batches.get(batch)?.clone())))
        });
        let goes: Vec<_> = goes.collect();
        let answer = self.log.decide(session, right, request);
        if answer == Some(Answer::Done) {
            for decision in self.log.decisions(right.coordinator, request.batch) {
                self.decides(right, &decision);
            }
            goes.iter().for_each(|(_, decisions)| self.forgets(right, decisions));
        }
        answer
    }

    /// What is decided is prepared, in every place that it names.
    fn decides(&mut self, right: Right, decision: &Decision) {
        let id = TransactionId { coordinator: right.coordinator, number: decision.number };
        self.truth.decides(id);
        for branch in &decision.branches {
            let database = &self.databases[World::place(&branch.participant)];
            let is_prepared = database.prepared().any(|prepared| prepared.transaction == id);
            if !is_prepared && !database.has_lost_history {
                let what = format!("{id} is decided, and not prepared in {}", branch.participant);
                self.truth.wrong(Wrong::Torn, what);
            }
        }
    }

    /// What is deleted has to be committed; or, where a history was lost since, the row has to tell.
    fn forgets(&mut self, right: Right, decisions: &[Decision]) {
        let Some(known) = self.log.find(right.coordinator) else { return };
        let mut missing = Vec::new();
        for decision in decisions {
            let id = TransactionId { coordinator: right.coordinator, number: decision.number };
            for branch in &decision.branches {
                let database = &self.databases[World::place(&branch.participant)];
                let used = known.record.participants.get(&branch.participant);
                let acknowledged = used.map_or(0, |used| used.marks.acknowledged);
                let mark = database.history(right.coordinator).map_or(0, |row| row.mark);
                if database.committed(id).is_none() && mark >= acknowledged {
                    missing.push(format!("{id} in {}", branch.participant));
                }
            }
        }
        missing.into_iter().for_each(|what| self.truth.wrong(Wrong::ForgottenTooEarly, what));
    }

    pub fn remove(
        &mut self,
        session: Session,
        right: Right,
        batches: &[u64],
        outcomes: &[(TransactionId, Outcome)],
    ) -> Result<(), Refused> {
        let known = self.log.find(right.coordinator).cloned();
        self.log.remove(session, right, batches, outcomes)?;
        known.iter().for_each(|known| self.is_settled(right, known));
        self.keeps(outcomes);
        Ok(())
    }

    /// Behind a closed row every decision is carried out: it was closed by whoever had seen to that.
    fn is_settled(&mut self, right: Right, known: &Coordinator) {
        for decision in known.batches.values().flat_map(|decisions| decisions.iter()) {
            let id = TransactionId { coordinator: right.coordinator, number: decision.number };
            for branch in &decision.branches {
                let database = &self.databases[World::place(&branch.participant)];
                let row = database.history(right.coordinator).filter(|row| row.is_closed);
                // In a copy from behind the coordinator's last mark, which goes on under its own timeline, a
                // stranger gets the branch's number, and nothing tells the two apart.
                let is_told = row.is_some_and(|row| row.mark == 0 || !database.is_forked);
                if is_told && database.committed(id).is_none() {
                    let what = format!("{id} is called settled in {}", branch.participant);
                    self.truth.wrong(Wrong::ForgottenTooEarly, what);
                }
            }
        }
    }

    pub fn keep_outcomes(
        &mut self,
        session: Session,
        right: Right,
        outcomes: &[(TransactionId, Outcome)],
    ) -> Result<(), Refused> {
        self.log.keep_outcomes(session, right, outcomes)?;
        self.keeps(outcomes);
        Ok(())
    }

    fn keeps(&mut self, outcomes: &[(TransactionId, Outcome)]) {
        for (id, outcome) in outcomes {
            if !self.truth.is_so(*id, *outcome) {
                self.truth.wrong(Wrong::Untrue, format!("the outcome {outcome:?} of {id} is kept"));
            }
        }
    }

    /// A branch that is not there is said to be committed.
    pub fn called_committed(&mut self, place: usize, id: TransactionId) {
        if self.databases[place].committed(id).is_none() {
            self.truth.wrong(Wrong::Untrue, format!("{id} is called committed in {place}"));
        }
    }

    /// A history is said to be lost in this place.
    pub fn false_alarm(&mut self, place: usize, what: String) {
        if !self.databases[place].has_lost_history && !self.log.was_restored {
            self.truth.wrong(Wrong::FalseAlarm, what);
        }
    }

    /// A caller is told how its transaction ended, which wrote in these places.
    pub fn tell(&mut self, id: TransactionId, told: Told, applied_in: &[usize]) {
        self.truth.told.insert(id, told);
        let is_committed = |database: &Database| database.committed(id).is_some();
        let mut somewhere = self.databases.iter().filter(|database| is_committed(database));
        let is_somewhere = somewhere.next().is_some();
        let is_decided = self.truth.decided.contains(&id);
        if told == Told::RolledBack && (is_decided || is_somewhere) {
            self.truth.wrong(Wrong::Untrue, format!("{id} is committed, and told as rolled back"));
        }
        for place in applied_in {
            let database = &self.databases[*place];
            if told == Told::Committed && !is_committed(database) && !database.has_lost_history {
                self.truth.wrong(Wrong::Untrue, format!("{id} is told as applied, and {place} lacks it"));
            }
        }
    }
}
