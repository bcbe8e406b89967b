//! What a coordinator has in the decision log and in the participants: its record, its fence, its
//! history rows, and the marks by which a lost history is found out.
//!
//! Relies on the decision log's fence: whoever raised it has ended this coordinator. Promises that a
//! participant is named in the record before anything is prepared there, and that what is decided has
//! fresh marks in every participant that it touches.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::member::Member;
use crate::decision_log::{DecisionLog, Fence, LogSession};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, ParticipantName, TransactionId};
use crate::participant::{Instance, Marked};
use crate::protocol::batch::{Answer, Request};
use crate::protocol::decision::{Decision, Outcome, Record, Used};
use crate::protocol::history::{Marks, OwnMarks};
use crate::protocol::retention::Retention;
use crate::protocol::retry::Backoff;

const OPERATION: &str = "register coordinator";
/// How often a write into the decision log is made again whose answer was lost.
const WRITE_TRIES: u32 = 5;
/// How often a mark is written in one round where another instance answers each time.
const MARK_TRIES: u32 = 3;

/// A coordinator that is registered.
pub(super) struct Registration {
    id: CoordinatorId,
    session: Box<dyn LogSession>,
    fence: Fence,
    began: Instant,
    is_ended: AtomicBool,
    retry: Backoff,
    /// Held by whoever changes it, so that one change is under way at a time.
    record: tokio::sync::Mutex<Record>,
    used: Mutex<BTreeMap<ParticipantName, InUse>>,
    retention: Mutex<Retention>,
}

#[derive(Clone)]
struct InUse {
    member: Arc<Member>,
    instance: Instance,
    marks: OwnMarks,
    /// Its history was lost: nothing is prepared there any more.
    is_lost: bool,
    /// What is to be applied again, once the row was found to be as it should.
    again: Vec<(u64, Decision)>,
}

/// Decided transactions that have to be applied again, as another instance of the participant answers.
pub(super) type Again = Vec<(Arc<Member>, Vec<(u64, Decision)>)>;

impl Registration {
    /// Registers a coordinator that has used nothing yet.
    pub(super) async fn new(log: &dyn DecisionLog, id: CoordinatorId, retry: Backoff) -> Result<Self> {
        let session = log.open().await?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let record =
            Record { host, pid: std::process::id(), is_orphan: false, participants: BTreeMap::new() };
        let mut unclear = Unclear { retry, failures: 0 };
        let fence = loop {
            match session.register(id, &record).await {
                Err(error) if unclear.is_tried_again(&error).await => {}
                registered => break registered?,
            }
        };
        Ok(Registration {
            id,
            session,
            fence,
            began: Instant::now(),
            is_ended: AtomicBool::new(false),
            retry,
            record: tokio::sync::Mutex::new(record),
            used: Mutex::default(),
            retention: Mutex::default(),
        })
    }

    /// Has these participants know this coordinator, with marks that are fresh enough to decide by.
    pub(super) async fn use_participants(&self, members: &[Arc<Member>]) -> Result<()> {
        let mut record = self.record.lock().await;
        let unknown: Vec<_> =
            members.iter().filter(|member| !self.used().contains_key(&member.name)).cloned().collect();
        if !unknown.is_empty() {
            self.add(&mut record, unknown).await?;
        }
        // Whoever held the record before may have made them fresh.
        if self.are_fresh(members)? {
            return Ok(());
        }
        self.round(&mut record).await?;
        if self.are_fresh(members)? {
            return Ok(());
        }
        let why = "a participant did not take this coordinator's mark in time: nothing is decided without";
        Err(Error::new(ErrorKind::Unreachable, OPERATION, why))
    }

    /// One round of marks in all participants; what it has covered may be deleted.
    pub(super) async fn renew_marks(&self) -> Result<()> {
        let mut record = self.record.lock().await;
        self.round(&mut record).await
    }

    /// What is to be applied again by now. Whoever has had marks written takes it, also where these were not
    /// written everywhere: nobody else would, and its batches stayed in the log.
    pub(super) fn take_again(&self) -> Again {
        let mut used = self.used();
        // Only in a row that is as it should: elsewhere a person has to look first.
        let ready = used.values_mut().filter(|in_use| !in_use.again.is_empty() && in_use.marks.is_written());
        ready.map(|in_use| (Arc::clone(&in_use.member), std::mem::take(&mut in_use.again))).collect()
    }

    /// Whether every one of them may be decided on.
    pub(super) fn are_fresh(&self, members: &[Arc<Member>]) -> Result<bool> {
        self.check()?;
        let (used, now) = (self.used(), self.began.elapsed());
        let mut are_fresh = true;
        for member in members {
            match used.get(&member.name) {
                Some(in_use) if in_use.is_lost => return Err(lost_history(&member.name)),
                Some(in_use) => are_fresh &= in_use.marks.is_fresh(now),
                None => are_fresh = false,
            }
        }
        Ok(are_fresh)
    }

    async fn add(&self, record: &mut Record, members: Vec<Arc<Member>>) -> Result<()> {
        let mut instances = Vec::new();
        let mut wanted = record.clone();
        for member in &members {
            let instance = member.look().await?;
            let used =
                Used { database: instance.database.clone(), marks: Marks::default(), is_settled: false };
            wanted.participants.insert(member.name.clone(), used);
            instances.push(instance);
        }
        self.write(record, wanted).await?;
        for (member, instance) in members.into_iter().zip(instances) {
            let unknown = Unknown(self);
            let opened = member.port.open_history(self.id).await;
            opened.map_err(|error| error.with("participant", &member.name))?;
            unknown.becomes_known();
            let in_use =
                InUse { member, instance, marks: OwnMarks::default(), is_lost: false, again: Vec::new() };
            self.used().insert(in_use.member.name.clone(), in_use);
        }
        Ok(())
    }

    async fn round(&self, record: &mut Record) -> Result<()> {
        let now = self.began.elapsed();
        let mut wanted = record.clone();
        for (name, in_use) in self.used().iter_mut().filter(|(_, in_use)| !in_use.is_lost) {
            if let Some(used) = wanted.participants.get_mut(name) {
                used.marks = in_use.marks.announce(now);
                used.database = in_use.instance.database.clone();
            }
        }
        self.write(record, wanted).await?;
        for (name, in_use) in self.used().iter_mut() {
            if let Some(used) = record.participants.get(name) {
                in_use.marks.recorded(used.marks);
            }
        }
        for _ in 0..MARK_TRIES {
            if !self.mark_all().await {
                break;
            }
        }
        Ok(())
    }

    /// Writes the rows that are behind their announcement; whether one has to be written again, as
    /// another instance answered.
    async fn mark_all(&self) -> bool {
        let mut marking = tokio::task::JoinSet::new();
        for in_use in self.used().values_mut().filter(|in_use| !in_use.is_lost) {
            if let Some(write) = in_use.marks.send() {
                let (member, instance, id) = (Arc::clone(&in_use.member), in_use.instance.clone(), self.id);
                marking.spawn(async move {
                    let marked = member.port.mark(id, write, &instance).await;
                    (member, write, marked)
                });
            }
        }
        let mut has_moved = false;
        while let Some(marked) = marking.join_next().await {
            let Ok((member, write, marked)) = marked else { continue };
            match marked {
                Ok(Marked::Written) => self.written(&member.name, write.mark),
                Ok(Marked::OtherInstance(instance)) => {
                    self.moved(&member, instance);
                    has_moved = true;
                }
                // By whoever took over, and settled it.
                Ok(Marked::Lost(Some(row))) if row.is_closed => self.end(),
                Ok(Marked::Lost(row)) => self.lost(&member.name, row.map(|row| row.mark)),
                // The next round finds out whether it was written.
                Err(error) => tracing::warn!(participant = %member.name, %error, "a mark was not written"),
            }
        }
        has_moved
    }

    fn written(&self, name: &ParticipantName, mark: u64) {
        if let Some(in_use) = self.used().get_mut(name) {
            in_use.marks.written(mark);
        }
    }

    /// Another instance answers. What was committed in the one before counts for nothing until it is
    /// committed here, and until a mark was written behind it.
    fn moved(&self, member: &Member, instance: Instance) {
        tracing::info!(participant = %member.name, %instance, "another instance answers");
        member.saw(&instance);
        if let Some(in_use) = self.used().get_mut(&member.name) {
            in_use.instance = instance;
            in_use.again = self.retention().instance_changed(&member.name);
        }
    }

    fn lost(&self, name: &ParticipantName, found: Option<u64>) {
        let why = "this participant has lost history: it was restored, or a failover went back; nothing is \
                   prepared there any more, and nothing of it is rolled back";
        tracing::error!(participant = %name, found_mark = ?found, "{why}");
        if let Some(in_use) = self.used().get_mut(name) {
            in_use.is_lost = true;
        }
    }

    /// A batch is in the log.
    pub(super) fn decided(&self, batch: u64, decisions: Vec<Decision>) {
        self.retention().decided(batch, decisions);
    }

    /// A branch of it was committed, just now.
    pub(super) fn applied(&self, batch: u64, number: u64, participant: &ParticipantName) {
        let covering = self.used().get(participant).map_or(u64::MAX, |in_use| in_use.marks.covering());
        self.retention().applied(batch, number, participant, covering);
    }

    /// Batches that are not needed any more.
    pub(super) fn take_deletable(&self) -> Vec<u64> {
        let used = self.used();
        self.retention()
            .take_deletable(|name, mark| used.get(name).is_some_and(|in_use| in_use.marks.is_recorded(mark)))
    }

    /// Keeps how a transaction ended whose caller was told that it is not known.
    pub(super) async fn keep_outcome(&self, transaction: TransactionId, outcome: Outcome) -> Result<()> {
        self.session.keep_outcomes(self.fence, &[(transaction, outcome)]).await
    }

    /// How many batches are in the log.
    pub(super) fn batches(&self) -> usize {
        self.retention().len()
    }

    pub(super) async fn decide(&self, request: &Request) -> Answer {
        self.session.decide(self.fence, request).await
    }

    /// Its right to write.
    pub(super) fn fence(&self) -> Fence {
        self.fence
    }

    /// Has others take over from this coordinator, which has ended: it would count as living for as long as its
    /// session does, and what it left waited that long.
    pub(super) async fn let_go(&self) {
        let mut failures = 0;
        while !self.session.is_over() {
            match self.session.let_go(self.id).await {
                Ok(()) => return,
                Err(_) => failures += 1,
            }
            tokio::time::sleep(self.retry.wait(failures, 0.5)).await;
        }
    }

    /// Whether this coordinator decides nothing more.
    pub(super) fn is_over(&self) -> bool {
        self.is_ended.load(Ordering::SeqCst) || self.session.is_over()
    }

    pub(super) fn end(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> Result<()> {
        if self.is_over() {
            let why = "this coordinator has ended: another one takes its place";
            return Err(Error::new(ErrorKind::Fenced, OPERATION, why));
        }
        Ok(())
    }

    async fn write(&self, record: &mut Record, wanted: Record) -> Result<()> {
        let mut unclear = Unclear { retry: self.retry, failures: 0 };
        loop {
            self.check()?;
            match self.session.record(self.fence, &wanted).await {
                Ok(()) => {
                    *record = wanted;
                    return Ok(());
                }
                Err(error) if unclear.is_tried_again(&error).await => {}
                Err(error) => {
                    if error.kind() == ErrorKind::Fenced {
                        self.end();
                    }
                    return Err(error);
                }
            }
        }
    }

    fn used(&self) -> MutexGuard<'_, BTreeMap<ParticipantName, InUse>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retention(&self) -> MutexGuard<'_, Retention> {
        self.retention.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a row is there. Unless it becomes known, by an error or as its transaction has passed its deadline, this
/// coordinator ends: a second insert would not be told from a recoverer's.
struct Unknown<'a>(&'a Registration);

impl Unknown<'_> {
    fn becomes_known(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unknown<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The writes into the decision log whose answers were lost, one behind the other.
struct Unclear {
    retry: Backoff,
    failures: u32,
}

impl Unclear {
    /// Whether it is to be made again, by now.
    async fn is_tried_again(&mut self, error: &Error) -> bool {
        if error.kind() != ErrorKind::Unclear || self.failures == WRITE_TRIES {
            return false;
        }
        self.failures += 1;
        tokio::time::sleep(self.retry.wait(self.failures, 0.5)).await;
        true
    }
}

fn lost_history(name: &ParticipantName) -> Error {
    let why = "this participant has lost history that this coordinator knows of: it was restored, or a failover \
               went back. Nothing was prepared there: settle what it has by hand, and restart";
    Error::new(ErrorKind::Refused, OPERATION, why).with("participant", name)
}
