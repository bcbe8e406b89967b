//! A node that recovers the coordinator: takes over, reads, settles participant by participant, and removes;
//! or adopts it as an orphan. What is done in a participant is the protocol floor's own plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use onecommit::id::{CoordinatorId, TransactionId};
use onecommit::protocol::decision::{DecidedBranch, Decision, Outcome, Record};
use onecommit::protocol::fate::{self, Meaning};
use onecommit::protocol::history::Row;
use onecommit::protocol::recovery::{OrphanRule, Plan, judge_orphans, plan};

use super::owner::name;
use super::request::{Answer, Request};
use crate::world::{Branch, Coordinator, Instance, Refused, Right, Session, Whose, World};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recoverer {
    pub session: Session,
    id: CoordinatorId,
    /// How often it still takes over.
    pub passes: u8,
    at: At,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum At {
    Idle,
    /// It was not heard whether it has taken over.
    Unclear,
    Holds(Box<Held>),
}

/// A coordinator that was taken over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    right: Right,
    record: Arc<Record>,
    batches: BTreeMap<u64, Arc<Vec<Decision>>>,
    rolled_back: BTreeSet<u64>,
    place: usize,
    at: InPlace,
    /// Some participant is to be asked again.
    goes_on: bool,
    /// Some participant waits for a person.
    is_refused: bool,
}

/// How far it is in a participant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum InPlace {
    Listing,
    ReadingRow(Instance, Vec<Branch>),
    /// By the rule of orphans, which reads the row first.
    JudgingLate,
    ListingLate(Option<Row>, Instance),
    Keeping(Ending),
    Ending(Ending),
    MarkingSettled,
}

/// What is ended, by whom it was listed, and what is to be asked about then.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ending {
    instance: Instance,
    ends: Vec<(Branch, bool)>,
    absent: Vec<(DecidedBranch, u64)>,
    /// The row is closed behind them.
    closes: bool,
}

impl Recoverer {
    pub fn new(id: CoordinatorId, session: Session, passes: u8) -> Self {
        Recoverer { session, id, passes, at: At::Idle }
    }

    pub fn is_idle(&self) -> bool {
        self.at == At::Idle
    }

    /// It dies, and another one takes its place.
    pub fn die(&mut self, session: Session) {
        (self.session, self.at) = (session, At::Idle);
    }

    /// Whether somebody has to take over, or to adopt.
    pub fn is_needed(world: &World, id: CoordinatorId) -> bool {
        match world.log.find(id) {
            Some(known) => known.live.is_none(),
            None => world.databases.iter().any(|database| ours(database.prepared()).next().is_some()),
        }
    }

    /// What it asks next.
    pub fn next(&self, world: &World) -> Option<Request> {
        match &self.at {
            At::Unclear => Some(Request::LetGo(self.session, self.id)),
            At::Idle if self.passes == 0 || !Recoverer::is_needed(world, self.id) => None,
            At::Idle => Some(match world.log.find(self.id) {
                Some(_) => Request::TakeOver(self.session, self.id),
                None => Request::Adopt(self.session, self.id, Arc::new(orphan())),
            }),
            At::Holds(held) => Some(held.next(self.session, self.id)),
        }
    }

    /// Takes the answer to what it asked.
    pub fn take(&mut self, request: &Request, answer: Answer, world: &mut World) {
        // A session that is over holds nothing: the next one takes over again, and reads again.
        if matches!(
            answer,
            Answer::Written(Err(Refused::Over))
                | Answer::Taken(Err(Refused::Over))
                | Answer::Adopted(Err(Refused::Over))
        ) {
            return self.die(world.log.open());
        }
        match (request, answer) {
            (Request::TakeOver(..), Answer::Taken(Ok(taken))) => {
                self.passes -= 1;
                self.at =
                    taken.map_or(At::Idle, |(right, known)| At::Holds(Box::new(Held::new(right, known))));
            }
            (Request::Adopt(_, _, record), Answer::Adopted(Ok(adopted))) => {
                self.passes -= 1;
                let known = |right: Right| Coordinator {
                    record: Arc::clone(record),
                    fence: right.fence,
                    live: None,
                    batches: BTreeMap::new(),
                };
                self.at =
                    adopted.map_or(At::Idle, |right| At::Holds(Box::new(Held::new(right, known(right)))));
            }
            (Request::TakeOver(..) | Request::Adopt(..), _) => self.at = At::Unclear,
            (Request::LetGo(..), Answer::Written(_)) => self.at = At::Idle,
            (_, answer) => {
                if let At::Holds(held) = &mut self.at
                    && !held.take(request, answer, world)
                {
                    self.at = At::Idle;
                }
            }
        }
    }
}

fn orphan() -> Record {
    Record { host: String::new(), pid: 1, is_orphan: true, participants: BTreeMap::new() }
}

fn ours(branches: impl Iterator<Item = Branch>) -> impl Iterator<Item = Branch> {
    branches.filter(|branch| branch.whose == Whose::Ours)
}

impl Held {
    fn new(right: Right, known: Coordinator) -> Self {
        let (record, batches) = (known.record, known.batches);
        let mut held = Held {
            right,
            record,
            batches,
            rolled_back: BTreeSet::new(),
            place: 0,
            at: InPlace::Listing,
            goes_on: false,
            is_refused: false,
        };
        held.enter(0);
        held
    }

    /// Begins with a participant: by the rule of records, or by that of orphans where it is settled.
    fn enter(&mut self, place: usize) {
        self.place = place;
        let used = self.record.participants.get(&name(place));
        let is_late = self.record.is_orphan || used.is_some_and(|used| used.is_settled);
        self.at = if is_late { InPlace::JudgingLate } else { InPlace::Listing };
    }

    fn is_through(&self) -> bool {
        self.place == self.places()
    }

    fn places(&self) -> usize {
        if self.record.is_orphan { 2 } else { self.record.participants.len() }
    }

    fn next(&self, session: Session, id: CoordinatorId) -> Request {
        let place = self.place;
        if self.is_through() {
            return match self.is_refused && !self.record.is_orphan {
                true => Request::LetGo(session, id),
                false => Request::Remove(
                    session,
                    self.right,
                    self.batches.keys().copied().collect(),
                    self.outcomes(id),
                ),
            };
        }
        match &self.at {
            InPlace::Listing | InPlace::ListingLate(..) => Request::Prepared(place),
            InPlace::ReadingRow(..) | InPlace::JudgingLate => Request::History(place, id),
            InPlace::Keeping(ending) => {
                let unkept = ending.ends.iter().filter(|(_, commits)| !commits);
                let unkept = unkept.map(|(branch, _)| (branch.transaction, Outcome::RolledBack));
                Request::Keep(session, self.right, unkept.collect())
            }
            InPlace::Ending(Ending { ends, absent, instance, .. }) => match (ends.first(), absent.first()) {
                (Some((branch, commits)), _) => Request::End(place, *branch, *commits),
                (None, Some((branch, _))) => Request::Fate(place, branch.xid),
                (None, None) => Request::CloseHistory(place, id, *instance),
            },
            InPlace::MarkingSettled => Request::Record(session, self.right, Arc::new(self.settled_record())),
        }
    }

    fn settled_record(&self) -> Record {
        let mut record = (*self.record).clone();
        if let Some(used) = record.participants.get_mut(&name(self.place)) {
            used.is_settled = true;
        }
        record
    }

    fn outcomes(&self, id: CoordinatorId) -> Vec<(TransactionId, Outcome)> {
        let decided = self.batches.values().flat_map(|decisions| decisions.iter());
        let decided = decided.map(|decision| (decision.number, Outcome::Committed));
        let all = decided.chain(self.rolled_back.iter().map(|number| (*number, Outcome::RolledBack)));
        all.map(|(number, outcome)| (TransactionId { coordinator: id, number }, outcome)).collect()
    }

    fn decided(&self) -> BTreeMap<u64, DecidedBranch> {
        let here = name(self.place);
        let decisions = self.batches.values().flat_map(|decisions| decisions.iter());
        let branches = decisions.flat_map(|decision| {
            let branches = decision.branches.iter().filter(|branch| branch.participant == here);
            branches.map(|branch| (decision.number, branch.clone()))
        });
        branches.collect()
    }

    /// False where it holds nothing any more.
    fn take(&mut self, request: &Request, answer: Answer, world: &mut World) -> bool {
        match (request, answer) {
            (_, Answer::Written(Err(_))) => return false,
            (Request::Remove(..), Answer::Written(Ok(()))) => return false,
            (Request::Prepared(_), Answer::Prepared(instance, listed)) => {
                self.listed(instance, ours(listed.into_iter()).collect(), world)
            }
            (Request::History(..), Answer::History(row, instance)) => self.read_row(row, instance, world),
            (Request::Keep(_, _, kept), Answer::Written(Ok(()))) => {
                self.rolled_back.extend(kept.iter().map(|(id, _)| id.number));
                if let InPlace::Keeping(ending) = self.at.clone() {
                    self.at = InPlace::Ending(ending);
                }
            }
            (Request::End(..), Answer::Ended(_)) => self.ended(),
            // Not heard: looked at again.
            (Request::End(..) | Request::CloseHistory(..), Answer::Lost) => self.ask_again(),
            (Request::Fate(..), Answer::Fate(instance, identity, fate, left)) => {
                self.judged(instance, fate, &identity, &left, world)
            }
            (Request::CloseHistory(..), Answer::Closed(true)) => self.at = InPlace::MarkingSettled,
            (Request::CloseHistory(..), Answer::Closed(false)) => self.ask_again(),
            (Request::Record(_, _, record), Answer::Written(Ok(()))) => {
                self.record = Arc::clone(record);
                self.leave();
            }
            (_, _) => {}
        }
        true
    }

    fn listed(&mut self, instance: Instance, mine: Vec<Branch>, world: &mut World) {
        let InPlace::ListingLate(row, of) = self.at else {
            self.at = InPlace::ReadingRow(instance, mine);
            return;
        };
        let decided = self.decided();
        let mut late = mine;
        late.retain(|branch| !decided.contains_key(&branch.transaction.number));
        if late.is_empty() || of != instance {
            return self.leave();
        }
        match judge_orphans(row) {
            OrphanRule::Refuse => {
                world.false_alarm(self.place, format!("an orphan is refused in {}", self.place));
                self.leave();
            }
            OrphanRule::RollBack => {
                let ends = late.into_iter().map(|branch| (branch, false)).collect();
                let ending = Ending { instance, ends, absent: Vec::new(), closes: false };
                self.at = match self.record.is_orphan {
                    true => InPlace::Ending(ending),
                    false => InPlace::Keeping(ending),
                };
            }
        }
    }

    fn read_row(&mut self, row: Option<Row>, instance: Instance, world: &mut World) {
        let (of, mine) = match &self.at {
            InPlace::ReadingRow(of, mine) => (*of, mine.clone()),
            _ => return self.at = InPlace::ListingLate(row, instance),
        };
        if of != instance {
            return self.ask_again();
        }
        let (prepared, mut decided) =
            (mine.iter().map(|branch| branch.transaction.number).collect(), self.decided());
        let used = &self.record.participants[&name(self.place)];
        match plan(&used.marks, row, &prepared, &decided.keys().copied().collect()) {
            Plan::Nothing => self.at = InPlace::MarkingSettled,
            Plan::Refuse(verdict) => {
                world.false_alarm(self.place, format!("{verdict:?} in {}", self.place));
                self.is_refused = true;
                self.leave();
            }
            Plan::Settle(planned) => {
                let ends = mine
                    .into_iter()
                    .map(|branch| (branch, planned.commit.contains(&branch.transaction.number)));
                let ends: Vec<(Branch, bool)> = ends.collect();
                decided.retain(|number, _| planned.absent.contains(number));
                let absent = decided.into_iter().map(|(number, branch)| (branch, number)).collect();
                let keeps = ends.iter().any(|(_, commits)| !commits);
                let ending = Ending { instance, ends, absent, closes: true };
                self.at = if keeps { InPlace::Keeping(ending) } else { InPlace::Ending(ending) };
            }
        }
    }

    fn ended(&mut self) {
        let InPlace::Ending(ending) = &mut self.at else { return };
        ending.ends.remove(0);
        if ending.ends.is_empty() && !ending.closes {
            self.leave();
        }
    }

    fn judged(
        &mut self,
        instance: Instance,
        fate: fate::Fate,
        identity: &onecommit::protocol::progress::DatabaseIdentity,
        left: &[fate::Switch],
        world: &mut World,
    ) {
        let used = self.record.participants[&name(self.place)].database.clone();
        let InPlace::Ending(ending) = &mut self.at else { return };
        let meaning = fate::judge(fate, &ending.absent[0].0.prepared_in(&used), identity, left);
        if instance != ending.instance || meaning == Meaning::NotYet {
            return self.ask_again();
        }
        let number = ending.absent.remove(0).1;
        if meaning == Meaning::Committed {
            world.called_committed(self.place, TransactionId { coordinator: self.right.coordinator, number });
        }
        if meaning == Meaning::Lost {
            world.false_alarm(self.place, format!("a decided branch is called lost in {}", self.place));
            self.is_refused = true;
            self.leave();
        }
    }

    fn ask_again(&mut self) {
        // An orphan's record is removed whatever came of it: what is left is an orphan again.
        self.goes_on |= !self.record.is_orphan;
        self.leave();
    }

    /// On to the next participant; behind the last one again, where one is to be asked again.
    fn leave(&mut self) {
        self.enter(self.place + 1);
        if self.is_through() && self.goes_on {
            (self.goes_on, self.is_refused) = (false, false);
            self.enter(0);
        }
    }
}
