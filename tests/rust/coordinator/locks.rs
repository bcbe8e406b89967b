//! Locks: of transactions, which stay until every branch is at its end, and of processes, which are told when they
//! have lost them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use onecommit::coordinator::{Dialogue, HeldLock, Next, Node, Options, Transaction};
use onecommit::decision_log::zookeeper::ZookeeperDecisionLog;
use onecommit::decision_log::{DecisionLog, Registered};
use onecommit::id::{LockName, TransactionId};
use onecommit::lock::LockSession;
use onecommit::lock::zookeeper::ZookeeperLocks;
use onecommit::protocol::lock::{Owner, Purpose, Queue};
use onecommit::protocol::transaction::Protocol;
use onecommit::zookeeper::ZookeeperSettings;
use onecommit::{Error, ErrorKind, Result};
use tokio::runtime::Runtime;
use tokio_postgres::Client;

use super::recovery::{Died, drive_to, take_for_dead};
use super::{Log, NAMES, Place, SHORT, begin, drive, member, move_money, names, settings};
use crate::patience::{LIMIT, anew, answered, until};
use crate::zookeeper_server::Proxy;

fn name(text: &str) -> LockName {
    text.parse().unwrap()
}

fn account() -> LockName {
    name("account/1")
}

async fn lock_session(place: &Place) -> Box<dyn LockSession> {
    let locks = place.locks();
    answered(async || locks.open().await).await
}

/// Whether a transaction is in the lock's queue.
async fn is_queued(session: &dyn LockSession, id: TransactionId) -> bool {
    let queue = Queue { purpose: Purpose::Lock, name: account() };
    let entries = answered(async || session.entries(&queue).await).await;
    entries.iter().any(|entry| entry.owner == Owner::Transaction(id))
}

/// The next one reads what the one before has written, in both databases.
async fn one_holds_it_at_a_time(log: Log) {
    let place = Place::new(log).await;
    let nodes = [Arc::new(place.node()), Arc::new(place.node())];
    let place = Arc::new(place);
    let mut working = Vec::new();
    for worker in 0..4 {
        let (node, place) = (Arc::clone(&nodes[worker % 2]), Arc::clone(&place));
        working.push(tokio::spawn(async move {
            let (clients, mut numbers) = (place.clients().await, Vec::new());
            for _ in 0..4 {
                let mut transaction = begin(&node, &clients).await.unwrap();
                let number = transaction.lock(&account(), None).await.unwrap();
                assert_eq!(transaction.lock(&account(), None).await.unwrap(), number);
                // Read and written apart: only the lock keeps others out in between.
                for (client, change) in clients.iter().zip([-5, 5]) {
                    let row = client.query_one("select total from account where id = 1", &[]).await.unwrap();
                    let total = row.get::<_, i32>(0) + change;
                    let sql = format!("update account set total = {total} where id = 1");
                    client.batch_execute(&sql).await.unwrap();
                }
                assert!(transaction.commit().await.unwrap().is_applied);
                numbers.push(number);
            }
            assert!(numbers.is_sorted(), "{numbers:?}");
            numbers
        }));
    }
    let mut numbers = Vec::new();
    for worker in working {
        numbers.extend(worker.await.unwrap());
    }
    assert_eq!(place.totals().await, [100 - 16 * 5, 100 + 16 * 5]);
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 16, "a number was handed out twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_transaction_holds_a_lock_at_a_time_in_a_file() {
    one_holds_it_at_a_time(Log::File).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_transaction_holds_a_lock_at_a_time_in_zookeeper() {
    one_holds_it_at_a_time(Log::Zookeeper).await;
}

/// A node that has moved money under a lock, and dies behind the decision: nothing is applied.
fn die_with_a_lock(place: &Place) -> TransactionId {
    let runtime = Runtime::new().unwrap();
    let left = runtime.block_on(async {
        let (node, clients) = (place.node(), place.clients().await);
        let mut dialogue = node.begin(&names(), Options::default()).unwrap();
        drive(&mut dialogue, &clients, |_| false).await;
        dialogue.lock(&account(), None).await.unwrap();
        move_money(&clients).await;
        dialogue.commit();
        let last = drive_to(&mut dialogue, &clients, Died::Decided).await;
        assert!(matches!(last, Next::Work), "{last:?}");
        assert_eq!(place.prepared().await, 2);
        (node, dialogue)
    });
    runtime.shutdown_background();
    let id = left.1.id();
    take_for_dead(place, &[id]);
    id
}

/// First only one of both databases can be settled: the lock stays until the other one is, too.
fn a_lock_outlives_its_holder(log: Log) {
    let runtime = Runtime::new().unwrap();
    let place = runtime.block_on(Place::new(log));
    let id = die_with_a_lock(&place);
    runtime.block_on(async {
        let members = vec![member(NAMES[0], &place.urls[0], false)];
        let half = place.node_of(members, place.decision_log());
        until("one branch is settled", async || Ok(place.prepared().await), |prepared| *prepared == 1).await;
        let clients = place.clients().await;
        let orders = [(NAMES[0].parse().unwrap(), &clients[0])];
        let mut early = half.transaction(&orders, Options::default()).await.unwrap();
        // Not released before everything is applied.
        is_had(async |limit| early.lock(&account(), Some(limit)).await).await;
        early.roll_back().await.unwrap();
        let session = lock_session(&place).await;
        assert!(is_queued(&*session, id).await);

        let node = place.node();
        let mut next = begin(&node, &clients).await.unwrap();
        next.lock(&account(), None).await.unwrap();
        assert_eq!(
            (place.totals().await, place.prepared().await),
            ([90, 110], 0),
            "the old balance was read"
        );
        next.commit().await.unwrap();
        node.close().await;
        half.close().await;
    });
}

#[test]
fn a_lock_in_a_file_outlives_its_holder_until_all_is_applied() {
    a_lock_outlives_its_holder(Log::File);
}

#[test]
fn a_lock_in_zookeeper_outlives_its_holder_until_all_is_applied() {
    a_lock_outlives_its_holder(Log::Zookeeper);
}

/// What a node shows of its locks: name, number.
fn listed(node: &Node) -> Vec<(String, i64)> {
    let locks = node.holdings().locks(Duration::ZERO);
    locks.into_iter().map(|(queue, number)| (queue.name.to_string(), number)).collect()
}

/// It is not given up while a branch is not applied, also by a holder that lives: the way to one database is cut
/// behind the decision.
async fn a_lock_stays_until_it_is_applied(log: Log) {
    let place = Place::new(log).await;
    let server = place.urls[1].rsplit_once('/').unwrap().0.rsplit_once('@').unwrap().1;
    let proxy = Proxy::start(server).await;
    let through = place.urls[1].replace(server, &proxy.address);
    let members = vec![member(NAMES[0], &place.urls[0], true), member(NAMES[1], &through, false)];
    let (node, clients) = (place.node_of(members, place.decision_log()), place.clients().await);
    let mut dialogue = node.begin(&names(), Options::default()).unwrap();
    drive(&mut dialogue, &clients, |_| false).await;
    let number = dialogue.lock(&account(), None).await.unwrap();
    let held = [("account/1".to_string(), number)];
    move_money(&clients).await;
    dialogue.commit();
    drive_to(&mut dialogue, &clients, Died::Decided).await;
    let (session, id) = (lock_session(&place).await, dialogue.id());
    proxy.open.send_replace(false);
    drop(dialogue);
    until("one branch is applied", async || Ok(place.prepared().await), |prepared| *prepared == 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(is_queued(&*session, id).await, "released before it was applied");
    assert_eq!(listed(&node), held);
    proxy.open.send_replace(true);
    until("it is left", async || Ok(is_queued(&*session, id).await), |is_queued| !is_queued).await;
    until("it is listed no more", async || Ok(listed(&node)), Vec::is_empty).await;
    assert_eq!((place.prepared().await, place.totals().await), (0, [90, 110]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_in_a_file_stays_until_all_is_applied() {
    a_lock_stays_until_it_is_applied(Log::File).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_in_zookeeper_stays_until_all_is_applied() {
    a_lock_stays_until_it_is_applied(Log::Zookeeper).await;
}

/// However a transaction ends, its lock is free behind it; and who held one alone wrote by two phases.
async fn every_end_gives_it_up(log: Log) {
    let place = Place::new(log).await;
    let (node, clients) = (place.node(), place.clients().await);
    let session = lock_session(&place).await;
    let locked = async || {
        let mut transaction = begin(&node, &clients).await.unwrap();
        transaction.lock(&account(), None).await.unwrap();
        transaction
    };
    let read_only = locked().await;
    let id = read_only.id();
    assert_eq!(read_only.commit().await.unwrap().protocol, Protocol::ReadOnly);
    assert!(!is_queued(&*session, id).await, "behind a transaction that only read");

    let one_writer = locked().await;
    clients[0].batch_execute("update account set total = 1 where id = 2").await.unwrap();
    let id = one_writer.id();
    assert_eq!(one_writer.commit().await.unwrap().protocol, Protocol::TwoPhase);
    assert!(!is_queued(&*session, id).await, "behind a commit");

    let rolled_back = locked().await;
    move_money(&clients).await;
    let id = rolled_back.id();
    rolled_back.roll_back().await.unwrap();
    assert!(!is_queued(&*session, id).await, "behind a roll back");

    let dropped = locked().await;
    let id = dropped.id();
    drop(dropped);
    until("it is left", async || Ok(is_queued(&*session, id).await), |is_queued| !is_queued).await;
    locked().await.roll_back().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_transaction_gives_up_its_lock_in_a_file() {
    every_end_gives_it_up(Log::File).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_a_transaction_gives_up_its_lock_in_zookeeper() {
    every_end_gives_it_up(Log::Zookeeper).await;
}

/// Two transactions of two nodes that take two locks crosswise.
async fn a_deadlock_is_told(log: Log) {
    let place = Place::new(log).await;
    let nodes = [place.node(), place.node()];
    let clients = [place.clients().await, place.clients().await];
    let mut first = begin(&nodes[0], &clients[0]).await.unwrap();
    let mut second = begin(&nodes[1], &clients[1]).await.unwrap();
    first.lock(&name("a"), None).await.unwrap();
    second.lock(&name("b"), None).await.unwrap();
    let limit = Some(LIMIT / 4);
    let one = async {
        let locked = first.lock(&name("b"), limit).await;
        // Whoever is told runs again, and so gives up what the other one waits for.
        first.roll_back().await.unwrap();
        locked
    };
    let other = async {
        let locked = second.lock(&name("a"), limit).await;
        second.roll_back().await.unwrap();
        locked
    };
    let told: Vec<_> = <[_; 2]>::from(tokio::join!(one, other)).into_iter().filter_map(Result::err).collect();
    for error in &told {
        assert!(error.to_string().contains("a deadlock"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
    assert_eq!(told.len(), 1, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_of_two_transactions_is_told_to_one_in_a_file() {
    a_deadlock_is_told(Log::File).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_of_two_transactions_is_told_to_one_in_zookeeper() {
    a_deadlock_is_told(Log::Zookeeper).await;
}

/// How ZooKeeper is reached through a proxy, by one that dies when it is cut off.
fn through(place: &Place, proxy: &Proxy) -> ZookeeperSettings {
    ZookeeperSettings { servers: proxy.address.clone(), session_timeout: SHORT, ..place.zookeeper() }
}

fn node_through(place: &Place, proxy: &Proxy) -> Node {
    let log = ZookeeperDecisionLog::new(through(place, proxy), &place.namespace, place.incarnation).unwrap();
    node_with_locks_through(place, proxy, Arc::new(log))
}

/// One whose locks alone go through it.
fn node_with_locks_through(place: &Place, proxy: &Proxy, log: Arc<dyn DecisionLog>) -> Node {
    let (namespace, incarnation) = (place.namespace.clone(), place.incarnation);
    let locks = ZookeeperLocks::new(through(place, proxy), &namespace, incarnation).unwrap();
    Node::open(namespace, incarnation, place.members(), log, Arc::new(locks), settings())
}

/// A transaction that has the lock. Its node may have lost the session before, where the machine stood still: the next
/// coordinator takes its place.
async fn begin_locked<'a>(node: &Node, clients: &'a [Client; 2]) -> (Transaction<'a>, i64) {
    answered(async || {
        let mut transaction = begin(node, clients).await?;
        let number = transaction.lock(&account(), None).await?;
        Ok((transaction, number))
    })
    .await
}

async fn cut_off() -> (Place, Proxy, Node) {
    let place = Place::new(Log::Zookeeper).await;
    let proxy = Proxy::start(&place.zookeeper().servers).await;
    let node = node_through(&place, &proxy);
    (place, proxy, node)
}

/// Its lock is given to the next one as soon as its coordinator is recovered: so it must not commit any more, also
/// where it has written to one database only.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_taken_for_dead_commits_and_locks_nothing_more() {
    let (place, proxy, node) = cut_off().await;
    let (clients, others) = (place.clients().await, place.clients().await);
    let (mut paused, before) = begin_locked(&node, &clients).await;
    clients[0].batch_execute("update account set total = total - 10 where id = 2").await.unwrap();
    proxy.open.send_replace(false);

    let other = place.node();
    let mut next = begin(&other, &others).await.unwrap();
    assert!(next.lock(&account(), None).await.unwrap() > before);
    proxy.open.send_replace(true);
    let locked = answered(async || match paused.lock(&name("another"), None).await {
        Err(error) if error.kind() == ErrorKind::Fenced => Ok(error),
        Err(error) if error.is_retriable() => Err(error),
        locked => panic!("{locked:?}"),
    });
    locked.await;
    let refused = paused.commit().await.unwrap_err();
    assert!(!matches!(refused.kind(), ErrorKind::InDoubt), "{refused}");
    let sql = "select total from account where id = 2";
    assert_eq!(others[0].query_one(sql, &[]).await.unwrap().get::<_, i32>(0), 100);
    next.commit().await.unwrap();
}

/// It is its coordinator's, which lives; the session of the locks may end alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_outlives_the_session_in_which_it_was_taken() {
    let place = Place::new(Log::Zookeeper).await;
    let proxy = Proxy::start(&place.zookeeper().servers).await;
    let (node, other) = (node_with_locks_through(&place, &proxy, place.decision_log()), place.node());
    let (clients, others) = (place.clients().await, place.clients().await);
    let (transaction, number) = begin_locked(&node, &clients).await;
    let held = node.lock(&name("of the session"), LIMIT).await.unwrap();
    move_money(&clients).await;
    proxy.open.send_replace(false);
    let next_one = other.lock(&name("of the session"), LIMIT).await.unwrap();
    assert!(!held.is_held() && next_one.is_held(), "its session is over");

    is_had(async |limit| {
        let mut waits = begin(&other, &others).await?;
        let locked = waits.lock(&account(), Some(limit)).await;
        waits.roll_back().await?;
        locked
    })
    .await;
    assert!(transaction.commit().await.unwrap().is_applied, "its coordinator lives");
    proxy.open.send_replace(true);
    let mut next = begin(&other, &others).await.unwrap();
    assert!(next.lock(&account(), None).await.unwrap() > number);
    assert_eq!(place.totals().await, [90, 110]);
}

/// A transaction with the lock just before its decision, of a coordinator that lives.
async fn prepare_locked(place: &Place, node: &Node) -> (Dialogue, [Client; 2]) {
    let session = place.session().await;
    answered(async || {
        let clients = place.clients().await;
        let mut dialogue = node.begin(&names(), Options::default())?;
        drive(&mut dialogue, &clients, |_| false).await;
        dialogue.lock(&account(), None).await?;
        move_money(&clients).await;
        dialogue.commit();
        drive_to(&mut dialogue, &clients, Died::Undecided).await;
        let (coordinator, is_prepared) = (dialogue.id().coordinator, place.prepared().await == 2);
        let lives = session.coordinators().await?.contains(&Registered { coordinator, is_live: true });
        // Who recovers it counts as live, too.
        if is_prepared && lives && !session.is_taken_over(coordinator).await? {
            return Ok((dialogue, clients));
        }
        Err(Error::new(ErrorKind::Fenced, "prepare", "the machine stood still, and its session is over"))
    })
    .await
}

/// The same with the decision on its way, of which the answer never comes. `None` where the session was over before it
/// was sent.
async fn in_doubt(place: &Place, proxy: &Proxy, node: &Node) -> Option<(Dialogue, [Client; 2])> {
    let (mut dialogue, clients) = prepare_locked(place, node).await;
    proxy.swallows_answers.send_replace(true);
    let ended = drive(&mut dialogue, &clients, |_| false).await;
    proxy.cut().await;
    proxy.swallows_answers.send_replace(false);
    let Next::Ended(Err(doubt)) = ended else { panic!("{ended:?}") };
    assert!(matches!(doubt.kind(), ErrorKind::InDoubt | ErrorKind::Fenced), "{doubt}");
    (doubt.kind() == ErrorKind::InDoubt).then_some((dialogue, clients))
}

/// Whoever recovers the coordinator has the word, and until then the lock stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_in_doubt_is_not_given_up_by_its_holder() {
    let (place, proxy, node) = cut_off().await;
    let (dialogue, clients) = anew(5, async || in_doubt(&place, &proxy, &node).await).await;
    let (session, id) = (lock_session(&place).await, dialogue.id());
    drop(dialogue);
    // Its node goes on, and could give it up by now.
    let goes_on = async || {
        let mut transaction = begin(&node, &clients).await?;
        transaction.lock(&name("another"), None).await?;
        transaction.roll_back().await
    };
    answered(goes_on).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(is_queued(&*session, id).await, "given up without knowing how it ended");
    place.settled().await;
    let _next = begin_locked(&node, &clients).await;
    let totals = place.totals().await;
    assert!(totals == [100, 100] || totals == [90, 110], "{totals:?}");
}

/// What waits for as short as this is told that somebody else has it; unless not even the queue was reached in time.
async fn is_had<T>(mut attempt: impl AsyncFnMut(Duration) -> Result<T>) {
    let began = Instant::now();
    loop {
        match attempt(Duration::from_millis(100)).await {
            Ok(_) => panic!("two have it"),
            Err(error) if error.kind() == ErrorKind::Conflict => return,
            Err(error) => assert!(error.is_retriable() && began.elapsed() < LIMIT, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_a_process_and_one_of_a_transaction_are_the_same() {
    for log in [Log::File, Log::Zookeeper] {
        let place = Place::new(log).await;
        let (node, clients) = (place.node(), place.clients().await);
        let held = node.lock(&account(), LIMIT).await.unwrap();
        assert!(held.is_held());
        let mut transaction = begin(&node, &clients).await.unwrap();
        is_had(async |limit| transaction.lock(&account(), Some(limit)).await).await;
        let before = held.number();
        held.release().await.unwrap();
        assert!(transaction.lock(&account(), None).await.unwrap() > before);
        is_had(async |limit| node.lock(&account(), limit).await).await;
        node.lead(&account(), Some(LIMIT)).await.unwrap().release().await.unwrap();
        transaction.commit().await.unwrap();
        drop(node.lock(&account(), LIMIT).await.unwrap());
        node.lock(&account(), LIMIT).await.unwrap();
    }
}

/// Whoever waits holds nothing yet, and who has given up holds nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_lists_what_it_holds() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let lock = node.lock(&name("report"), LIMIT).await.unwrap();
    let mut transaction = begin(&node, &clients).await.unwrap();
    let number = transaction.lock(&account(), None).await.unwrap();
    assert_eq!(transaction.lock(&account(), None).await.unwrap(), number);
    is_had(async |limit| transaction.lock(&name("report"), Some(limit)).await).await;
    is_had(async |limit| node.lock(&account(), limit).await).await;
    let leader = node.lead(&name("report"), None).await.unwrap();
    let of = |name: &str, number| (name.to_string(), number);
    let all = [of("report", lock.number()), of("account/1", number), of("report", leader.number())];
    assert_eq!(listed(&node), all);

    lock.release().await.unwrap();
    assert_eq!(listed(&node), all[1..]);
    transaction.commit().await.unwrap();
    assert_eq!(listed(&node), all[2..]);
    let again = node.lock(&account(), LIMIT).await.unwrap();
    drop(leader);
    until("it is given up", async || Ok(listed(&node)), |listed| listed.len() == 1).await;
    let holdings = node.holdings();
    node.close().await;
    assert_eq!(holdings.locks(Duration::ZERO), [], "closed");
    assert_eq!(again.release().await.unwrap_err().kind(), ErrorKind::Fenced);
}

async fn is_told(held: &HeldLock) {
    tokio::time::timeout(LIMIT, held.lost()).await.expect("nobody was told");
    assert!(!held.is_held());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_lost_the_session_is_told_before_another_one_holds_the_lock() {
    let (place, proxy, node) = cut_off().await;
    let other = place.node();
    let held = node.lock(&account(), LIMIT).await.unwrap();
    proxy.open.send_replace(false);
    let next = other.lock(&account(), LIMIT).await.unwrap();
    assert!(!held.is_held(), "two claim it");
    is_told(&held).await;
    until("it is listed no more", async || Ok(listed(&node)), Vec::is_empty).await;
    assert!(next.number() > held.number());
    proxy.open.send_replace(true);
    assert_eq!(held.release().await.unwrap_err().kind(), ErrorKind::Fenced);
    next.release().await.unwrap();
    // A session that has ended by now is followed by another one.
    let locks = async || Ok(node.lock(&account(), LIMIT).await?.is_held());
    until("the node goes on in another session", locks, |is_held| *is_held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_has_lost_its_session_is_told_and_succeeded() {
    let (place, proxy, node) = cut_off().await;
    let other = place.node();
    let billing = name("billing");
    let leader = node.lead(&billing, None).await.unwrap();
    proxy.open.send_replace(false);
    let next = other.lead(&billing, None).await.unwrap();
    assert!(!leader.is_held(), "two lead");
    is_told(&leader).await;
    assert!(next.number() > leader.number());
    proxy.open.send_replace(true);
    is_had(async |limit| node.lead(&billing, Some(limit)).await).await;
    // It stands again, and is elected where the next one resigns.
    let stands = async || Ok(node.lead(&billing, None).await?.is_held());
    let elected = until("it is elected", stands, |is_held| *is_held);
    let (_, resigned) = tokio::join!(elected, next.release());
    resigned.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_deleted_by_hand_is_lost() {
    let place = Place::with_sessions_of(Log::File, SHORT).await;
    let node = place.node();
    let held = node.lock(&account(), LIMIT).await.unwrap();
    let file = rusqlite::Connection::open(place.directory.join("decisions.db")).unwrap();
    file.execute("delete from lock_entry", ()).unwrap();
    is_told(&held).await;
}

/// What a person runs who has looked after whoever stored a number.
const CONFIRM: &str = "delete from onecommit.coordinator where id = '00000000-0000-0000-0000-000000000000'";

async fn is_refused(place: &Place) {
    let (node, clients) = (place.node(), place.clients().await);
    let refused = node.lock(&account(), LIMIT).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    assert!(refused.to_string().contains(CONFIRM), "{refused}");
    let mut transaction = begin(&node, &clients).await.unwrap();
    let refused = transaction.lock(&account(), None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    transaction.roll_back().await.unwrap();
    for client in &clients {
        client.batch_execute(CONFIRM).await.unwrap();
    }
    node.lock(&account(), LIMIT).await.unwrap().release().await.unwrap();
    node.close().await;
}

async fn take_locks(place: &Place, times: usize) {
    let node = place.node();
    for _ in 0..times {
        node.lock(&account(), LIMIT).await.unwrap().release().await.unwrap();
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_restored_locks_nothing_until_a_person_has_confirmed_it() {
    let place = Place::new(Log::File).await;
    take_locks(&place, 2).await;
    let (file, copy) = (place.directory.join("decisions.db"), place.directory.join("copy.db"));
    let sql = format!("vacuum into '{}'", copy.display());
    rusqlite::Connection::open(&file).unwrap().execute(&sql, ()).unwrap();
    take_locks(&place, 2).await;
    // What a node notes when it opens is what was handed out before.
    take_locks(&place, 1).await;
    for ending in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(place.directory.join(format!("decisions.db{ending}")));
    }
    std::fs::rename(&copy, &file).unwrap();
    is_refused(&place).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_that_is_older_than_a_participant_knows_locks_nothing() {
    let place = Place::new(Log::Zookeeper).await;
    take_locks(&place, 1).await;
    let billing = &place.clients().await[1];
    let sql = "update onecommit.coordinator set mark = mark + 4294967296 \
               where id = '00000000-0000-0000-0000-000000000000'";
    assert_eq!(billing.execute(sql, &[]).await.unwrap(), 1);
    is_refused(&place).await;
}
