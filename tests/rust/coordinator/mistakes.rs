//! What users get wrong: each is told by an error that names it, and nothing is lost by it.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onecommit::ErrorKind;
use onecommit::coordinator::{Node, Options};
use onecommit::decision_log::DecisionLog;
use onecommit::decision_log::zookeeper::ZookeeperDecisionLog;
use onecommit::id::ParticipantName;
use onecommit::protocol::transaction::Protocol;
use onecommit::zookeeper::{self, ZookeeperSettings};
use tokio::runtime::Runtime;
use tokio_postgres::Client;
use tracing::subscriber::DefaultGuard;

use super::recovery::{Died, die};
use super::{Log, Place, SHORT, begin, connect, member, move_money, names, text};
use crate::patience::{LIMIT, answered, until};

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    fn start() -> (Logged, DefaultGuard) {
        let logged = Logged::default();
        let to = logged.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).finish();
        (logged, tracing::subscriber::set_default(lines))
    }

    /// What was said with these words, without the time.
    fn said(&self, words: &str) -> Vec<String> {
        let bytes = self.0.lock().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let said = text.lines().filter(|line| line.contains(words)).filter_map(|line| line.split_once(' '));
        said.map(|(_, said)| said.to_string()).collect()
    }

    async fn wait(&self, words: &str) {
        until(words, async || Ok(self.said(words)), |said| !said.is_empty()).await;
    }

    /// A server that is slow fails in more than one way.
    fn expect_once_each(&self, words: &str) {
        let said = self.said(words);
        let different: BTreeSet<&String> = said.iter().collect();
        assert!(!said.is_empty() && different.len() == said.len(), "{said:#?}");
    }
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn refused(node: &Node, branches: &[(&str, &Client)]) -> onecommit::Error {
    let branches: Vec<(ParticipantName, &Client)> =
        branches.iter().map(|(name, client)| (name.parse().unwrap(), *client)).collect();
    node.transaction(&branches, Options::default()).await.err().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_participants_that_are_one_database_are_named() {
    let place = Place::new(Log::File).await;
    let [orders, again] = [0, 0].map(|at: usize| place.urls[at].clone());
    let members = vec![member("orders", &orders, true), member("copy", &again, false)];
    let node = place.node_of(members, place.decision_log());
    let clients = [connect(&orders).await, connect(&again).await];
    let error = refused(&node, &[("orders", &clients[0]), ("copy", &clients[1])]).await;
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    for words in ["one and the same database", "participant: copy", "other: orders"] {
        assert!(text(&error).contains(words), "{error}");
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_outboxes_the_one_to_wait_in_has_to_be_named() {
    let place = Place::new(Log::File).await;
    let [orders, billing] = &place.urls;
    let members = vec![member("orders", orders, true), member("billing", billing, true)];
    let (node, clients) = (place.node_of(members, place.decision_log()), place.clients().await);
    let mut transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    let message = || onecommit::Message::new("order.paid", "42", "{}").unwrap();
    let error = transaction.publish(message(), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        text(&error).contains("several participants") && text(&error).contains("orders, billing"),
        "{error}"
    );
    let [orders, billing]: [ParticipantName; 2] = super::NAMES.map(|name| name.parse().unwrap());
    transaction.publish(message(), Some(&billing)).unwrap();
    let error = transaction.publish(message(), Some(&orders)).unwrap_err();
    assert!(text(&error).contains("the same outbox"), "{error}");
    transaction.commit().await.unwrap();
    for (client, messages) in clients.iter().zip([0, 1]) {
        let count = client.query_one("select count(*) from onecommit.outbox", &[]).await.unwrap();
        assert_eq!(count.get::<_, i64>(0), messages);
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_messages_of_a_transaction_whose_home_was_ended_inside_are_not_published() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    for ended in ["commit", "rollback", "commit; begin", "rollback; begin"] {
        let mut transaction = begin(&node, &clients).await.unwrap();
        move_money(&clients).await;
        transaction.publish(onecommit::Message::new("order.paid", "42", "{}").unwrap(), None).unwrap();
        clients[0].batch_execute(ended).await.unwrap();
        let error = transaction.commit().await.unwrap_err();
        assert!(text(&error).contains("committed or rolled back inside"), "{ended}: {error}");
        // By themselves the statements that write them would be a transaction of their own.
        let count = clients[0].query_one("select count(*) from onecommit.outbox", &[]).await.unwrap();
        assert_eq!(count.get::<_, i64>(0), 0, "behind {ended}");
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_has_no_branch_and_it_is_said_why() {
    let place = Place::new(Log::File).await;
    let node = place.node().with_files(["local".parse().unwrap()].into());
    let clients = place.clients().await;
    let error = refused(&node, &[("orders", &clients[0]), ("local", &clients[1])]).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    for words in ["SQLite can't prepare", "onecommit.Outbox", "PostgreSQL", "participant: local"] {
        assert!(text(&error).contains(words), "{error}");
    }
    let error = refused(&node, &[("nowhere", &clients[0])]).await;
    assert!(text(&error).contains("there are billing, orders"), "{error}");
    node.close().await;
}

fn zookeeper_log(place: &Place, settings: ZookeeperSettings) -> Arc<dyn DecisionLog> {
    Arc::new(ZookeeperDecisionLog::new(settings, &place.namespace, place.incarnation).unwrap())
}

/// A transaction of which both branches write does not commit; one branch alone does.
async fn decides_nothing(place: &Place, node: &Node) -> onecommit::Error {
    let clients = place.clients().await;
    let transaction = begin(node, &clients).await.unwrap();
    move_money(&clients).await;
    let error = transaction.commit().await.unwrap_err();
    assert!(text(&error).contains("rolled back: nothing could be decided"), "{error}");
    assert_eq!((place.totals().await, place.prepared().await), ([100, 100], 0));
    let transaction = begin(node, &clients).await.unwrap();
    clients[0].batch_execute("update account set total = 70 where id = 1").await.unwrap();
    assert_eq!(transaction.commit().await.unwrap().protocol, Protocol::OnePhase);
    error
}

/// Turns everybody away, and counts them.
async fn closed_door() -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, tries) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&tries);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            drop(connection);
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, tries)
}

#[tokio::test]
async fn without_zookeeper_it_opens_says_so_once_and_one_branch_writes() {
    let (logged, _guard) = Logged::start();
    let place = Place::new(Log::File).await;
    let (servers, tries) = closed_door().await;
    let away = ZookeeperSettings { servers: servers.clone(), session_timeout: SHORT, ..place.zookeeper() };
    let node = place.node_with(zookeeper_log(&place, away));
    let error = decides_nothing(&place, &node).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    for words in ["ZooKeeper does not answer", "[zookeeper] servers", &servers] {
        assert!(text(&error).contains(words), "{error}");
    }
    let seen = tries.load(Ordering::SeqCst);
    until("it looks again", async || Ok(tries.load(Ordering::SeqCst)), |tries| *tries > seen + 5).await;
    logged.expect_once_each("transactions can't be settled now");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_that_was_not_prepared_there_is_named() {
    let place = Place::new(Log::File).await;
    let chroot = "/onecommit-tests-nobody-made-this".to_string();
    let elsewhere = ZookeeperSettings { chroot: Some(chroot.clone()), ..place.zookeeper() };
    let node = place.node_with(zookeeper_log(&place, elsewhere));
    let error = decides_nothing(&place, &node).await;
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    for words in ["does not know this namespace", "onecommit init", &chroot] {
        assert!(text(&error).contains(words), "{error}");
    }
    let client = crate::zookeeper_server::client().await;
    assert!(client.check_stat(&chroot).await.unwrap().is_none(), "nothing is made there");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_of_others_is_named() {
    let place = Place::new(Log::File).await;
    let user = |name: &str| ZookeeperSettings {
        user: Some(name.into()),
        password: Some("secret".into()),
        chroot: Some(format!("/onecommit-tests-{}", place.namespace)),
        ..place.zookeeper()
    };
    let owner = user("owner");
    answered(async || zookeeper::init(&owner, &place.namespace, place.incarnation).await).await;
    let node = place.node_with(zookeeper_log(&place, user("stranger")));
    let error = decides_nothing(&place, &node).await;
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    for words in ["ZooKeeper does not allow it", "[zookeeper] user", "/layout"] {
        assert!(text(&error).contains(words), "{error}");
    }
    assert!(!text(&error).contains("secret"), "{error}");
    node.close().await;
}

/// One that died with both branches prepared is not settled by a node with these participants, which says
/// `words` once; the node that has both settles it.
fn waits_for_its_participant(urls: impl Fn(&Place) -> Vec<(&'static str, String)>, words: &str) {
    let runtime = Runtime::new().unwrap();
    let place = runtime.block_on(Place::with_sessions_of(Log::File, SHORT));
    die(&place, Died::Decided);
    let watching = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    watching.block_on(async {
        let (logged, _guard) = Logged::start();
        let members = urls(&place).iter().map(|(name, url)| member(name, url, false)).collect();
        let node = place.node_of(members, place.decision_log());
        logged.wait(words).await;
        until("orders is settled", async || Ok(place.prepared().await), |prepared| *prepared == 1).await;
        node.close().await;
        assert_eq!(logged.said(words).len(), 1);
        assert_eq!(place.totals().await, [90, 100], "what is not there waits");
        let node = place.node();
        place.settled().await;
        assert_eq!(place.totals().await, [90, 110]);
        node.close().await;
    });
}

#[test]
fn a_participant_that_was_taken_out_is_named_and_settled_when_it_is_back() {
    waits_for_its_participant(
        |place| vec![("orders", place.urls[0].clone())],
        "a participant that is not in this configuration",
    );
}

#[test]
fn a_participant_that_was_renamed_is_named_and_settled_under_its_name() {
    waits_for_its_participant(
        |place| vec![("orders", place.urls[0].clone()), ("invoices", place.urls[1].clone())],
        "give it back under this name",
    );
}

#[test]
fn a_participant_that_was_moved_is_named_and_settled_where_it_was() {
    let runtime = Runtime::new().unwrap();
    let other = runtime.block_on(Place::new(Log::File));
    waits_for_its_participant(
        |place| vec![("orders", place.urls[0].clone()), ("billing", other.urls[1].clone())],
        "give the participant its old address",
    );
}

/// As by a process that is stopped in the middle of a write. Neither is it taken for somebody who lives for this
/// node's coordinator, nor does anything of those who did not wait for the end stay behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_decision_log_that_another_process_keeps_locked_is_told() {
    let place = Place::new(Log::File).await;
    drop(place.session().await);
    let (node, clients) = (place.node(), place.clients().await);
    let file = place.directory.join("decisions.db");
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("begin immediate").unwrap();
    let fails = async |deadline| {
        let options = Options { deadline: Some(deadline), ..Options::default() };
        let branches: Vec<_> = names().into_iter().zip(&clients).collect();
        let commits = async {
            let transaction = node.transaction(&branches, options).await?;
            move_money(&clients).await;
            transaction.commit().await
        };
        let error = commits.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        text(&error)
    };
    let mut silent = 0;
    let fails_again = async || {
        let late = fails(Duration::from_secs(2)).await;
        let is_silent = late.contains("the decision log did not answer");
        // On a slow machine it may come to the log too late, or be there when the wait for it ends.
        let others = ["took longer than its deadline", "the file is locked"];
        assert!(is_silent || others.iter().any(|words| late.contains(words)), "{late}");
        silent += usize::from(is_silent);
        Ok(silent)
    };
    until("two are told while it is waited for", fails_again, |silent| *silent == 2).await;
    let locked = fails(LIMIT).await;
    let file = format!("file: {}", file.display());
    for words in ["the file is locked: another process", "waited_ms: 10000", &file] {
        assert!(locked.contains(words), "{locked}");
    }
    other.execute_batch("rollback").unwrap();
    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    transaction.commit().await.unwrap();
    assert_eq!(place.totals().await, [90, 110]);
    node.close().await;
}
