//! What every decision log owes to coordinators, and to those who recover them. A backend passes by
//! calling [`suite`].

use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::future::join_all;
use onecommit::ErrorKind;
use onecommit::decision_log::{DecisionLog, Fence, Legacy, LogSession, Registered};
use onecommit::id::{CoordinatorId, TransactionId};
use onecommit::protocol::batch::{Answer, Entry, Request};
use onecommit::protocol::decision::{DecidedBranch, Decision, Outcome, Record, Used};
use onecommit::protocol::history::Marks;
use onecommit::protocol::progress::DatabaseIdentity;

use crate::patience::{self, LIMIT, answered};

type Session = Box<dyn LogSession>;

/// Runs every check, each with a log of its own.
pub async fn suite(fresh: impl AsyncFn() -> Box<dyn DecisionLog>) {
    a_record_is_there_from_its_registration_on(&*fresh().await).await;
    a_batch_is_decided_once(&*fresh().await).await;
    batches_are_deleted_with_the_request_or_not_at_all(&*fresh().await).await;
    nothing_is_written_behind_a_fence(&*fresh().await).await;
    the_living_are_left_alone(&*fresh().await).await;
    all_that_a_dead_coordinator_left_is_read(&*fresh().await).await;
    one_recoverer_at_a_time(&*fresh().await).await;
    an_orphan_has_one_recoverer_and_no_owner(&*fresh().await).await;
    a_coordinator_is_removed_with_all_it_has_or_not_at_all(&*fresh().await).await;
    who_looks_at_one_that_is_removed_finds_all_of_it_or_nothing(&*fresh().await).await;
    outcomes_are_kept_and_the_earliest_forgotten(&*fresh().await).await;
}

async fn a_record_is_there_from_its_registration_on(log: &dyn DecisionLog) {
    let (session, other) = (open(log).await, open(log).await);
    let id = CoordinatorId::random();
    assert_eq!(session.look(id).await.unwrap(), None);
    assert_eq!(session.coordinators().await.unwrap(), []);
    let fence = session.register(id, &record(1)).await.unwrap();
    assert_eq!(fence.coordinator, id);
    let looked = other.look(id).await.unwrap();
    assert_eq!(looked, Some((record(1), BTreeMap::new())));
    assert_eq!(other.coordinators().await.unwrap(), [Registered { coordinator: id, is_live: true }]);

    for _ in 0..2 {
        session.record(fence, &record(2)).await.unwrap();
        assert_eq!(other.look(id).await.unwrap().unwrap().0, record(2));
    }
    assert_eq!(session.register(id, &record(3)).await.unwrap(), fence, "its answer was lost");
    assert_eq!(other.look(id).await.unwrap().unwrap().0, record(3));
    assert_eq!(other.register(id, &record(4)).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(other.look(id).await.unwrap().unwrap().0, record(3));
    assert!(!session.is_over() && !other.is_over());
}

async fn a_batch_is_decided_once(log: &dyn DecisionLog) {
    let session = open(log).await;
    let (id, fence) = registered(&session).await;
    assert_eq!(decide(&session, fence, &request(0, &[1, 2], &[])).await, Answer::Done);
    assert_eq!(decide(&session, fence, &request(0, &[1, 2], &[])).await, Answer::Exists);
    assert_eq!(decide(&session, fence, &request(0, &[3], &[])).await, Answer::Exists);
    let (other_id, other_fence) = registered(&session).await;
    assert_eq!(decide(&session, other_fence, &request(0, &[9], &[])).await, Answer::Done);
    let last = u64::MAX;
    assert_eq!(decide(&session, fence, &request(last, &[4], &[])).await, Answer::Done);
    assert_eq!(batches(&session, id).await, BTreeMap::from([decided(0, &[1, 2]), decided(last, &[4])]));
    assert_eq!(batches(&session, other_id).await, BTreeMap::from([decided(0, &[9])]));
}

async fn batches_are_deleted_with_the_request_or_not_at_all(log: &dyn DecisionLog) {
    let session = open(log).await;
    let (id, fence) = registered(&session).await;
    for batch in 0..4 {
        decide(&session, fence, &request(batch, &[batch], &[])).await;
    }
    assert_eq!(decide(&session, fence, &request(4, &[4], &[0])).await, Answer::Done);
    assert_eq!(decide(&session, fence, &request(5, &[5], &[1, 0, 2])).await, Answer::Missing(0));
    assert_eq!(decide(&session, fence, &request(5, &[], &[3, 9])).await, Answer::Missing(9));
    let left: BTreeMap<_, _> = (1..5).map(|batch| decided(batch, &[batch])).collect();
    assert_eq!(batches(&session, id).await, left, "nothing was done");
    assert_eq!(decide(&session, fence, &request(4, &[4], &[1])).await, Answer::Exists);
    assert_eq!(batches(&session, id).await, left, "nor when it exists");
    assert_eq!(decide(&session, fence, &request(5, &[], &[1, 2, 4])).await, Answer::Done);
    assert_eq!(batches(&session, id).await, BTreeMap::from([decided(3, &[3])]));
    assert_eq!(decide(&session, fence, &request(5, &[], &[])).await, Answer::Done);
}

async fn nothing_is_written_behind_a_fence(log: &dyn DecisionLog) {
    let session = open(log).await;
    let (id, fence) = registered(&session).await;
    let transaction = TransactionId { coordinator: id, number: 1 };
    decide(&session, fence, &request(0, &[1], &[])).await;
    let never = Fence { coordinator: CoordinatorId::random(), number: fence.number };
    for wrong in [Fence { number: fence.number + 1, ..fence }, never] {
        assert_eq!(decide(&session, wrong, &request(1, &[2], &[])).await, Answer::Fenced);
        assert_eq!(decide(&session, wrong, &request(1, &[], &[0])).await, Answer::Fenced);
        assert_eq!(decide(&session, wrong, &request(1, &[], &[])).await, Answer::Fenced);
        let written = session.record(wrong, &record(2)).await;
        assert_eq!(written.unwrap_err().kind(), ErrorKind::Fenced);
        let kept = session.keep_outcomes(wrong, &[(transaction, Outcome::Committed)]).await;
        assert_eq!(kept.unwrap_err().kind(), ErrorKind::Fenced);
    }
    assert_eq!(session.look(id).await.unwrap(), Some((record(1), BTreeMap::from([decided(0, &[1])]))));
    assert_eq!(session.outcome(transaction).await.unwrap(), None);
}

async fn the_living_are_left_alone(log: &dyn DecisionLog) {
    let (session, other) = (open(log).await, open(log).await);
    let (id, fence) = registered(&session).await;
    for session in [&session, &other] {
        assert_eq!(session.take_over(id).await.unwrap(), None);
        assert_eq!(session.take_over(CoordinatorId::random()).await.unwrap(), None);
        assert_eq!(session.adopt_orphan(id, &orphan()).await.unwrap(), None);
    }
    other.let_go(id).await.unwrap();
    assert_eq!(other.take_over(id).await.unwrap(), None, "it was not the other's to let go");
    assert!(!other.is_taken_over(id).await.unwrap());
    assert_eq!(decide(&session, fence, &request(0, &[1], &[])).await, Answer::Done);
    assert_eq!(session.look(id).await.unwrap().unwrap().0, record(1));
}

async fn all_that_a_dead_coordinator_left_is_read(log: &dyn DecisionLog) {
    const BATCHES: u64 = 70;
    let (owner, recoverer) = (open(log).await, open(log).await);
    let (id, fence) = registered(&owner).await;
    let (living, _) = registered(&recoverer).await;
    for batch in 0..BATCHES {
        assert_eq!(decide(&owner, fence, &request(batch, &[batch, batch + 1000], &[])).await, Answer::Done);
    }
    decide(&owner, fence, &request(BATCHES, &[], &[7, 8])).await;
    owner.record(fence, &record(5)).await.unwrap();
    drop(owner);
    let mut known = [(id, false), (living, true)];
    known.sort();
    let known = known.map(|(coordinator, is_live)| Registered { coordinator, is_live });
    patience::until("it is dead", async || recoverer.coordinators().await, |found| *found == known).await;

    let legacy = taken(&recoverer, id).await;
    assert!(legacy.fence.coordinator == id && legacy.fence.number > fence.number, "{:?}", legacy.fence);
    assert_eq!(legacy.record, record(5));
    let left = (0..BATCHES).filter(|batch| ![7, 8].contains(batch));
    assert_eq!(legacy.batches, left.map(|batch| decided(batch, &[batch, batch + 1000])).collect());
    let is_live = |found: &Registered| found.is_live;
    assert!(recoverer.coordinators().await.unwrap().iter().all(is_live), "somebody recovers it");

    assert_eq!(decide(&recoverer, fence, &request(BATCHES, &[1], &[])).await, Answer::Fenced);
    assert_eq!(recoverer.record(fence, &record(6)).await.unwrap_err().kind(), ErrorKind::Fenced);
    recoverer.record(legacy.fence, &record(7)).await.unwrap();
    let again = recoverer.take_over(id).await.unwrap().expect("its answer was lost");
    assert!(again.fence.number >= legacy.fence.number);
    assert_eq!((again.record, again.batches), (record(7), legacy.batches));
    assert_eq!(recoverer.register(id, &record(8)).await.unwrap_err().kind(), ErrorKind::Fenced);
}

async fn one_recoverer_at_a_time(log: &dyn DecisionLog) {
    let owner = open(log).await;
    let (id, fence) = registered(&owner).await;
    decide(&owner, fence, &request(0, &[1], &[])).await;
    let (one, two) = (open(log).await, open(log).await);
    drop(owner);
    let both = async || Ok(tokio::try_join!(one.take_over(id), two.take_over(id))?);
    let winner = |found: &(Option<Legacy>, Option<Legacy>)| found.0.is_some() || found.1.is_some();
    let (first, second) = patience::until("one of both takes over", both, winner).await;
    assert!(first.is_none() || second.is_none(), "{first:?} {second:?}");
    let (winner, loser) = if first.is_some() { (&one, &two) } else { (&two, &one) };
    let won = first.or(second).unwrap();
    assert_eq!(loser.take_over(id).await.unwrap(), None);
    loser.let_go(id).await.unwrap();
    assert_eq!(loser.take_over(id).await.unwrap(), None);
    assert!(loser.is_taken_over(id).await.unwrap());

    for _ in 0..2 {
        winner.let_go(id).await.unwrap();
    }
    let next = taken(loser, id).await;
    assert!(next.fence.number > won.fence.number);
    assert_eq!((&next.record, &next.batches), (&won.record, &won.batches), "as it stands");
    assert_eq!(winner.record(won.fence, &record(2)).await.unwrap_err().kind(), ErrorKind::Fenced);
}

async fn an_orphan_has_one_recoverer_and_no_owner(log: &dyn DecisionLog) {
    let (one, two) = (open(log).await, open(log).await);
    let id = CoordinatorId::random();
    let (_, owners) = registered(&two).await;
    let fence = one.adopt_orphan(id, &orphan()).await.unwrap().expect("there is no record");
    assert!(fence.coordinator == id && fence.number > owners.number, "{fence:?}");
    assert_eq!(one.adopt_orphan(id, &orphan()).await.unwrap(), Some(fence), "its answer was lost");
    assert_eq!(two.adopt_orphan(id, &orphan()).await.unwrap(), None);
    assert_eq!(two.take_over(id).await.unwrap(), None);
    assert_eq!(two.look(id).await.unwrap(), Some((orphan(), BTreeMap::new())));
    let owner = Fence { coordinator: id, number: owners.number };
    assert_eq!(decide(&two, owner, &request(0, &[1], &[])).await, Answer::Fenced);

    one.let_go(id).await.unwrap();
    assert_eq!(two.adopt_orphan(id, &orphan()).await.unwrap(), None, "there is a record");
    let legacy = taken(&two, id).await;
    assert!(legacy.fence.number > fence.number && legacy.batches.is_empty());
    assert_eq!(legacy.record, orphan());
    assert_eq!(one.remove(fence, &[], &[]).await.unwrap_err().kind(), ErrorKind::Fenced);
    two.remove(legacy.fence, &[], &[]).await.unwrap();
    assert_eq!(two.look(id).await.unwrap(), None);
    assert!(one.adopt_orphan(id, &orphan()).await.unwrap().is_some(), "another branch of it came late");
}

async fn a_coordinator_is_removed_with_all_it_has_or_not_at_all(log: &dyn DecisionLog) {
    let owner = open(log).await;
    let (id, old) = registered(&owner).await;
    let (_, others) = registered(&owner).await;
    for (fence, batch) in [(old, 0), (old, 1), (others, 0)] {
        decide(&owner, fence, &request(batch, &[batch], &[])).await;
    }
    owner.let_go(id).await.unwrap();
    let recoverer = open(log).await;
    let fence = taken(&recoverer, id).await.fence;
    let outcomes = [0, 1].map(|number| (TransactionId { coordinator: id, number }, Outcome::Committed));

    let fenced = owner.remove(old, &[0, 1], &outcomes).await.unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Fenced, "{fenced}");
    let unnamed = recoverer.remove(fence, &[0], &outcomes).await.unwrap_err();
    assert_eq!(unnamed.kind(), ErrorKind::Failed, "{unnamed}");
    assert!(unnamed.context().contains(&("batch", "1".to_string())), "{unnamed}");
    assert_eq!(batches(&recoverer, id).await, BTreeMap::from([decided(0, &[0]), decided(1, &[1])]));
    assert_eq!(recoverer.outcome(outcomes[0].0).await.unwrap(), None);

    recoverer.keep_outcomes(fence, &outcomes[..1]).await.unwrap();
    for _ in 0..2 {
        recoverer.remove(fence, &[0, 1, 2], &outcomes).await.unwrap();
    }
    assert_eq!(recoverer.look(id).await.unwrap(), None);
    let left: Vec<_> = recoverer.coordinators().await.unwrap();
    assert_eq!(left, [Registered { coordinator: others.coordinator, is_live: true }]);
    for (transaction, outcome) in outcomes {
        assert_eq!(owner.outcome(transaction).await.unwrap(), Some(outcome));
    }
    assert_eq!(decide(&recoverer, fence, &request(3, &[3], &[])).await, Answer::Fenced);
    assert_eq!(recoverer.take_over(id).await.unwrap(), None);
    assert_eq!(batches(&owner, others.coordinator).await, BTreeMap::from([decided(0, &[0])]));
    owner.remove(others, &[0], &[]).await.unwrap();
    assert_eq!(owner.coordinators().await.unwrap(), [], "an owner that ends in order");
}

/// Whoever finds less would take it for damaged, or what was decided for undecided.
async fn who_looks_at_one_that_is_removed_finds_all_of_it_or_nothing(log: &dyn DecisionLog) {
    // So that some look in the middle of it.
    const REMOVED: usize = 200;
    const LOOKING: usize = 16;
    let (owner, other) = (open(log).await, open(log).await);
    for _ in 0..REMOVED {
        let (id, fence) = registered(&owner).await;
        decide(&owner, fence, &request(0, &[0], &[])).await;
        let whole = (record(1), BTreeMap::from([decided(0, &[0])]));
        let looks = (0..LOOKING).map(async |_| {
            while let Some(found) = other.look(id).await.unwrap() {
                assert_eq!(found, whole);
            }
        });
        let removed = async { owner.remove(fence, &[0], &[]).await.unwrap() };
        tokio::join!(join_all(looks), removed);
    }
}

async fn outcomes_are_kept_and_the_earliest_forgotten(log: &dyn DecisionLog) {
    const MANY: u64 = 6000;
    let session = open(log).await;
    let (coordinator, fence) = registered(&session).await;
    let outcome = |number: u64| [Outcome::Committed, Outcome::RolledBack][(number % 2) as usize];
    let some = |numbers: std::ops::Range<u64>| -> Vec<_> {
        numbers.map(|number| (TransactionId { coordinator, number }, outcome(number))).collect()
    };
    let found = async |number| session.outcome(TransactionId { coordinator, number }).await.unwrap();
    session.keep_outcomes(fence, &[]).await.unwrap();
    session.keep_outcomes(fence, &some(10..12)).await.unwrap();
    for _ in 0..2 {
        session.keep_outcomes(fence, &some(10..MANY)).await.unwrap();
    }
    session.keep_outcomes(fence, &some(MANY..MANY + 2)).await.unwrap();
    for number in [10, 11, 12, 5009, 5010, MANY - 1, MANY, MANY + 1] {
        assert_eq!(found(number).await, Some(outcome(number)), "{number}");
    }
    assert_eq!((found(9).await, found(MANY + 2).await), (None, None));
    let stranger = TransactionId { coordinator: CoordinatorId::random(), number: 10 };
    assert_eq!(session.outcome(stranger).await.unwrap(), None);

    assert_eq!(session.forget_outcomes(7, usize::MAX).await.unwrap(), 0);
    assert_eq!(session.forget_outcomes(7, 5).await.unwrap(), MANY + 2 - 10 - 5);
    let first_kept = MANY - 3;
    assert_eq!(found(first_kept - 1).await, None);
    for number in first_kept..MANY + 2 {
        assert_eq!(found(number).await, Some(outcome(number)), "{number}");
    }
    assert_eq!(session.forget_outcomes(0, usize::MAX).await.unwrap(), 5);
    assert_eq!(found(MANY + 1).await, None);
}

async fn open(log: &dyn DecisionLog) -> Session {
    answered(async || log.open().await).await
}

async fn registered(session: &Session) -> (CoordinatorId, Fence) {
    let id = CoordinatorId::random();
    (id, session.register(id, &record(1)).await.unwrap())
}

/// Asks again while no answer comes.
pub async fn decide(session: &Session, fence: Fence, request: &Request) -> Answer {
    let (began, mut is_doubtful) = (Instant::now(), false);
    loop {
        match session.decide(fence, request).await {
            Answer::Lost => is_doubtful = true,
            Answer::Exists if is_doubtful => return Answer::Done,
            answer => return answer,
        }
        assert!(began.elapsed() < LIMIT, "no answer to {request:?}");
        // Of a session that is over the answer comes at once, and nobody else's turn would come.
        tokio::task::yield_now().await;
    }
}

/// Takes over from one who has died just now.
pub async fn taken(session: &Session, id: CoordinatorId) -> Legacy {
    let taken = patience::until("it is taken over", async || session.take_over(id).await, Option::is_some);
    taken.await.unwrap()
}

async fn batches(session: &Session, id: CoordinatorId) -> BTreeMap<u64, Vec<Decision>> {
    session.look(id).await.unwrap().expect("it has a record").1
}

/// A record that differs from those of other marks.
pub fn record(mark: u64) -> Record {
    let database = DatabaseIdentity { system: "7".into(), database: "5".into(), timeline: Some("1".into()) };
    let marks = Marks { announced: mark + 1, acknowledged: mark };
    let used = Used { database, marks, is_settled: false };
    let participants = BTreeMap::from([("orders".parse().unwrap(), used)]);
    Record { host: "here".into(), pid: 7, is_orphan: false, participants }
}

fn orphan() -> Record {
    Record { is_orphan: true, ..record(0) }
}

/// A request to decide these transactions.
pub fn request(batch: u64, numbers: &[u64], delete: &[u64]) -> Request {
    let entry = |number: &u64| Entry { number: *number, bytes: decision(*number).encode() };
    Request { batch, entries: numbers.iter().map(entry).collect(), delete: delete.to_vec() }
}

fn decided(batch: u64, numbers: &[u64]) -> (u64, Vec<Decision>) {
    (batch, numbers.iter().copied().map(decision).collect())
}

fn decision(number: u64) -> Decision {
    let participant = "orders".parse().unwrap();
    let branch =
        DecidedBranch { participant, xid: number, timeline: "00000001".into(), lsn: 9, is_home: true };
    Decision { number, branches: vec![branch] }
}
