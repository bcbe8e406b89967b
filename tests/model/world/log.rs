//! The decision log: nodes in ZooKeeper, each request done as a whole or not at all. A session owns who is
//! alive in it; a fence is a number that whoever takes over raises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use onecommit::id::{CoordinatorId, TransactionId};
use onecommit::protocol::batch::{Answer, Request};
use onecommit::protocol::decision::{Decision, Outcome, Record, decode_batch, encode_batch};

pub type Session = u32;

/// The fence of a coordinator that nobody has taken over.
const OWNERS: i64 = 0;

/// What there is of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coordinator {
    pub record: Arc<Record>,
    pub fence: i64,
    pub live: Option<Session>,
    pub batches: BTreeMap<u64, Arc<Vec<Decision>>>,
}

/// The right to write for a coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Right {
    pub coordinator: CoordinatorId,
    pub fence: i64,
}

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The session is over.
    Over,
    /// Somebody else has taken over.
    Fenced,
    /// There is something that whoever asks did not read.
    Unread,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    coordinators: BTreeMap<CoordinatorId, Coordinator>,
    outcomes: BTreeMap<TransactionId, Outcome>,
    sessions: BTreeSet<Session>,
    next_session: Session,
    /// A copy that was older has taken its place.
    pub was_restored: bool,
}

impl Log {
    pub fn open(&mut self) -> Session {
        self.next_session += 1;
        self.sessions.insert(self.next_session);
        self.next_session
    }

    /// The session is over, and nobody is alive in it.
    pub fn expire(&mut self, session: Session) {
        self.sessions.remove(&session);
        for coordinator in self.coordinators.values_mut() {
            coordinator.live = coordinator.live.filter(|live| *live != session);
        }
    }

    pub fn lives(&self, session: Session) -> bool {
        self.sessions.contains(&session)
    }

    pub fn register(
        &mut self,
        session: Session,
        id: CoordinatorId,
        record: Arc<Record>,
    ) -> Result<Right, Refused> {
        self.expect(session)?;
        match self.coordinators.get_mut(&id) {
            Some(known) if known.live == Some(session) && known.fence == OWNERS => known.record = record,
            Some(_) => return Err(Refused::Fenced),
            None => {
                let (live, batches) = (Some(session), BTreeMap::new());
                self.coordinators.insert(id, Coordinator { record, fence: OWNERS, live, batches });
            }
        }
        Ok(Right { coordinator: id, fence: OWNERS })
    }

    pub fn record(&mut self, session: Session, right: Right, record: Arc<Record>) -> Result<(), Refused> {
        self.held(session, right)?.record = record;
        Ok(())
    }

    /// None where the session is over.
    pub(super) fn decide(&mut self, session: Session, right: Right, request: &Request) -> Option<Answer> {
        let held = match self.held(session, right) {
            Ok(held) => held,
            Err(Refused::Over) => return None,
            Err(_) => return Some(Answer::Fenced),
        };
        if !request.entries.is_empty() && held.batches.contains_key(&request.batch) {
            return Some(Answer::Exists);
        }
        if let Some(missing) = request.delete.iter().find(|batch| !held.batches.contains_key(batch)) {
            return Some(Answer::Missing(*missing));
        }
        if !request.entries.is_empty() {
            held.batches.insert(request.batch, Arc::new(decisions(request)));
        }
        request.delete.iter().for_each(|batch| drop(held.batches.remove(batch)));
        Some(Answer::Done)
    }

    pub fn coordinators(&self, session: Session) -> Result<Vec<(CoordinatorId, bool)>, Refused> {
        self.expect(session)?;
        Ok(self.coordinators.iter().map(|(id, known)| (*id, known.live.is_some())).collect())
    }

    /// None where it lives, or there is nothing of it.
    pub fn take_over(
        &mut self,
        session: Session,
        id: CoordinatorId,
    ) -> Result<Option<(Right, Coordinator)>, Refused> {
        self.expect(session)?;
        let Some(known) = self.coordinators.get_mut(&id) else { return Ok(None) };
        let is_own = known.live == Some(session) && known.fence != OWNERS;
        if known.live.is_some() && !is_own {
            return Ok(None);
        }
        known.live = Some(session);
        known.fence += 1;
        Ok(Some((Right { coordinator: id, fence: known.fence }, known.clone())))
    }

    /// None where there is a record.
    pub fn adopt_orphan(
        &mut self,
        session: Session,
        id: CoordinatorId,
        record: Arc<Record>,
    ) -> Result<Option<Right>, Refused> {
        self.expect(session)?;
        if let Some(known) = self.coordinators.get(&id) {
            let is_own = known.live == Some(session) && known.fence > OWNERS && known.record == record;
            return Ok(is_own.then_some(Right { coordinator: id, fence: known.fence }));
        }
        let (fence, live, batches) = (OWNERS + 1, Some(session), BTreeMap::new());
        self.coordinators.insert(id, Coordinator { record, fence, live, batches });
        Ok(Some(Right { coordinator: id, fence }))
    }

    pub fn let_go(&mut self, session: Session, id: CoordinatorId) -> Result<(), Refused> {
        self.expect(session)?;
        if let Some(known) = self.coordinators.get_mut(&id).filter(|known| known.live == Some(session)) {
            known.live = None;
        }
        Ok(())
    }

    pub(super) fn remove(
        &mut self,
        session: Session,
        right: Right,
        batches: &[u64],
        outcomes: &[(TransactionId, Outcome)],
    ) -> Result<(), Refused> {
        self.expect(session)?;
        if !self.coordinators.contains_key(&right.coordinator) {
            // Removed before, and the answer was lost.
            return Ok(());
        }
        let held = self.held(session, right)?;
        if held.batches.keys().any(|batch| !batches.contains(batch)) {
            return Err(Refused::Unread);
        }
        self.coordinators.remove(&right.coordinator);
        self.keep(outcomes);
        Ok(())
    }

    pub(super) fn keep_outcomes(
        &mut self,
        session: Session,
        right: Right,
        outcomes: &[(TransactionId, Outcome)],
    ) -> Result<(), Refused> {
        self.held(session, right)?;
        self.keep(outcomes);
        Ok(())
    }

    pub fn outcome(&self, id: TransactionId) -> Option<Outcome> {
        self.outcomes.get(&id).copied()
    }

    pub fn outcomes(&self) -> impl Iterator<Item = (TransactionId, Outcome)> {
        self.outcomes.iter().map(|(id, outcome)| (*id, *outcome))
    }

    pub fn find(&self, id: CoordinatorId) -> Option<&Coordinator> {
        self.coordinators.get(&id)
    }

    /// What is in a batch; nothing where there is none.
    pub(super) fn decisions(&self, id: CoordinatorId, batch: u64) -> Vec<Decision> {
        let decisions = self.find(id).and_then(|known| known.batches.get(&batch));
        decisions.map_or_else(Vec::new, |decisions| decisions.to_vec())
    }

    pub fn all(&self) -> impl Iterator<Item = (CoordinatorId, &Coordinator)> {
        self.coordinators.iter().map(|(id, known)| (*id, known))
    }

    /// A copy takes its place: every session is over.
    pub fn restore(&mut self, copied: &Log) {
        let next_session = self.next_session;
        *self = Log { next_session, sessions: BTreeSet::new(), was_restored: true, ..copied.clone() };
        self.coordinators.values_mut().for_each(|known| known.live = None);
    }

    pub fn expect(&self, session: Session) -> Result<(), Refused> {
        if self.lives(session) { Ok(()) } else { Err(Refused::Over) }
    }

    /// What may be written only while the fence is this one.
    fn held(&mut self, session: Session, right: Right) -> Result<&mut Coordinator, Refused> {
        self.expect(session)?;
        let known = self.coordinators.get_mut(&right.coordinator);
        known.filter(|known| known.fence == right.fence).ok_or(Refused::Fenced)
    }

    /// What was told of a transaction first stays.
    fn keep(&mut self, outcomes: &[(TransactionId, Outcome)]) {
        for (id, outcome) in outcomes {
            self.outcomes.entry(*id).or_insert(*outcome);
        }
    }
}

/// By way of the bytes that would be kept: so what is written is what is read.
fn decisions(request: &Request) -> Vec<Decision> {
    let bytes = encode_batch(request.entries.iter().map(|entry| entry.bytes.as_slice()));
    decode_batch(&bytes).expect("just encoded")
}
