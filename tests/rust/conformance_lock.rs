//! What every store of locks owes to those who lock. A backend passes by calling [`suite`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use onecommit::ErrorKind;
use onecommit::decision_log::{DecisionLog, Fence, LogSession};
use onecommit::error::Result;
use onecommit::id::{CoordinatorId, HolderId, TransactionId};
use onecommit::lock::{Entrant, LockSession, LockStore, acquire};
use onecommit::protocol::decision::Record;
use onecommit::protocol::lock::{Entry, Purpose, Queue};
use onecommit::protocol::retry::Backoff;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::conformance_decision_log::taken;
use crate::patience::{LIMIT, answered, until};

/// That nobody is let in can't be waited for: nobody may be within this.
const MOMENT: Duration = Duration::from_millis(200);
const RETRY: Backoff = Backoff { first: Duration::from_millis(10), limit: Duration::from_millis(200) };

/// The locks of an installation of their own, and its decision log.
pub struct Stores {
    pub locks: Box<dyn LockStore>,
    pub log: Box<dyn DecisionLog>,
}

pub type Session = Arc<dyn LockSession>;

/// Runs every check, each with stores of its own.
pub async fn suite(fresh: impl AsyncFn() -> Stores) {
    who_comes_first_is_served_first(&fresh().await).await;
    who_enters_again_keeps_the_place(&fresh().await).await;
    numbers_grow_over_an_empty_queue(&fresh().await).await;
    the_position_is_above_all_numbers(&fresh().await).await;
    queues_have_nothing_to_do_with_each_other(&fresh().await).await;
    a_holders_entry_ends_with_its_session(&fresh().await).await;
    a_transactions_entry_stays_until_its_coordinators_record_is_gone(&fresh().await).await;
    who_is_fenced_enters_no_queue(&fresh().await).await;
    a_wait_ends_at_its_limit(&fresh().await).await;
    a_deadlock_is_told_to_one(&fresh().await, 2).await;
    a_deadlock_is_told_to_one(&fresh().await, 3).await;
    what_settled_coordinators_left_is_discarded(&fresh().await).await;
}

async fn who_comes_first_is_served_first(stores: &Stores) {
    let queue = lock("account/42");
    let sessions = [open(stores).await, open(stores).await];
    let (_log, fence) = registered(stores).await;
    let mut entrants = Vec::new();
    for number in 0..6 {
        // Of both kinds, in the same queue.
        let entrant = if number % 3 == 0 { transaction(fence, number) } else { holder() };
        entrants.push((Arc::clone(&sessions[number as usize % 2]), entrant));
    }
    let mut waiting = Vec::new();
    for (place, (session, entrant)) in entrants.iter().enumerate() {
        waiting.push(begin(session, &queue, *entrant));
        until("it is in the queue", async || session.entries(&queue).await, |all| all.len() == place + 1)
            .await;
    }
    let mut last = i64::MIN;
    for (session, entrant) in &entrants {
        let number = waiting.remove(0).await.unwrap().unwrap();
        assert!(number > last, "{number} behind {last}");
        last = number;
        tokio::time::sleep(MOMENT).await;
        assert!(waiting.iter().all(|others| !others.is_finished()), "two hold it");
        answered(async || session.leave(&queue, entrant.owner()).await).await;
    }
    assert_eq!(sessions[0].entries(&queue).await.unwrap(), []);
}

async fn who_enters_again_keeps_the_place(stores: &Stores) {
    let (session, queue) = (open(stores).await, lock("a"));
    let (_log, fence) = registered(stores).await;
    let entrants = [transaction(fence, 1), holder()];
    for entrant in entrants {
        answered(async || session.enter(&queue, &entrant).await).await;
    }
    let before = session.entries(&queue).await.unwrap();
    for entrant in entrants {
        answered(async || session.enter(&queue, &entrant).await).await;
    }
    assert_eq!(session.entries(&queue).await.unwrap().len(), 2);
    for entry in before {
        assert!(session.entries(&queue).await.unwrap().contains(&entry), "{entry:?}");
        for _ in 0..2 {
            answered(async || session.leave(&queue, entry.owner).await).await;
        }
    }
}

async fn numbers_grow_over_an_empty_queue(stores: &Stores) {
    let (session, queue) = (open(stores).await, lock("a"));
    let mut last = i64::MIN;
    for _ in 0..5 {
        let entrant = holder();
        let number = held(&session, &queue, entrant).await;
        assert!(number > last, "{number} behind {last}");
        last = number;
        answered(async || session.leave(&queue, entrant.owner()).await).await;
        assert_eq!(session.entries(&queue).await.unwrap(), []);
    }
}

async fn the_position_is_above_all_numbers(stores: &Stores) {
    let (session, other) = (open(stores).await, open(stores).await);
    let mut last = session.position().await.unwrap();
    for name in ["a", "b", "a"] {
        let entrant = holder();
        let number = held(&session, &lock(name), entrant).await;
        answered(async || session.leave(&lock(name), entrant.owner()).await).await;
        let position = other.position().await.unwrap();
        assert!(number > last && position >= number, "{last} {number} {position}");
        last = position;
    }
}

async fn queues_have_nothing_to_do_with_each_other(stores: &Stores) {
    let session = open(stores).await;
    let long = "x".repeat(200);
    let names = ["a", "A", "a/b", "a%2Fb", ".", "..", "/", " ", "ä", "\u{1}\n\0", "zookeeper", long.as_str()];
    for name in names {
        for purpose in [Purpose::Lock, Purpose::Leader] {
            let queue = Queue { purpose, name: name.parse().unwrap() };
            held(&session, &queue, holder()).await;
        }
    }
}

async fn a_holders_entry_ends_with_its_session(stores: &Stores) {
    let (session, other, queue) = (open(stores).await, open(stores).await, lock("a"));
    let first = held(&session, &queue, holder()).await;
    let waiting = begin(&other, &queue, holder());
    until("both are there", async || other.entries(&queue).await, |all| all.len() == 2).await;
    drop(session);
    assert!(waiting.await.unwrap().unwrap() > first);
}

async fn a_transactions_entry_stays_until_its_coordinators_record_is_gone(stores: &Stores) {
    let (session, other, queue) = (open(stores).await, open(stores).await, lock("a"));
    let (owner, fence) = registered(stores).await;
    let first = held(&session, &queue, transaction(fence, 1)).await;
    let waiting = begin(&other, &queue, holder());
    until("both are there", async || other.entries(&queue).await, |all| all.len() == 2).await;
    drop(session);
    owner.let_go(fence.coordinator).await.unwrap();
    let recoverer = answered(async || stores.log.open().await).await;
    let legacy = taken(&recoverer, fence.coordinator).await;
    recoverer.record(legacy.fence, &record()).await.unwrap();
    tokio::time::sleep(MOMENT).await;
    assert!(!waiting.is_finished(), "it was released before everything was settled");
    answered(async || recoverer.remove(legacy.fence, &[], &[]).await).await;
    assert!(waiting.await.unwrap().unwrap() > first);
}

async fn who_is_fenced_enters_no_queue(stores: &Stores) {
    let (session, queue) = (open(stores).await, lock("a"));
    let (owner, fence) = registered(stores).await;
    held(&session, &lock("before"), transaction(fence, 1)).await;
    let never = Fence { coordinator: CoordinatorId::random(), ..fence };
    owner.let_go(fence.coordinator).await.unwrap();
    let recoverer = answered(async || stores.log.open().await).await;
    taken(&recoverer, fence.coordinator).await;
    for fenced in [never, fence] {
        let entrant = transaction(fenced, 2);
        let refused = acquire(&*session, &queue, entrant, Instant::now() + LIMIT, RETRY).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
        assert_eq!(session.entries(&queue).await.unwrap(), []);
    }
}

async fn a_wait_ends_at_its_limit(stores: &Stores) {
    let (session, queue) = (open(stores).await, lock("a"));
    let (_log, fence) = registered(stores).await;
    let first = holder();
    held(&session, &queue, first).await;
    for entrant in [holder(), transaction(fence, 1)] {
        let limit = Instant::now() + Duration::from_millis(100);
        let late = acquire(&*session, &queue, entrant, limit, RETRY).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Conflict, "{late}");
        let is_alone = |all: &Vec<Entry>| all.len() == 1 && all[0].owner == first.owner();
        until("it has left", async || session.entries(&queue).await, is_alone).await;
    }
}

/// Each holds its own lock and asks for the next one's; it is told to one, and the others go on as soon as that
/// one has given up what it holds.
async fn a_deadlock_is_told_to_one(stores: &Stores, size: usize) {
    let names: Vec<Queue> = (0..size).map(|number| lock(&format!("account/{number}"))).collect();
    let (_log, fence) = registered(stores).await;
    let mut sessions = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let session = open(stores).await;
        held(&session, name, transaction(fence, number as u64)).await;
        sessions.push(session);
    }
    let mut waiting: BTreeMap<usize, _> = BTreeMap::new();
    for number in 0..size {
        let next = &names[(number + 1) % size];
        waiting.insert(number, begin(&sessions[number], next, transaction(fence, number as u64)));
    }
    let one_ended = async || Ok(waiting.values().filter(|wait| wait.is_finished()).count());
    until("one is told", one_ended, |ended| *ended > 0).await;
    let told = *waiting.iter().find(|(_, wait)| wait.is_finished()).unwrap().0;
    let error = waiting.remove(&told).unwrap().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("a deadlock"), "{error}");
    let owner = |number: usize| transaction(fence, number as u64).owner();
    answered(async || sessions[told].leave(&names[told], owner(told)).await).await;
    // Backwards around the circle: each one's lock is what the one before it waits for.
    for step in 1..size {
        let number = (told + size - step) % size;
        waiting.remove(&number).unwrap().await.unwrap().unwrap();
        for name in [&names[number], &names[(number + 1) % size]] {
            answered(async || sessions[number].leave(name, owner(number)).await).await;
        }
        answered(async || sessions[number].end_waits(transaction_id(fence, number as u64)).await).await;
    }
}

async fn what_settled_coordinators_left_is_discarded(stores: &Stores) {
    let session = open(stores).await;
    let (log, dead) = registered(stores).await;
    let (_log, living) = registered(stores).await;
    for (fence, name) in [(dead, "a"), (dead, "b"), (living, "c")] {
        held(&session, &lock(name), transaction(fence, 1)).await;
    }
    assert_eq!(session.discard_leftovers().await.unwrap(), 0);
    answered(async || log.remove(dead, &[], &[]).await).await;
    assert_eq!(session.discard_leftovers().await.unwrap(), 2);
    assert_eq!(session.discard_leftovers().await.unwrap(), 0);
    assert_eq!(session.entries(&lock("a")).await.unwrap(), []);
    assert_eq!(session.entries(&lock("c")).await.unwrap().len(), 1);
}

pub fn lock(name: &str) -> Queue {
    Queue { purpose: Purpose::Lock, name: name.parse().unwrap() }
}

pub fn holder() -> Entrant {
    Entrant::Holder(HolderId::random())
}

fn transaction_id(fence: Fence, number: u64) -> TransactionId {
    TransactionId { coordinator: fence.coordinator, number }
}

fn transaction(fence: Fence, number: u64) -> Entrant {
    Entrant::Transaction(transaction_id(fence, number), fence)
}

/// A session, as soon as the store answers.
pub async fn open(stores: &Stores) -> Session {
    Arc::from(answered(async || stores.locks.open().await).await)
}

/// A coordinator that lives in the session that is returned.
async fn registered(stores: &Stores) -> (Box<dyn LogSession>, Fence) {
    let session = answered(async || stores.log.open().await).await;
    let id = CoordinatorId::random();
    let fence = answered(async || session.register(id, &record()).await).await;
    (session, fence)
}

fn record() -> Record {
    Record { host: "here".into(), pid: 7, is_orphan: false, participants: BTreeMap::new() }
}

/// Begins to ask for a lock.
pub fn begin(session: &Session, queue: &Queue, entrant: Entrant) -> JoinHandle<Result<i64>> {
    let (session, queue) = (Arc::clone(session), queue.clone());
    tokio::spawn(async move { acquire(&*session, &queue, entrant, Instant::now() + LIMIT, RETRY).await })
}

/// Takes a lock that is free; returns its number.
pub async fn held(session: &Session, queue: &Queue, entrant: Entrant) -> i64 {
    let number = begin(session, queue, entrant).await.unwrap().unwrap();
    let entries = session.entries(queue).await.unwrap();
    assert!(entries.contains(&Entry { number, owner: entrant.owner() }), "{entries:?}");
    number
}
