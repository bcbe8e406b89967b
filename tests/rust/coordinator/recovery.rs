//! What a coordinator leaves that dies, and what others make of it.

use onecommit::ErrorKind;
use onecommit::Message;
use onecommit::coordinator::{Dialogue, Next, Node, Options};
use onecommit::id::{CoordinatorId, TransactionId};
use onecommit::protocol::branch::BranchName;
use onecommit::protocol::decision::Outcome;
use tokio::runtime::Runtime;
use tokio_postgres::Client;

use super::{
    Log, NAMES, Place, SHORT, begin, connect, drive, member, move_money, move_money_of, names, text,
};
use crate::patience::{answered, until};
use crate::zookeeper_server;

/// How far the dead one came: how much of its own work it had begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Died {
    /// Both branches are prepared, and nothing is decided.
    Undecided = 2,
    /// It is decided, and nothing is applied.
    Decided = 3,
}

/// Goes on with a transaction by hand until it is that far, or has ended before.
pub(super) async fn drive_to(dialogue: &mut Dialogue, clients: &[Client; 2], died: Died) -> Next {
    let mut works = 0;
    drive(dialogue, clients, |next| {
        works += usize::from(matches!(next, Next::Work));
        works == died as usize
    })
    .await
}

/// A node that moves money and dies. The runtime with all of its tasks is stopped at that place: nothing is
/// finished, closed or given up.
pub(super) fn die(place: &Place, died: Died) -> TransactionId {
    die_together(place, &[(died, 1)])[0]
}

/// The same of several at once, each of which moves what is in another account: one that came later would
/// settle what the earlier ones left.
pub(super) fn die_together(place: &Place, dying: &[(Died, i32)]) -> Vec<TransactionId> {
    // No session is to be over before its coordinator dies.
    let place = &place.lasting();
    let runtime = Runtime::new().unwrap();
    let left = runtime.block_on(async {
        let mut nodes = Vec::new();
        for _ in dying {
            let (node, clients) = (place.node(), place.clients().await);
            has_history(place, &node, &clients).await;
            nodes.push((node, clients));
        }
        let mut left = Vec::new();
        for ((node, clients), (died, account)) in nodes.into_iter().zip(dying) {
            let mut dialogue = node.begin(&names(), Options::default()).unwrap();
            let begun = drive(&mut dialogue, &clients, |_| false).await;
            assert!(matches!(begun, Next::Open), "{begun:?}");
            move_money_of(&clients, *account).await;
            let message = Message::new(place.topic(), format!("{died:?}"), "moved").unwrap();
            dialogue.publish(message, None).unwrap();
            dialogue.commit();
            let last = drive_to(&mut dialogue, &clients, *died).await;
            assert!(matches!(last, Next::Work), "{last:?}");
            left.push((node, dialogue));
        }
        assert_eq!(place.prepared().await, 2 * dying.len() as i64);
        left
    });
    runtime.shutdown_background();
    let ids: Vec<TransactionId> = left.iter().map(|(_, dialogue)| dialogue.id()).collect();
    take_for_dead(place, &ids);
    ids
}

/// Has those count as dead whose runtime was stopped: their sessions last longer than a test waits.
pub(super) fn take_for_dead(place: &Place, stopped: &[TransactionId]) {
    if place.log == Log::Zookeeper {
        Runtime::new().unwrap().block_on(async {
            for id in stopped {
                end_session(place, id.coordinator).await;
            }
        });
    }
}

/// As ZooKeeper does with a session of which it has not heard for too long.
async fn end_session(place: &Place, coordinator: CoordinatorId) {
    let zookeeper = zookeeper_server::client().await;
    zookeeper.delete(&format!("/onecommit/{}/live/{coordinator}", place.namespace), None).await.unwrap();
}

/// Has a transaction committed, and waits until its decision is not needed any more: by then every
/// participant has acknowledged a mark.
pub(super) async fn has_history(place: &Place, node: &Node, clients: &[Client; 2]) {
    // The session of a machine that stood still is over: the next coordinator takes its place.
    let commit = async || {
        let transaction = begin(node, clients).await?;
        let coordinator = transaction.id().coordinator;
        for client in clients {
            client.batch_execute("update account set total = 0 where id = 2").await.unwrap();
        }
        transaction.commit().await.map(|_| coordinator)
    };
    let coordinator = answered(commit).await;
    let session = place.session().await;
    let look = async || session.look(coordinator).await;
    until("its decision is deleted", look, |found| {
        found.as_ref().is_some_and(|(_, batches)| batches.is_empty())
    })
    .await;
}

fn is_settled_by_another(log: Log, died: Died, totals: [i32; 2], outcome: Outcome) {
    let runtime = Runtime::new().unwrap();
    let place = runtime.block_on(Place::new(log));
    let id = die(&place, died);
    runtime.block_on(async {
        assert_eq!(place.prepared().await, 2, "nobody settles it but another node");
        let node = place.node();
        place.settled().await;
        assert_eq!(place.totals().await, totals);
        let session = place.session().await;
        let told =
            until("its outcome is kept", async || session.outcome(id).await, |outcome| outcome.is_some());
        assert_eq!(told.await, Some(outcome));
        let registered = async || session.coordinators().await;
        until("its record is gone", registered, |all| {
            all.iter().all(|one| one.coordinator != id.coordinator)
        })
        .await;
        let clients = place.clients().await;
        let transaction = begin(&node, &clients).await.unwrap();
        move_money(&clients).await;
        transaction.commit().await.unwrap();
        node.close().await;
    });
}

#[test]
fn undecided_transactions_of_the_dead_are_rolled_back_with_the_log_in_a_file() {
    is_settled_by_another(Log::File, Died::Undecided, [100, 100], Outcome::RolledBack);
}

#[test]
fn undecided_transactions_of_the_dead_are_rolled_back_with_the_log_in_zookeeper() {
    is_settled_by_another(Log::Zookeeper, Died::Undecided, [100, 100], Outcome::RolledBack);
}

#[test]
fn decided_transactions_of_the_dead_are_committed_with_the_log_in_a_file() {
    is_settled_by_another(Log::File, Died::Decided, [90, 110], Outcome::Committed);
}

#[test]
fn decided_transactions_of_the_dead_are_committed_with_the_log_in_zookeeper() {
    is_settled_by_another(Log::Zookeeper, Died::Decided, [90, 110], Outcome::Committed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_leaves_nothing_prepared() {
    for left in [Died::Undecided, Died::Decided] {
        let place = Place::new(Log::File).await;
        let (node, clients) = (place.node(), place.clients().await);
        let mut dialogue = node.begin(&names(), Options::default()).unwrap();
        drive(&mut dialogue, &clients, |_| false).await;
        move_money(&clients).await;
        dialogue.commit();
        drive_to(&mut dialogue, &clients, left).await;
        assert_eq!(place.prepared().await, 2);
        drop(dialogue);
        place.settled().await;
        let expected = if left == Died::Decided { [90, 110] } else { [100, 100] };
        assert_eq!(place.totals().await, expected);
        node.close().await;
    }
}

/// A branch prepared by hand under the name of a coordinator that has no record.
pub(super) async fn prepare_orphan(place: &Place, account: i32) -> BranchName {
    let name = branch(place, TransactionId { coordinator: CoordinatorId::random(), number: 1 }, "orders");
    prepare(place, 0, &name, account).await;
    name
}

fn branch(place: &Place, transaction: TransactionId, participant: &str) -> BranchName {
    let participant = participant.parse().unwrap();
    BranchName {
        namespace: place.namespace.clone(),
        incarnation: place.incarnation,
        transaction,
        participant,
        is_home: false,
    }
}

/// By hand, in the participant with this number.
async fn prepare(place: &Place, participant: usize, name: &BranchName, account: i32) {
    let sql =
        format!("begin; update account set total = 1 where id = {account}; prepare transaction '{name}'");
    connect(&place.urls[participant]).await.batch_execute(&sql).await.unwrap();
}

/// From now on a branch is behind its coordinator's end.
pub(super) async fn close_behind(place: &Place, late: &BranchName) {
    let closed = format!(
        "insert into onecommit.coordinator (id, closed, closed_at) values ('{}', true, now())",
        late.transaction.coordinator
    );
    connect(&place.urls[0]).await.batch_execute(&closed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_branches_without_a_record_only_those_behind_their_coordinators_end_are_rolled_back() {
    let place = Place::new(Log::File).await;
    let (late, unknown) = (prepare_orphan(&place, 1).await, prepare_orphan(&place, 2).await);
    close_behind(&place, &late).await;
    let node = place.node();
    until("the late one is rolled back", async || Ok(place.prepared().await), |prepared| *prepared == 1)
        .await;
    // Both were in the same list, and the one who looked at it is at its end.
    node.close().await;
    let left = "select gid from pg_prepared_xacts where database = current_database()";
    let client = connect(&place.urls[0]).await;
    let left: String = client.query_one(left, &[]).await.unwrap().get(0);
    assert_eq!(left, unknown.to_string(), "nothing is known of it");
    assert!(place.session().await.coordinators().await.unwrap().is_empty());
}

/// Makes `orders` as a restored copy has it, in which the coordinator's marks are not there yet; and has a node
/// settle the rest.
async fn settle_all_but_orders(place: &Place, coordinator: CoordinatorId) -> Node {
    let client = connect(&place.urls[0]).await;
    client.batch_execute("update onecommit.coordinator set mark = 0").await.unwrap();
    let node = place.node();
    let session = place.session().await;
    // The record tells last: what it says was done before.
    let look = async || session.look(coordinator).await;
    until("billing is settled, and orders is not", look, |found| {
        let (record, _) = found.as_ref().expect("its record is kept");
        record.participants.values().map(|used| used.is_settled).eq([true, false])
    })
    .await;
    node
}

async fn prepared_in_billing(place: &Place) -> i64 {
    let sql = "select count(*) from pg_prepared_xacts where database = current_database()";
    connect(&place.urls[1]).await.query_one(sql, &[]).await.unwrap().get(0)
}

#[test]
fn where_a_participant_has_lost_history_nothing_is_rolled_back() {
    let runtime = Runtime::new().unwrap();
    let place = runtime.block_on(Place::with_sessions_of(Log::File, SHORT));
    let id = die(&place, Died::Undecided);
    runtime.block_on(async {
        let node = settle_all_but_orders(&place, id.coordinator).await;
        assert_eq!(prepared_in_billing(&place).await, 0);
        assert_eq!(place.prepared().await, 1, "this one waits for a person");
        node.close().await;
        assert_eq!(place.prepared().await, 1);
    });
}

#[test]
fn a_late_branch_is_rolled_back_while_another_participant_waits_for_a_person() {
    let runtime = Runtime::new().unwrap();
    let place = runtime.block_on(Place::with_sessions_of(Log::File, SHORT));
    let id = die(&place, Died::Undecided);
    runtime.block_on(async {
        let node = settle_all_but_orders(&place, id.coordinator).await;
        // As of an owner that was paused between two of its PREPAREs.
        let late = TransactionId { coordinator: id.coordinator, number: id.number + 1 };
        prepare(&place, 1, &branch(&place, late, "billing"), 1).await;
        until("it is rolled back", async || Ok(prepared_in_billing(&place).await), |left| *left == 0).await;
        let session = place.session().await;
        assert!(session.look(id.coordinator).await.unwrap().is_some(), "orders still keeps the record");
        assert_eq!(session.outcome(late).await.unwrap(), Some(Outcome::RolledBack));
        assert_eq!(place.prepared().await, 1, "that of orders waits for a person");
        node.close().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_whose_participant_went_back_prepares_nothing_more_there() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    transaction.commit().await.unwrap();
    connect(&place.urls[0]).await.batch_execute("update onecommit.coordinator set mark = 0").await.unwrap();
    // Marks are renewed while there are decisions, and some follow that one.
    let refused = async || {
        let transaction = begin(&node, &clients).await.unwrap();
        move_money(&clients).await;
        Ok(transaction.commit().await.err())
    };
    let refused = until("it is noticed", refused, |refused| refused.is_some()).await.unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    assert!(text(&refused).contains("orders"), "{refused}");
    assert_eq!(place.prepared().await, 0);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_whose_row_its_recoverer_has_closed_is_succeeded() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let works = async || {
        let transaction = begin(&node, &clients).await?;
        let id = transaction.id().coordinator;
        move_money(&clients).await;
        transaction.commit().await?;
        Ok(id)
    };
    let first = works().await.unwrap();
    let closed = "update onecommit.coordinator set closed = true, closed_at = now()";
    connect(&place.urls[0]).await.batch_execute(closed).await.unwrap();
    until("another one takes its place", works, |id| *id != first).await;
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_taken_over_decides_nothing_more_and_another_coordinator_goes_on() {
    let place = Place::new(Log::Zookeeper).await;
    let (node, clients) = (place.node(), place.clients().await);
    let transaction = begin(&node, &clients).await.unwrap();
    let first = transaction.id().coordinator;
    move_money(&clients).await;
    transaction.commit().await.unwrap();
    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    end_session(&place, first).await;
    let other = place.node();
    let session = place.session().await;
    let registered = async || session.coordinators().await;
    until("it is recovered", registered, |all| all.iter().all(|one| one.coordinator != first)).await;

    assert_eq!(transaction.id().coordinator, first);
    let fenced = transaction.commit().await.unwrap_err();
    assert!(fenced.is_retriable() && text(&fenced).contains("rolled back"), "{fenced}");
    place.settled().await;
    assert_eq!(place.totals().await, [90, 110]);

    let transaction = begin(&node, &clients).await.unwrap();
    assert_ne!(transaction.id().coordinator, first);
    move_money(&clients).await;
    transaction.commit().await.unwrap();
    assert_eq!(place.totals().await, [80, 120]);
    node.close().await;
    other.close().await;
}

/// It comes first, by its name.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_forgotten_also_where_another_participant_is_away() {
    let place = Place::new(Log::File).await;
    let client = connect(&place.urls[0]).await;
    let closed = "insert into onecommit.coordinator (id, closed, closed_at)
                  values (gen_random_uuid(), true, now() - interval '1 year')";
    client.batch_execute(closed).await.unwrap();
    let away = member(NAMES[1], "postgresql://nobody@127.0.0.1:1/nothing", false);
    assert!(NAMES[1] < NAMES[0]);
    let node = place.node_of(vec![member(NAMES[0], &place.urls[0], true), away], place.decision_log());
    let rows = async || Ok(client.query("select from onecommit.coordinator", &[]).await.unwrap().len());
    until("it is forgotten", rows, |rows| *rows == 0).await;
    node.close().await;
}
