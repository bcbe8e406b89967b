//! What a person sees and has done about transactions of the dead, and that it tears nothing.

use std::collections::BTreeMap;

use onecommit::coordinator::{Caretaker, CoordinatorState, Node, Options, Prospect};
use onecommit::id::{CoordinatorId, Incarnation, ParticipantName, TransactionId};
use onecommit::protocol::decision::Outcome;
use onecommit::{Error, ErrorKind};
use tokio::runtime::Runtime;

use super::recovery::{Died, close_behind, die, drive_to, prepare_orphan};
use super::{Log, NAMES, Place, begin, connect, drive, move_money, names, settings, text};
use crate::patience::until;

const ORDERS: &str = "orders";
const BILLING: &str = "billing";

/// With these participants in its configuration.
async fn caretaker(place: &Place, configured: &[&str]) -> Caretaker {
    caretaker_without(place, configured, BTreeMap::new()).await
}

async fn caretaker_without(
    place: &Place,
    configured: &[&str],
    away: BTreeMap<ParticipantName, Error>,
) -> Caretaker {
    let mut members = place.members();
    members.retain(|member| configured.contains(&member.name.as_str()));
    let (namespace, incarnation) = (place.namespace.clone(), place.incarnation);
    let opened = Caretaker::open(namespace, incarnation, members, away, place.decision_log(), settings());
    opened.await.unwrap()
}

fn name(name: &str) -> ParticipantName {
    name.parse().unwrap()
}

/// One that dies, and whose death is noticed.
fn dead(log: Log, died: Died) -> (Runtime, Place, TransactionId) {
    let runtime = Runtime::new().unwrap();
    let place = runtime.block_on(Place::new(log));
    let id = die(&place, died);
    runtime.block_on(async {
        let session = place.session().await;
        let is_dead = |all: &Vec<onecommit::decision_log::Registered>| {
            all.iter().any(|one| one.coordinator == id.coordinator && !one.is_live)
        };
        until("its death is noticed", async || session.coordinators().await, is_dead).await;
    });
    (runtime, place, id)
}

/// As a restored copy has it, in which the coordinator's marks are not there yet.
async fn lose_history(place: &Place, participant: usize) {
    let client = connect(&place.urls[participant]).await;
    client.batch_execute("update onecommit.coordinator set mark = 0").await.unwrap();
}

async fn is_recorded(place: &Place, id: CoordinatorId) -> bool {
    place.session().await.look(id).await.unwrap().is_some()
}

fn is_resolved(log: Log, died: Died, outcome: Outcome, totals: [i32; 2]) {
    let (runtime, place, id) = dead(log, died);
    runtime.block_on(async {
        let caretaker = caretaker(&place, &NAMES).await;
        let prospect = caretaker.look_before_resolving(id).await.unwrap();
        let is_committed = outcome == Outcome::Committed;
        assert_eq!(prospect.outcome, is_committed.then_some(outcome));
        assert_eq!(prospect.coordinator.as_ref().unwrap().state, CoordinatorState::Dead);
        let ends: Vec<bool> = prospect.branches.iter().map(|(_, is_decided)| *is_decided).collect();
        assert_eq!(ends, [is_committed; 2]);
        assert_eq!(place.prepared().await, 2, "it only looked");

        let resolved = caretaker.resolve(&prospect).await.unwrap();
        assert_eq!((resolved.outcome, resolved.left.len()), (Some(outcome), 0), "{resolved:?}");
        assert_eq!((place.prepared().await, place.totals().await), (0, totals));
        assert!(!is_recorded(&place, id.coordinator).await);

        let again = caretaker.look_before_resolving(id).await.unwrap();
        assert_eq!((again.outcome, &again.coordinator), (Some(outcome), &None));
        let again = caretaker.resolve(&again).await.unwrap();
        assert_eq!((again.outcome, again.left.len()), (Some(outcome), 0));
    });
}

#[test]
fn a_decided_transaction_of_the_dead_is_committed_by_hand_with_the_log_in_a_file() {
    is_resolved(Log::File, Died::Decided, Outcome::Committed, [90, 110]);
}

#[test]
fn a_decided_transaction_of_the_dead_is_committed_by_hand_with_the_log_in_zookeeper() {
    is_resolved(Log::Zookeeper, Died::Decided, Outcome::Committed, [90, 110]);
}

#[test]
fn an_undecided_transaction_of_the_dead_is_rolled_back_by_hand_with_the_log_in_a_file() {
    is_resolved(Log::File, Died::Undecided, Outcome::RolledBack, [100, 100]);
}

#[test]
fn an_undecided_transaction_of_the_dead_is_rolled_back_by_hand_with_the_log_in_zookeeper() {
    is_resolved(Log::Zookeeper, Died::Undecided, Outcome::RolledBack, [100, 100]);
}

/// Waits until another node, which knows `orders` only, has ended the record.
async fn is_ended_by_another(place: &Place, id: CoordinatorId) {
    let mut members = place.members();
    members.retain(|member| member.name.as_str() == ORDERS);
    let (namespace, log) = (place.namespace.clone(), place.decision_log());
    let node = Node::open(namespace, place.incarnation, members, log, place.locks(), settings());
    until("its record is ended", async || Ok(is_recorded(place, id).await), |is_there| !is_there).await;
    node.close().await;
}

fn a_participant_is_forgotten(log: Log) {
    let (runtime, place, id) = dead(log, Died::Decided);
    runtime.block_on(async {
        let without = caretaker(&place, &[ORDERS]).await;
        let prospect = without.look_before_resolving(id).await.unwrap();
        let resolved = without.resolve(&prospect).await.unwrap();
        assert_eq!(resolved.outcome, Some(Outcome::Committed));
        assert!(resolved.left[&name(BILLING)].message().contains("not in this configuration"));
        assert_eq!(place.prepared().await, 1, "the one that is configured is committed");

        let found = without.look_before_forgetting(&name(BILLING)).await.unwrap();
        assert_eq!((found.records.len(), found.kept.len(), found.is_configured), (1, 0, false));
        let decided = &found.records[0].decided;
        assert_eq!(decided.len(), 1);
        let client = connect(&place.urls[1]).await;
        let left = "select gid from pg_prepared_xacts where database = current_database()";
        let left: String = client.query_one(left, &[]).await.unwrap().get(0);
        assert_eq!(decided[0].to_string(), left, "it names the branch as it is there");

        without.forget(&found).await.unwrap();
        assert!(is_recorded(&place, id.coordinator).await, "whoever recovers ends it");
        is_ended_by_another(&place, id.coordinator).await;
        assert_eq!(place.prepared().await, 1, "what was given up stays as it is");
        let nothing = without.look_before_forgetting(&name(BILLING)).await.unwrap();
        assert!(nothing.records.is_empty() && nothing.kept.is_empty());

        // It comes back: its decision was kept, and is carried out.
        let with = caretaker(&place, &NAMES).await;
        let prospect = with.look_before_resolving(id).await.unwrap();
        assert_eq!(prospect.outcome, Some(Outcome::Committed));
        let resolved = with.resolve(&prospect).await.unwrap();
        assert_eq!((resolved.outcome, resolved.left.len()), (Some(Outcome::Committed), 0));
        assert_eq!((place.prepared().await, place.totals().await), (0, [90, 110]));
    });
}

#[test]
fn a_forgotten_participants_decisions_are_kept_with_the_log_in_a_file() {
    a_participant_is_forgotten(Log::File);
}

#[test]
fn a_forgotten_participants_decisions_are_kept_with_the_log_in_zookeeper() {
    a_participant_is_forgotten(Log::Zookeeper);
}

#[test]
fn what_recovery_settles_by_itself_is_not_forgotten() {
    let (runtime, place, id) = dead(Log::File, Died::Decided);
    runtime.block_on(async {
        let caretaker = caretaker(&place, &NAMES).await;
        let found = caretaker.look_before_forgetting(&name(BILLING)).await.unwrap();
        assert_eq!((found.records.len(), found.kept.as_slice()), (0, [id.coordinator].as_slice()));
    });
}

#[test]
fn of_a_participant_that_is_away_nothing_is_forgotten_and_the_others_are_resolved() {
    let (runtime, place, id) = dead(Log::File, Died::Undecided);
    runtime.block_on(async {
        let error = Error::new(ErrorKind::Unreachable, "connect", "refused by the test");
        let away = BTreeMap::from([(name(BILLING), error)]);
        let caretaker = caretaker_without(&place, &[ORDERS], away).await;
        let kept = caretaker.look_before_forgetting(&name(BILLING)).await.unwrap_err();
        assert_eq!(kept.kind(), ErrorKind::Unreachable);
        assert!(text(&kept).contains("refused by the test"), "{kept}");
        let prospect = caretaker.look_before_resolving(id).await.unwrap();
        let resolved = caretaker.resolve(&prospect).await.unwrap();
        assert_eq!(resolved.left[&name(BILLING)].kind(), ErrorKind::Unreachable);
        assert_eq!((resolved.outcome, place.prepared().await), (Some(Outcome::RolledBack), 1));
    });
}

#[test]
fn what_may_be_left_elsewhere_is_told_each_time() {
    let (runtime, place, id) = dead(Log::File, Died::Undecided);
    runtime.block_on(async {
        let without = caretaker(&place, &[ORDERS]).await;
        for is_kept in [false, true] {
            let prospect = without.look_before_resolving(id).await.unwrap();
            assert_eq!(prospect.outcome, is_kept.then_some(Outcome::RolledBack));
            let resolved = without.resolve(&prospect).await.unwrap();
            assert_eq!(resolved.outcome, Some(Outcome::RolledBack));
            assert_eq!(resolved.left[&name(BILLING)].kind(), ErrorKind::Refused);
            assert_eq!(place.prepared().await, 1);
        }
    });
}

#[test]
fn what_was_lost_waits_for_a_person_who_may_forget_it() {
    let (runtime, place, id) = dead(Log::File, Died::Undecided);
    runtime.block_on(async {
        lose_history(&place, 0).await;
        lose_history(&place, 1).await;
        let with = caretaker(&place, &NAMES).await;
        let prospect = with.look_before_resolving(id).await.unwrap();
        let resolved = with.resolve(&prospect).await.unwrap();
        assert_eq!((resolved.outcome, resolved.left.len(), resolved.branches.len()), (None, 2, 2));
        for (participant, error) in &resolved.left {
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert!(text(error).contains("Nothing was touched") && text(error).contains("found_mark: 0"));
            assert!(text(error).contains(&format!("{id}:{participant}")), "{error}");
        }
        let said: Vec<bool> = resolved.facts.iter().map(|(_, says)| says.contains("is prepared")).collect();
        assert_eq!(said, [true, true]);
        assert_eq!(place.prepared().await, 2, "nothing was touched");

        for (participant, of) in [(ORDERS, 1), (BILLING, 1)] {
            let found = with.look_before_forgetting(&name(participant)).await.unwrap();
            let (undecided, decided) = (&found.records[0].undecided, &found.records[0].decided);
            assert_eq!((found.records.len(), undecided.len(), decided.len()), (of, 1, 0));
            assert!(found.records[0].why.contains("lost history"), "{}", found.records[0].why);
            with.forget(&found).await.unwrap();
        }
        is_ended_by_another(&place, id.coordinator).await;
        assert_eq!(place.prepared().await, 2, "that is for a person to end");
    });
}

#[test]
fn the_lost_branch_of_a_decided_transaction_is_told_with_both_sides_facts() {
    let (runtime, place, id) = dead(Log::File, Died::Decided);
    runtime.block_on(async {
        // As an asynchronous failover leaves it.
        let client = connect(&place.urls[1]).await;
        let branch = format!("rollback prepared '{}'", branch_of(&place, id, BILLING));
        client.batch_execute(&branch).await.unwrap();
        let caretaker = caretaker(&place, &NAMES).await;
        let prospect = caretaker.look_before_resolving(id).await.unwrap();
        let resolved = caretaker.resolve(&prospect).await.unwrap();
        assert_eq!(resolved.outcome, Some(Outcome::Committed));
        assert!(text(&resolved.left[&name(BILLING)]).contains("torn"), "{resolved:?}");
        let facts: BTreeMap<&str, &str> =
            resolved.facts.iter().map(|(name, says)| (name.as_str(), says.as_str())).collect();
        assert!(facts[ORDERS].ends_with("says: committed"), "{facts:?}");
        assert!(facts[BILLING].ends_with("says: rolled back"), "{facts:?}");
        // Once it is mended by hand, the record is not needed any more.
        let found = caretaker.look_before_forgetting(&name(BILLING)).await.unwrap();
        assert!(found.records[0].why.contains("torn"), "{}", found.records[0].why);
    });
}

fn branch_of(place: &Place, id: TransactionId, participant: &str) -> String {
    format!("oc1:{}:{}:{id}:{participant}", place.namespace, place.incarnation)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_living_and_those_that_others_recover_are_left_to_them() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    transaction.commit().await.unwrap();
    let mut dialogue = node.begin(&names(), Options::default()).unwrap();
    drive(&mut dialogue, &clients, |_| false).await;
    move_money(&clients).await;
    dialogue.commit();
    drive_to(&mut dialogue, &clients, Died::Undecided).await;
    assert_eq!(place.prepared().await, 2);
    let id = dialogue.id();

    let by_hand = caretaker(&place, &[ORDERS]).await;
    let refused = by_hand.look_before_resolving(id).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(text(&refused).contains("lives"), "{refused}");
    assert!(text(&refused).contains(&format!("pid: {}", std::process::id())), "{refused}");
    let refused = by_hand.look_before_forgetting(&name(BILLING)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(text(&refused).contains(&id.coordinator.to_string()), "{refused}");
    drop(dialogue);
    place.settled().await;
    node.close().await;
}

#[test]
fn whom_somebody_recovers_is_left_to_them() {
    let (runtime, place, id) = dead(Log::File, Died::Undecided);
    runtime.block_on(async {
        let node = place.session().await;
        assert!(node.take_over(id.coordinator).await.unwrap().is_some());
        let by_hand = caretaker(&place, &NAMES).await;
        let refused = by_hand.look_before_resolving(id).await.unwrap_err();
        assert!(text(&refused).contains("is settling"), "{refused}");
        let refused = by_hand.look_before_forgetting(&name(ORDERS)).await.unwrap_err();
        assert!(text(&refused).contains("is settling"), "{refused}");
        node.let_go(id.coordinator).await.unwrap();
        let prospect = by_hand.look_before_resolving(id).await.unwrap();
        assert!(node.take_over(id.coordinator).await.unwrap().is_some());
        let refused = by_hand.resolve(&prospect).await.unwrap_err();
        assert!(text(&refused).contains("become alive"), "{refused}");
        assert_eq!(place.prepared().await, 2);
    });
}

fn what_waits_for_a_person_is_let_go(log: Log) {
    let (runtime, place, id) = dead(log, Died::Undecided);
    runtime.block_on(async {
        lose_history(&place, 0).await;
        let node = place.node();
        let session = place.session().await;
        let outcome = async || session.outcome(id).await;
        // What it has done is not forgotten with it.
        until("that billing is rolled back is kept", outcome, |found| *found == Some(Outcome::RolledBack))
            .await;
        until("it is rolled back", async || Ok(place.prepared().await), |prepared| *prepared == 1).await;
        let by_hand = caretaker(&place, &NAMES).await;
        let forget = async || {
            let look = by_hand.look_before_forgetting(&name(ORDERS)).await;
            let found = look.map_err(|error| retriable(&error))?;
            by_hand.forget(&found).await.map_err(|error| retriable(&error))?;
            Ok(found.records.len())
        };
        until("it is forgotten while a node lives", forget, |records| *records == 0).await;
        until("it is ended", async || Ok(is_recorded(&place, id.coordinator).await), |is_there| !is_there)
            .await;
        node.close().await;
        assert_eq!(place.prepared().await, 1);
    });
}

/// A node that looks at it at this moment is no reason to give up.
fn retriable(error: &Error) -> Error {
    let is_nodes = text(error).contains("is settling") || text(error).contains("become alive");
    let kind = if is_nodes { ErrorKind::Unreachable } else { error.kind() };
    Error::new(kind, "forget", text(error))
}

#[test]
fn what_waits_for_a_person_is_let_go_with_the_log_in_a_file() {
    what_waits_for_a_person_is_let_go(Log::File);
}

#[test]
fn what_waits_for_a_person_is_let_go_with_the_log_in_zookeeper() {
    what_waits_for_a_person_is_let_go(Log::Zookeeper);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_record_is_resolved_by_the_orphans_rule() {
    let place = Place::new(Log::File).await;
    let (late, unknown) = (prepare_orphan(&place, 1).await, prepare_orphan(&place, 2).await);
    close_behind(&place, &late).await;
    let caretaker = caretaker(&place, &NAMES).await;
    for (branch, outcome, left) in [(&late, Some(Outcome::RolledBack), 0), (&unknown, None, 1)] {
        let prospect = caretaker.look_before_resolving(branch.transaction).await.unwrap();
        let coordinator = prospect.coordinator.as_ref().unwrap();
        assert_eq!(coordinator.state, CoordinatorState::Orphan);
        let resolved = caretaker.resolve(&prospect).await.unwrap();
        assert_eq!((resolved.outcome, resolved.left.len()), (outcome, left));
        assert!(!is_recorded(&place, branch.transaction.coordinator).await);
    }
    assert_eq!(place.prepared().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_told_from_what_is_anothers() {
    let mut place = Place::new(Log::File).await;
    let orphan = prepare_orphan(&place, 1).await;
    let never = TransactionId { coordinator: CoordinatorId::random(), number: 7 };
    let by_hand = caretaker(&place, &NAMES).await;
    let prospect = by_hand.look_before_resolving(never).await.unwrap();
    let Prospect { outcome: None, coordinator: None, .. } = prospect else { panic!("{prospect:?}") };
    let resolved = by_hand.resolve(&prospect).await.unwrap();
    assert_eq!((resolved.outcome, resolved.left.len(), resolved.branches.len()), (None, 0, 0));

    // Another installation in the same database.
    place.incarnation = Incarnation::random();
    let directory = tempfile::tempdir().unwrap();
    place.directory = directory.path().to_path_buf();
    let other = caretaker(&place, &NAMES).await;
    let refused = other.look_before_resolving(orphan.transaction).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(text(&refused).contains(&orphan.to_string()), "{refused}");
}
