//! A coordinator that runs transactions over every database, one behind the other. What it does next and what
//! an answer means is said by the protocol floor's own machines; here is only who asks whom.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use onecommit::ParticipantName;
use onecommit::id::{CoordinatorId, TransactionId};
use onecommit::protocol::batch::{self, Batches, Entry, Meaning as BatchMeaning};
use onecommit::protocol::decision::{DecidedBranch, Decision, Record, Used, decode_batch, encode_batch};
use onecommit::protocol::fate::{self, Gone, Meaning, Prepared};
use onecommit::protocol::history::{Marks, OwnMarks};
use onecommit::protocol::progress::DatabaseIdentity;
use onecommit::protocol::retention::Retention;
use onecommit::protocol::transaction::{self, Decided, Did, Event, Step, Transaction, Vote};

use super::request::{Answer, Request};
use crate::world::{Branch, Instance, Marking, NAMES, Right, Session, Told, Whose, World, Wrong, Xid};

/// Rounds of marks behind a transaction: what it has decided can be forgotten then.
const ROUNDS: u8 = 3;
/// Writes of one mark in a round where another instance answers.
const MARK_TRIES: u8 = 3;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub session: Session,
    pub id: CoordinatorId,
    pub is_dead: bool,
    right: Option<Right>,
    /// It decides nothing more.
    is_ended: bool,
    record: Arc<Record>,
    places: Vec<Place>,
    round: Round,
    batches: Batches,
    retention: Retention,
    number: u64,
    transactions: u64,
    machine: Transaction,
    deciding: Deciding,
    /// What is to be ended, the first one now.
    ends: Vec<ToEnd>,
    rounds_left: u8,
}

/// What it knows of a participant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    marks: OwnMarks,
    instance: Option<Instance>,
    is_opened: bool,
    is_lost: bool,
    /// To be committed again, as another instance answers.
    again: Vec<(u64, Decision)>,
    /// Of the transaction under way.
    work: Option<(DatabaseIdentity, Xid)>,
    vote: Option<Vote>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Round {
    None,
    Announcing,
    /// How often each mark may still be written.
    Marking(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Deciding {
    No,
    Submitted,
    /// The caller was told that it is in doubt.
    Alone,
}

/// A branch to be ended, until its number says that it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ToEnd {
    place: usize,
    branch: Branch,
    xid: Xid,
    prepared: Prepared,
    /// The batch that it is decided in; None where it is to be rolled back.
    batch: Option<u64>,
    is_not_there: bool,
}

pub fn name(place: usize) -> ParticipantName {
    NAMES[place].parse().expect("a name")
}

pub fn branch(id: TransactionId) -> Branch {
    Branch { transaction: id, is_home: false, whose: Whose::Ours }
}

impl Owner {
    pub fn new(id: CoordinatorId, session: Session, databases: usize, transactions: u64) -> Self {
        let place = Place {
            marks: OwnMarks::default(),
            instance: None,
            is_opened: false,
            is_lost: false,
            again: Vec::new(),
            work: None,
            vote: None,
        };
        let (host, participants) = (String::new(), BTreeMap::new());
        Owner {
            session,
            id,
            is_dead: false,
            right: None,
            is_ended: false,
            record: Arc::new(Record { host, pid: 1, is_orphan: false, participants }),
            places: vec![place; databases],
            round: Round::None,
            batches: Batches::default(),
            retention: Retention::default(),
            number: 1,
            transactions,
            machine: Transaction::new(databases),
            deciding: Deciding::No,
            ends: Vec::new(),
            rounds_left: 0,
        }
    }

    fn transaction(&self) -> TransactionId {
        TransactionId { coordinator: self.id, number: self.number }
    }

    /// What it asks next; None where it has nothing to do any more.
    pub fn next(&mut self, now: Duration, world: &World) -> Option<Request> {
        if let Some(end) = self.ends.first() {
            return Some(match end.is_not_there {
                true => Request::Fate(end.place, end.xid),
                false => Request::End(end.place, end.branch, end.batch.is_some()),
            });
        }
        if self.round != Round::None {
            return self.next_of_round(now);
        }
        if self.deciding == Deciding::Alone {
            return self.next_decision();
        }
        match self.machine.step() {
            None => Some(Request::Work(self.transaction())),
            Some(Step::Register(_)) => self.next_registration(now, world),
            Some(Step::Prepare(_)) => {
                let place = self.places.iter().position(|place| place.vote.is_none())?;
                let (_, xid) = self.places[place].work.clone()?;
                Some(Request::Prepare(place, branch(self.transaction()), xid))
            }
            Some(Step::Decide) if self.deciding == Deciding::No => self.next_registration(now, world),
            Some(Step::Decide) => self.next_decision(),
            Some(Step::Release { .. }) => Some(Request::HangUp(self.transaction())),
            Some(Step::Tell(_)) => self.next_behind_the_end(now),
            Some(step) => panic!("no step of such a transaction: {step:?}"),
        }
    }

    fn next_decision(&mut self) -> Option<Request> {
        let right = self.right?;
        self.batches.to_send().cloned().map(|request| Request::Decide(self.session, right, request))
    }

    fn next_registration(&mut self, now: Duration, world: &World) -> Option<Request> {
        let Some(right) = self.right else {
            return Some(Request::Register(self.session, self.id, Arc::clone(&self.record)));
        };
        if self.record.participants.is_empty() {
            return Some(Request::Record(self.session, right, Arc::new(self.named(world))));
        }
        if let Some(place) = self.places.iter().position(|place| !place.is_opened) {
            return Some(Request::OpenHistory(place, self.id));
        }
        self.round = Round::Announcing;
        self.next_of_round(now)
    }

    /// The record that names every participant, before anything is prepared there.
    fn named(&mut self, world: &World) -> Record {
        let mut record = (*self.record).clone();
        for (place, known) in self.places.iter_mut().enumerate() {
            let database = world.databases[place].identity();
            known.instance = Some(world.databases[place].instance());
            record
                .participants
                .insert(name(place), Used { database, marks: Marks::default(), is_settled: false });
        }
        record
    }

    fn next_of_round(&mut self, now: Duration) -> Option<Request> {
        let right = self.right?;
        if self.round == Round::Announcing {
            let mut record = (*self.record).clone();
            for (place, known) in self.places.iter_mut().enumerate().filter(|(_, known)| !known.is_lost) {
                let used = record.participants.get_mut(&name(place))?;
                used.marks = known.marks.announce(now);
            }
            return Some(Request::Record(self.session, right, Arc::new(record)));
        }
        let Round::Marking(tries) = &mut self.round else { return None };
        for (place, tries) in tries.iter_mut().enumerate() {
            let known = &mut self.places[place];
            if *tries > 0
                && !known.is_lost
                && let (Some(write), Some(instance)) = (known.marks.send(), known.instance)
            {
                *tries -= 1;
                return Some(Request::Mark(place, self.id, write, instance));
            }
        }
        None
    }

    /// Marks that cover what was decided, and its deletion.
    fn next_behind_the_end(&mut self, now: Duration) -> Option<Request> {
        if self.is_ended {
            return None;
        }
        let places = &self.places;
        let is_covered = |name: &ParticipantName, mark| places[World::place(name)].marks.is_recorded(mark);
        for batch in self.retention.take_deletable(is_covered) {
            self.batches.allow_delete(batch);
        }
        if let Some(request) = self.next_decision() {
            return Some(request);
        }
        if !self.retention.is_empty() && self.rounds_left > 0 {
            self.rounds_left -= 1;
            self.round = Round::Announcing;
            return self.next_of_round(now);
        }
        if self.number == self.transactions {
            return None;
        }
        self.number += 1;
        self.machine = Transaction::new(self.places.len());
        self.deciding = Deciding::No;
        for place in &mut self.places {
            (place.work, place.vote) = (None, None);
        }
        Some(Request::Work(self.transaction()))
    }

    /// Takes the answer to what it asked.
    pub fn take(&mut self, request: &Request, answer: Answer, now: Duration, world: &mut World) {
        match (request, answer) {
            (Request::Work(_), Answer::Worked(works)) => self.worked(works),
            (Request::HangUp(_), _) => self.machine.on(Event::Released),
            (Request::Prepare(place, ..), answer) => {
                self.places[*place].vote = Some(match answer {
                    Answer::Voted(vote) => vote,
                    _ => Vote::Unknown,
                });
                if self.places.iter().all(|place| place.vote.is_some()) {
                    let votes = self.places.iter().filter_map(|place| place.vote).collect();
                    self.machine.on(Event::Voted(votes));
                }
            }
            (Request::End(..), Answer::Ended(true)) => self.ended(),
            (Request::End(..), Answer::Ended(false)) => self.ends[0].is_not_there = true,
            (Request::Fate(..), Answer::Fate(_, identity, fate, left)) => {
                self.judged(fate, &identity, &left, world)
            }
            (Request::OpenHistory(place, _), Answer::Opened(true)) => self.places[*place].is_opened = true,
            // The row may be there, and a second insert would not be told from a recoverer's.
            (Request::OpenHistory(..), _) => self.end(),
            (Request::Mark(place, ..), Answer::Marked(marking, instance)) => {
                self.marked(*place, request, marking, instance)
            }
            (Request::Register(..), Answer::Registered(Ok(right))) => self.right = Some(right),
            (Request::Record(_, _, record), Answer::Written(Ok(()))) => self.recorded(record),
            (Request::Register(..), Answer::Registered(Err(_)))
            | (Request::Record(..), Answer::Written(Err(_))) => self.end(),
            (Request::Decide(_, _, request), answer) => self.decided(request, answer, world),
            (_, _) => {}
        }
        self.go_on(now, world);
    }

    /// Goes on as far as nobody has to be asked.
    fn go_on(&mut self, now: Duration, world: &mut World) {
        if let Round::Marking(tries) = &self.round {
            let waits = |(place, tries): (&Place, &u8)| {
                *tries > 0 && !place.is_lost && place.marks.clone().send().is_some()
            };
            if !self.places.iter().zip(tries).any(waits) {
                self.round = Round::None;
                self.apply_again();
            }
        }
        if self.round != Round::None {
            return;
        }
        let has_begun = self.right.is_some() && self.places.iter().all(|place| place.is_opened);
        let are_fresh = has_begun && self.places.iter().all(|place| place.marks.is_fresh(now));
        let is_lost = self.places.iter().any(|place| place.is_lost);
        match self.machine.step() {
            Some(Step::Register(_)) if self.is_ended || is_lost => self.machine.on(Event::Registered(false)),
            Some(Step::Register(_)) if are_fresh => self.machine.on(Event::Registered(true)),
            Some(Step::Decide) if self.deciding == Deciding::No && (self.is_ended || is_lost) => {
                self.machine.on(Event::Decided(Decided::No))
            }
            Some(Step::Decide) if self.deciding == Deciding::No && are_fresh => self.submit(),
            _ => {}
        }
        self.tell(world);
    }

    fn submit(&mut self) {
        let branches = self.places.iter().enumerate().map(|(place, known)| {
            let (database, xid) = known.work.clone().expect("it has worked there");
            let Some(Vote::Prepared { lsn }) = known.vote else { panic!("no vote for it") };
            let timeline = database.timeline.unwrap_or_default();
            DecidedBranch { participant: name(place), xid, timeline, lsn, is_home: false }
        });
        let decision = Decision { number: self.number, branches: branches.collect() };
        let entry = Entry { number: self.number, bytes: decision.encode() };
        match self.batches.submit(entry) {
            true => self.deciding = Deciding::Submitted,
            false => self.machine.on(Event::Decided(Decided::No)),
        }
    }

    fn worked(&mut self, works: Vec<(DatabaseIdentity, Xid)>) {
        let did = works.iter().map(|(_, xid)| Did::Wrote { xid: *xid, is_finishable: true }).collect();
        for (place, (database, xid)) in self.places.iter_mut().zip(works) {
            place.work = Some((database, xid));
        }
        self.machine.on(Event::Commit);
        self.machine.on(Event::Asked(did));
    }

    fn recorded(&mut self, record: &Arc<Record>) {
        self.record = Arc::clone(record);
        if self.round != Round::Announcing {
            return;
        }
        for (place, known) in self.places.iter_mut().enumerate() {
            known.marks.recorded(record.participants[&name(place)].marks);
        }
        self.round = Round::Marking(vec![MARK_TRIES; self.places.len()]);
    }

    fn marked(&mut self, place: usize, request: &Request, marking: Marking, instance: Instance) {
        let known = &mut self.places[place];
        match (marking, request) {
            (Marking::Written, Request::Mark(_, _, write, _)) => known.marks.written(write.mark),
            (Marking::OtherInstance, _) => {
                known.instance = Some(instance);
                known.again = self.retention.instance_changed(&name(place));
            }
            _ => known.is_lost = true,
        }
    }

    /// Only in a row that is as it should: elsewhere a person has to look first.
    fn apply_again(&mut self) {
        for place in 0..self.places.len() {
            if self.places[place].marks.clone().send().is_some() {
                continue;
            }
            for (batch, decision) in std::mem::take(&mut self.places[place].again) {
                let id = TransactionId { coordinator: self.id, number: decision.number };
                let here = decision.branches.iter().find(|branch| branch.participant == name(place));
                let here = here.expect("every database takes part");
                let database = &self.record.participants[&name(place)].database;
                self.ends.push(ToEnd {
                    place,
                    branch: branch(id),
                    xid: here.xid,
                    prepared: here.prepared_in(database),
                    batch: Some(batch),
                    is_not_there: false,
                });
            }
        }
    }

    fn decided(&mut self, request: &batch::Request, answer: Answer, world: &mut World) {
        let (answer, is_over) = match answer {
            Answer::Decided(Some(answer)) => (answer, false),
            Answer::Decided(None) => (batch::Answer::Lost, true),
            _ => (batch::Answer::Lost, false),
        };
        let decided = match self.batches.answered(answer) {
            BatchMeaning::Again if is_over => {
                self.batches.end();
                Decided::Unclear
            }
            BatchMeaning::Again => return,
            BatchMeaning::Decided(_) if request.entries.is_empty() => return,
            BatchMeaning::Decided(_) => Decided::Yes,
            BatchMeaning::NotDecided(_) => Decided::No,
            BatchMeaning::Unclear(_) => Decided::Unclear,
        };
        self.is_ended |= decided != Decided::Yes;
        if request.entries.is_empty() {
            return;
        }
        if decided == Decided::Yes {
            let lines = request.entries.iter().map(|entry| entry.bytes.as_slice());
            let decisions = decode_batch(&encode_batch(lines));
            self.retention.decided(request.batch, decisions.expect("just encoded"));
        }
        if self.deciding == Deciding::Alone {
            self.deciding = Deciding::Submitted;
            self.settle(decided, request.batch);
            return;
        }
        self.machine.on(Event::Decided(decided));
        if self.machine.step() == Some(Step::Apply) {
            self.settle(Decided::Yes, request.batch);
            // What is told from now on is *committed*, applied or not.
            self.machine.on(Event::Applied(false));
        }
        self.tell(world);
    }

    fn settle(&mut self, decided: Decided, batch: u64) {
        let batch = match decided {
            Decided::Yes => Some(batch),
            Decided::No => None,
            // Whoever recovers this coordinator has the word.
            Decided::Unclear => return,
        };
        self.rounds_left = ROUNDS;
        let id = self.transaction();
        for (place, known) in self.places.iter().enumerate() {
            let Some((database, xid)) = known.work.clone() else { continue };
            let position = match known.vote {
                Some(Vote::Prepared { lsn }) => lsn,
                _ => u64::MAX,
            };
            let prepared = Prepared { database, position };
            self.ends.push(ToEnd { place, branch: branch(id), xid, prepared, batch, is_not_there: false });
        }
    }

    fn ended(&mut self) {
        let ended = self.ends.remove(0);
        if let Some(batch) = ended.batch {
            let covering = self.places[ended.place].marks.covering();
            let number = ended.branch.transaction.number;
            self.retention.applied(batch, number, &name(ended.place), covering);
        }
    }

    fn judged(&mut self, fate: fate::Fate, now: &DatabaseIdentity, left: &[fate::Switch], world: &mut World) {
        let end = &mut self.ends[0];
        let (is_final, is_lost) = match end.batch {
            Some(_) => match fate::judge(fate, &end.prepared, now, left) {
                Meaning::Committed => (true, false),
                Meaning::NotYet => (false, false),
                Meaning::Lost => (false, true),
            },
            None => match fate::judge_gone(fate, &end.prepared, now) {
                Gone::RolledBack => (true, false),
                Gone::NotYet => (false, false),
                Gone::Committed => (false, true),
            },
        };
        if is_final && end.batch.is_some() {
            world.called_committed(end.place, end.branch.transaction);
        }
        if is_lost {
            let what = format!("{:?} is called lost in {}", end.branch.transaction, end.place);
            world.false_alarm(end.place, what);
            self.ends.remove(0);
        } else if is_final {
            self.ended();
        } else {
            end.is_not_there = false;
        }
    }

    /// It has ended: nothing is decided any more, and what is prepared is rolled back where that is certain.
    fn end(&mut self) {
        self.is_ended = true;
        self.round = Round::None;
    }

    /// The caller does not wait any longer.
    pub fn interrupt(&mut self, world: &mut World) {
        let is_withdrawn =
            self.machine.step() == Some(Step::Decide) && self.batches.clone().withdraw(self.number);
        let is_sent = self.deciding == Deciding::Submitted && !is_withdrawn;
        if self.machine.step() == Some(Step::Decide) && is_sent {
            self.machine.on(Event::Interrupted);
            self.tell(world);
            self.deciding = Deciding::Alone;
        }
    }

    /// Whether its caller may give up now.
    pub fn waits_for_decision(&self) -> bool {
        self.machine.step() == Some(Step::Decide) && self.deciding == Deciding::Submitted
    }

    fn tell(&mut self, world: &mut World) {
        let Some(Step::Tell(told)) = self.machine.step() else { return };
        let id = self.transaction();
        if world.truth.told.contains_key(&id) {
            return;
        }
        let told = match told {
            transaction::Told::Committed { .. } => Told::Committed,
            transaction::Told::RolledBack(_) => Told::RolledBack,
            transaction::Told::InDoubt(_) => Told::InDoubt,
        };
        world.tell(id, told, &[]);
        if told == Told::Committed && !world.truth.decided.contains(&id) {
            world.truth.wrong(Wrong::Untrue, format!("{id} is told as committed, and not decided"));
        }
        let is_prepared = self.places.iter().any(|place| place.vote.is_some());
        if told == Told::RolledBack && is_prepared {
            self.settle(Decided::No, 0);
        }
    }
}
