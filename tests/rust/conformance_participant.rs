//! What every participant owes to coordinators and to those who recover them. A backend passes by
//! calling [`suite`].

use async_trait::async_trait;
use onecommit::ErrorKind;
use onecommit::id::{CoordinatorId, Incarnation, TransactionId};
use onecommit::participant::{End, Ended, Instance, Marked, Participant};
use onecommit::protocol::branch::BranchName;
use onecommit::protocol::fate::Fate;
use onecommit::protocol::history::{CompareAndSet, Row};

use crate::patience::{answered, until};

/// A database that takes part, with whatever an application has in it.
#[async_trait]
pub trait Place: Send + Sync {
    /// As a coordinator has it.
    fn participant(&self) -> &dyn Participant;

    /// Prepares a branch that writes; returns its number.
    async fn prepare(&self, name: &BranchName) -> u64;

    /// Writes and ends without preparing anything; returns the transaction's number.
    async fn write(&self, commits: bool) -> u64;

    /// Whether what a branch has written is there.
    async fn has(&self, name: &BranchName) -> bool;

    /// Begins the server's next life.
    async fn begin_life(&self);

    /// Lets closed history rows be a day older.
    async fn age_histories(&self);
}

/// Runs every check, each with a place of its own.
pub async fn suite(fresh: impl AsyncFn() -> Box<dyn Place>) {
    branches_are_listed_and_ended(&*fresh().await).await;
    of_many_that_end_a_branch_one_does(&*fresh().await).await;
    every_number_has_its_fate(&*fresh().await).await;
    a_history_row_is_opened_once(&*fresh().await).await;
    a_mark_is_compared_and_set(&*fresh().await).await;
    a_closed_row_takes_no_mark(&*fresh().await).await;
    what_another_life_answers_is_told(&*fresh().await).await;
    closed_rows_are_forgotten_in_time(&*fresh().await).await;
    the_lock_floor_only_rises(&*fresh().await).await;
}

/// A coordinator's branch with that number.
pub fn branch(coordinator: CoordinatorId, number: u64) -> BranchName {
    BranchName {
        namespace: "shop".parse().unwrap(),
        incarnation: Incarnation::random(),
        transaction: TransactionId { coordinator, number },
        participant: "orders".parse().unwrap(),
        is_home: number % 2 == 1,
    }
}

/// The names of the branches that are listed, in order.
pub async fn listed(participant: &dyn Participant) -> Vec<String> {
    let (_, branches) = answered(async || participant.prepared().await).await;
    let mut names: Vec<String> = branches.iter().map(|branch| branch.name.to_string()).collect();
    names.sort_unstable();
    names
}

pub async fn fate(participant: &dyn Participant, xid: u64) -> Fate {
    answered(async || participant.fate(xid).await).await.1
}

pub async fn end(participant: &dyn Participant, name: &BranchName, end: End) -> Ended {
    answered(async || participant.end(name, None, end).await).await
}

async fn row(participant: &dyn Participant, coordinator: CoordinatorId) -> Option<Row> {
    answered(async || participant.history(coordinator).await).await.1
}

async fn branches_are_listed_and_ended(place: &dyn Place) {
    let participant = place.participant();
    let coordinator = CoordinatorId::random();
    let (first, second) = (branch(coordinator, 1), branch(coordinator, 2));
    assert!(listed(participant).await.is_empty());
    place.prepare(&first).await;
    place.prepare(&second).await;
    let (instance, _) = answered(async || participant.prepared().await).await;
    assert_eq!(instance, answered(async || participant.instance().await).await);
    let mut expected = [first.to_string(), second.to_string()];
    expected.sort_unstable();
    assert_eq!(listed(participant).await, expected);
    assert!(!place.has(&first).await);

    assert_eq!(end(participant, &first, End::Commit).await, Ended::Now);
    assert_eq!(listed(participant).await, [second.to_string()]);
    assert_eq!(end(participant, &second, End::RollBack).await, Ended::Now);
    assert!(listed(participant).await.is_empty());
    assert!(place.has(&first).await && !place.has(&second).await);
    for name in [&first, &second, &branch(coordinator, 3)] {
        for again in [End::Commit, End::RollBack] {
            assert_eq!(end(participant, name, again).await, Ended::NotThere);
        }
    }
}

async fn of_many_that_end_a_branch_one_does(place: &dyn Place) {
    let (participant, coordinator) = (place.participant(), CoordinatorId::random());
    for number in 0..20 {
        let name = branch(coordinator, number);
        place.prepare(&name).await;
        let end = || end(participant, &name, End::Commit);
        let (a, b, c, d) = tokio::join!(end(), end(), end(), end());
        let times = [a, b, c, d].iter().filter(|ended| **ended == Ended::Now).count();
        assert_eq!(times, 1, "{number}");
        assert!(place.has(&name).await);
    }
}

async fn every_number_has_its_fate(place: &dyn Place) {
    let (participant, coordinator) = (place.participant(), CoordinatorId::random());
    let (kept, undone) = (place.write(true).await, place.write(false).await);
    assert_eq!(fate(participant, kept).await, Fate::Committed);
    assert_eq!(fate(participant, undone).await, Fate::RolledBack);
    for (number, way, came) in [(1, End::Commit, Fate::Committed), (2, End::RollBack, Fate::RolledBack)] {
        let name = branch(coordinator, number);
        let xid = place.prepare(&name).await;
        assert_eq!(fate(participant, xid).await, Fate::InProgress);
        end(participant, &name, way).await;
        assert_eq!(fate(participant, xid).await, came);
    }
    for never in [0, kept + 1_000_000, u64::MAX] {
        let (instance, found) = answered(async || participant.fate(never).await).await;
        assert_eq!(found, Fate::Unknown, "{never}");
        assert_eq!(instance, answered(async || participant.instance().await).await);
    }
}

async fn a_history_row_is_opened_once(place: &dyn Place) {
    let (participant, coordinator) = (place.participant(), CoordinatorId::random());
    assert_eq!(row(participant, coordinator).await, None);
    participant.open_history(coordinator).await.unwrap();
    assert_eq!(row(participant, coordinator).await, Some(Row { mark: 0, is_closed: false }));
    let error = participant.open_history(coordinator).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    let (instance, _) = answered(async || participant.history(coordinator).await).await;
    assert_eq!(instance, answered(async || participant.instance().await).await);
    assert_eq!(row(participant, CoordinatorId::random()).await, None, "another one has its own");
}

async fn a_mark_is_compared_and_set(place: &dyn Place) {
    let (participant, coordinator) = (place.participant(), CoordinatorId::random());
    let instance = answered(async || participant.instance().await).await;
    let mark = async |expected, mark| {
        let write = CompareAndSet { expected, mark };
        answered(async || participant.mark(coordinator, write, &instance).await).await
    };
    assert_eq!(mark([0, 0], 1).await, Marked::Lost(None));
    assert_eq!(row(participant, coordinator).await, None, "nothing is made by it");
    participant.open_history(coordinator).await.unwrap();
    let other = CoordinatorId::random();
    participant.open_history(other).await.unwrap();

    assert_eq!(mark([0, 0], 1).await, Marked::Written);
    assert_eq!(mark([0, 0], 1).await, Marked::Written, "its answer was lost");
    assert_eq!(mark([0, 1], 3).await, Marked::Written, "one of two fits");
    assert_eq!(mark([3, 2], 5).await, Marked::Written, "either of them");
    let found = Row { mark: 5, is_closed: false };
    assert_eq!(mark([3, 4], 6).await, Marked::Lost(Some(found)));
    assert_eq!(row(participant, coordinator).await, Some(found), "nothing was written");
    assert_eq!(row(participant, other).await, Some(Row { mark: 0, is_closed: false }));

    let write = CompareAndSet { expected: [5, 5], mark: u64::MAX };
    let error = participant.mark(coordinator, write, &instance).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

async fn a_closed_row_takes_no_mark(place: &dyn Place) {
    let (participant, coordinator) = (place.participant(), CoordinatorId::random());
    let instance = answered(async || participant.instance().await).await;
    let write = |expected, mark| CompareAndSet { expected: [expected, expected], mark };
    participant.open_history(coordinator).await.unwrap();
    answered(async || participant.mark(coordinator, write(0, 4), &instance).await).await;
    for _ in 0..2 {
        assert!(answered(async || participant.close_history(coordinator, &instance).await).await);
    }
    let closed = Some(Row { mark: 4, is_closed: true });
    assert_eq!(row(participant, coordinator).await, closed, "it keeps its mark");
    for write in [write(4, 5), write(3, 4)] {
        let marked = answered(async || participant.mark(coordinator, write, &instance).await).await;
        assert_eq!(marked, Marked::Lost(closed));
    }

    let late = CoordinatorId::random();
    assert!(answered(async || participant.close_history(late, &instance).await).await);
    assert_eq!(row(participant, late).await, Some(Row { mark: 0, is_closed: true }));
    let error = participant.open_history(late).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
}

async fn what_another_life_answers_is_told(place: &dyn Place) {
    let (participant, coordinator) = (place.participant(), CoordinatorId::random());
    let name = branch(coordinator, 1);
    participant.open_history(coordinator).await.unwrap();
    let before = answered(async || participant.instance().await).await;
    place.prepare(&name).await;
    place.begin_life().await;

    let after =
        until("there is another life", async || participant.instance().await, |instance| *instance != before)
            .await;
    assert_eq!(after.database, before.database);
    assert_eq!(listed(participant).await, [name.to_string()], "what was prepared stays");
    let write = CompareAndSet { expected: [0, 0], mark: 1 };
    let mark = async |instance: &Instance| {
        answered(async || participant.mark(coordinator, write, instance).await).await
    };
    let close = async |instance: &Instance| {
        answered(async || participant.close_history(coordinator, instance).await).await
    };
    let elsewhere = |change: fn(&mut Instance)| {
        let mut instance = after.clone();
        change(&mut instance);
        instance
    };
    for other in [
        before,
        elsewhere(|other| other.database.system.push('0')),
        elsewhere(|other| other.database.database.push('0')),
        elsewhere(|other| other.database.timeline = Some("000000FF".to_string())),
        elsewhere(|other| other.started.push('0')),
    ] {
        assert_eq!(mark(&other).await, Marked::OtherInstance(after.clone()));
        assert!(!close(&other).await);
    }
    assert_eq!(row(participant, coordinator).await, Some(Row { mark: 0, is_closed: false }));
    assert_eq!(mark(&after).await, Marked::Written);
    assert!(close(&after).await);
    end(participant, &name, End::RollBack).await;
}

async fn closed_rows_are_forgotten_in_time(place: &dyn Place) {
    let participant = place.participant();
    let instance = answered(async || participant.instance().await).await;
    let [open, old, young] = [(); 3].map(|()| CoordinatorId::random());
    for coordinator in [open, old, young] {
        participant.open_history(coordinator).await.unwrap();
    }
    assert!(answered(async || participant.close_history(old, &instance).await).await);
    place.age_histories().await;
    assert!(answered(async || participant.close_history(old, &instance).await).await, "keeps its time");
    place.age_histories().await;
    assert!(answered(async || participant.close_history(young, &instance).await).await);
    let forget = async |days| participant.forget_histories(days).await.unwrap();
    assert_eq!((forget(3).await, forget(u32::MAX).await), (0, 0));
    assert_eq!(forget(1).await, 1);
    assert_eq!(row(participant, old).await, None);
    assert!(row(participant, young).await.is_some() && row(participant, open).await.is_some());
}

async fn the_lock_floor_only_rises(place: &dyn Place) {
    let participant = place.participant();
    let floor = async || answered(async || participant.lock_floor().await).await;
    assert_eq!(floor().await, 0);
    for (raised, expected) in [(7, 7), (3, 7), (7, 7), (i64::MAX, i64::MAX)] {
        answered(async || participant.raise_lock_floor(raised).await).await;
        assert_eq!(floor().await, expected);
    }
    place.age_histories().await;
    answered(async || participant.forget_histories(0).await).await;
    assert_eq!(floor().await, i64::MAX, "it is no coordinator's history");
}
