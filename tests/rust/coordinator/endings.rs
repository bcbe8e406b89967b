//! How transactions end whose coordinator lives.

use std::time::Duration;

use onecommit::ErrorKind;
use onecommit::coordinator::Options;
use onecommit::protocol::transaction::Protocol;

use super::{Log, Place, begin, connect, move_money, names, text};
use crate::patience::until;
use crate::zookeeper_server::Proxy;

async fn commits_as_one(log: Log) {
    let place = Place::new(log).await;
    let (node, clients) = (place.node(), place.clients().await);
    for round in 1..=3 {
        let transaction = begin(&node, &clients).await.unwrap();
        let id = transaction.id();
        move_money(&clients).await;
        let finished = transaction.commit().await.unwrap();
        assert_eq!((finished.id, finished.protocol, finished.is_applied), (id, Protocol::TwoPhase, true));
        assert_eq!(place.totals().await, [100 - 10 * round, 100 + 10 * round]);
        assert_eq!(place.prepared().await, 0);
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_databases_commit_as_one_decided_in_a_file() {
    commits_as_one(Log::File).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_databases_commit_as_one_decided_in_zookeeper() {
    commits_as_one(Log::Zookeeper).await;
}

async fn keeps_nothing_that_is_applied(log: Log) {
    let place = Place::new(log).await;
    let (node, clients) = (place.node(), place.clients().await);
    let session = place.session().await;
    let mut coordinator = None;
    for _ in 0..5 {
        let transaction = begin(&node, &clients).await.unwrap();
        coordinator = Some(transaction.id().coordinator);
        move_money(&clients).await;
        transaction.commit().await.unwrap();
    }
    let look = async || session.look(coordinator.unwrap()).await;
    let found = until("its decisions are gone", look, |found| {
        found.as_ref().is_some_and(|(_, batches)| batches.is_empty())
    });
    let (record, _) = found.await.unwrap();
    for used in record.participants.values() {
        assert!(used.marks.acknowledged > 0 && !used.is_settled);
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_that_are_applied_are_not_kept_in_the_file() {
    keeps_nothing_that_is_applied(Log::File).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_that_are_applied_are_not_kept_in_zookeeper() {
    keeps_nothing_that_is_applied(Log::Zookeeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_writing_branch_needs_no_decision_log() {
    let place = Place::new(Log::File).await;
    let nowhere = std::sync::Arc::new(onecommit::decision_log::file::FileDecisionLog::new(
        std::path::Path::new("/proc/no/such/place"),
        place.incarnation,
    ));
    let (node, clients) = (place.node_with(nowhere), place.clients().await);
    let transaction = begin(&node, &clients).await.unwrap();
    clients[0].batch_execute("update account set total = 70 where id = 1").await.unwrap();
    clients[1].batch_execute("select total from account").await.unwrap();
    let finished = transaction.commit().await.unwrap();
    assert_eq!((finished.protocol, finished.is_applied), (Protocol::OnePhase, true));
    assert_eq!(place.totals().await, [70, 100]);

    let transaction = begin(&node, &clients).await.unwrap();
    clients[1].batch_execute("select total from account").await.unwrap();
    assert_eq!(transaction.commit().await.unwrap().protocol, Protocol::ReadOnly);

    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    let refused = transaction.commit().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Configuration, "{refused}");
    assert!(text(&refused).contains("rolled back"), "{refused}");
    assert_eq!(place.totals().await, [70, 100]);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_or_rolled_back_never_happened() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    transaction.roll_back().await.unwrap();
    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    drop(transaction);
    // On the same connections, behind the rollback.
    let transaction = begin(&node, &clients).await.unwrap();
    assert_eq!(transaction.commit().await.unwrap().protocol, Protocol::ReadOnly);
    assert_eq!(place.totals().await, [100, 100]);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_failed_rolls_everything_back() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let transaction = begin(&node, &clients).await.unwrap();
    clients[0].batch_execute("update account set total = 0 where id = 1").await.unwrap();
    clients[1].batch_execute("update account set total = -1 where id = 1").await.unwrap_err();
    let refused = transaction.commit().await.unwrap_err();
    assert!(text(&refused).contains("rolled back") && text(&refused).contains("billing"), "{refused}");
    assert_eq!(place.totals().await, [100, 100]);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_does_not_prepare_is_said() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    clients[1].batch_execute("create temp table mine (id int)").await.unwrap();
    let refused = transaction.commit().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    assert!(text(&refused).contains("temporary") && text(&refused).contains("billing"), "{refused}");
    assert_eq!((place.totals().await, place.prepared().await), ([100, 100], 0));
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_may_be_run_again() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let options = onecommit::coordinator::Options {
        isolation: onecommit::participant::Isolation::Serializable,
        ..Default::default()
    };
    let branches: Vec<_> = super::names().into_iter().zip(&clients).collect();
    let transaction = node.transaction(&branches, options).await.unwrap();
    // Two that each read what the other writes: one of them can't be.
    let rival = super::connect(&place.urls[0]).await;
    rival.batch_execute("begin isolation level serializable; select sum(total) from account").await.unwrap();
    clients[0].batch_execute("select sum(total) from account").await.unwrap();
    move_money(&clients).await;
    rival.batch_execute("update account set total = 1 where id = 2; commit").await.unwrap();
    let refused = transaction.commit().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert!(refused.is_retriable());
    assert_eq!((place.totals().await, place.prepared().await), ([100, 100], 0));
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_lead_elsewhere_are_refused() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let [orders, billing] = &clients;
    let branch = |name: &str, client| (name.parse().unwrap(), client);
    let refused = async |branches: &[(onecommit::ParticipantName, _)]| {
        node.transaction(branches, Default::default()).await.err().unwrap()
    };
    let error = refused(&[branch("orders", billing)]).await;
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(refused(&[branch("nowhere", orders)]).await.kind(), ErrorKind::Invalid);
    assert_eq!(
        refused(&[branch("orders", orders), branch("orders", billing)]).await.kind(),
        ErrorKind::Invalid
    );
    orders.batch_execute("begin").await.unwrap();
    let error = refused(&[branch("orders", orders)]).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(place.prepared().await, 0);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_wait_in_the_outbox_of_their_home_if_the_transaction_commits() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let tricky = || onecommit::Message::new("order.paid", b"it's\\", [0, 0xff, b'\'', b'\\']).unwrap();
    let mut transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    transaction.publish(tricky(), None).unwrap();
    transaction.roll_back().await.unwrap();
    let mut transaction = begin(&node, &clients).await.unwrap();
    // It is all that the branch writes.
    clients[1].batch_execute("update account set total = 1 where id = 1").await.unwrap();
    let refused = transaction.publish(tricky(), Some(&"billing".parse().unwrap())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    let message = tricky().header("sou'rce", "web\\").unwrap();
    let id = transaction.publish(message, None).unwrap();
    assert_eq!(transaction.commit().await.unwrap().protocol, Protocol::TwoPhase);

    let sql = "select message_id, topic, key, value, header_names, header_values from onecommit.outbox";
    let rows = clients[0].query(sql, &[]).await.unwrap();
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(row.get::<_, uuid::Uuid>(0), id.0);
    assert_eq!(row.get::<_, &str>(1), "order.paid");
    assert_eq!(row.get::<_, &[u8]>(2), b"it's\\");
    assert_eq!(row.get::<_, &[u8]>(3), [0, 0xff, b'\'', b'\\']);
    assert_eq!(row.get::<_, Vec<&str>>(4), ["sou'rce"]);
    assert_eq!(row.get::<_, Vec<&[u8]>>(5), [b"web\\"]);
    assert_eq!(place.totals().await, [100, 1]);
    node.close().await;
}

/// All nodes below one.
async fn nodes(client: &zookeeper_client::Client, root: String) -> usize {
    let (mut count, mut open) = (0, vec![root]);
    while let Some(path) = open.pop() {
        let children = match client.list_children(&path).await {
            // A batch may go while they are counted.
            Err(zookeeper_client::Error::NoNode) => Vec::new(),
            listed => listed.unwrap(),
        };
        count += children.len();
        open.extend(children.into_iter().map(|name| format!("{path}/{name}")));
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_znodes_does_not_grow_with_the_number_of_transactions() {
    let place = Place::new(Log::Zookeeper).await;
    let (node, clients) = (place.node(), place.clients().await);
    let client = crate::zookeeper_server::client().await;
    let root = format!("/onecommit/{}", place.namespace);
    let session = place.session().await;
    let mut counts = Vec::new();
    for transactions in [1, 49, 450] {
        let mut coordinator = None;
        for _ in 0..transactions {
            let transaction = begin(&node, &clients).await.unwrap();
            coordinator = Some(transaction.id().coordinator);
            clients[0].batch_execute("update account set total = total + 1 where id = 1").await.unwrap();
            clients[1].batch_execute("update account set total = total + 1 where id = 1").await.unwrap();
            assert_eq!(transaction.commit().await.unwrap().protocol, Protocol::TwoPhase);
        }
        let look = async || session.look(coordinator.unwrap()).await;
        until("its decisions are gone", look, |found| {
            found.as_ref().is_some_and(|(_, batches)| batches.is_empty())
        })
        .await;
        counts.push(nodes(&client, root.clone()).await);
    }
    assert!(counts[0] > 5 && counts[1] == counts[0] && counts[2] == counts[0], "{counts:?}");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tasks_of_a_node_that_is_dropped_end() {
    let place = Place::new(Log::File).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    drop(place.node());
    until("they end", async || Ok(metrics.num_alive_tasks()), |alive| *alive <= before).await;
}

/// Its history row may be there by then, and a second insert of that would look like a recoverer's.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_in_the_middle_of_a_registration_is_no_alarm_for_the_next_transaction() {
    let place = Place::new(Log::File).await;
    let (clients, locks, looks) =
        (place.clients().await, connect(&place.urls[1]).await, place.clients().await);
    let (_, server) = place.urls[1].rsplit_once('@').unwrap();
    let (server, database) = server.split_once('/').unwrap();
    let proxy = Proxy::start(server).await;
    let mut through = place.copy();
    through.urls[1] = format!("postgresql://postgres@{}/{database}", proxy.address);
    let node = through.node();
    locks.batch_execute("begin; lock table onecommit.coordinator in exclusive mode").await.unwrap();

    let options = Options { deadline: Some(Duration::from_secs(10)), ..Options::default() };
    let branches: Vec<_> = names().into_iter().zip(&clients).collect();
    let transaction = node.transaction(&branches, options).await.unwrap();
    move_money(&clients).await;
    let count = async |sql: &str| Ok(looks[1].query_one(sql, &[]).await.unwrap().get::<_, i64>(0));
    let loses_the_answer = async {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database()
                         and wait_event_type = 'Lock' and query like 'insert into %.coordinator (id) %'";
        until("its row waits for the table", async || count(waiting).await, |waiting| *waiting == 1).await;
        proxy.swallows_answers.send_replace(true);
        locks.batch_execute("commit").await.unwrap();
        let rows = "select count(*) from onecommit.coordinator";
        until("its row is there", async || count(rows).await, |rows| *rows == 1).await;
    };
    let (told, ()) = tokio::join!(transaction.commit(), loses_the_answer);
    let error = told.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    proxy.swallows_answers.send_replace(false);
    // Others wait for answers that were swallowed with it.
    proxy.cut().await;

    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    assert!(transaction.commit().await.unwrap().is_applied);
    assert_eq!(place.totals().await, [90, 110]);
    node.close().await;
}
