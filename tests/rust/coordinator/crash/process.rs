//! The process that is killed, and what it does until then.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use onecommit::Message;
use onecommit::coordinator::{CoordinatorSettings, Node, Options};
use onecommit::id::{CoordinatorId, LockName, TransactionId};
use onecommit::lock::Entrant;
use onecommit::protocol::decision::Record;
use onecommit::protocol::lock::{Purpose, Queue};
use tokio_postgres::Client;

use super::{FAILPOINTS_LOG, Way, says_hit};
use crate::coordinator::recovery::{Died, drive_to};
use crate::coordinator::{Place, begin, drive, names, settings};
use crate::patience::{LIMIT, answered, until};

pub(super) const PLACE: &str = "ONECOMMIT_TEST_PLACE";
pub(super) const WAY: &str = "ONECOMMIT_TEST_WAY";
pub(super) const TOLD: &str = "committed ";
/// How many transactions a process makes at least that is not killed. It goes on until the step was hit:
/// some are taken by time, and not by each transaction.
const TRANSACTIONS: i32 = 12;
/// A caller gives up at different moments of a decision.
const MOMENTS_MS: i32 = 8;

pub(super) async fn write(clients: &[Client; 2], number: i32) {
    // To and fro, so that no account is ever empty.
    let there = if number % 2 == 0 { 1 } else { -1 };
    for (client, change) in clients.iter().zip([-there, there]) {
        let sql = format!(
            "update account set total = total + {change} where id = 1; insert into entry values ({number})"
        );
        client.batch_execute(&sql).await.unwrap();
    }
}

/// What a transaction of this number has to say.
pub(super) fn message(place: &Place, number: i32) -> Message {
    Message::new(place.topic(), number.to_string(), "moved").unwrap()
}

/// The numbers of the transactions that are to be made.
fn numbers() -> impl Iterator<Item = i32> {
    let (began, log) = (Instant::now(), std::env::var(FAILPOINTS_LOG).unwrap());
    let is_done =
        move |number| (number >= TRANSACTIONS && says_hit(Path::new(&log))) || began.elapsed() > LIMIT;
    (0..).take_while(move |number| !is_done(*number))
}

async fn make_transactions(node: &Node, place: &Place) {
    let clients = place.clients().await;
    for number in numbers() {
        let mut transaction = begin(node, &clients).await.unwrap();
        write(&clients, number).await;
        transaction.publish(message(place, number), None).unwrap();
        match transaction.commit().await {
            Ok(_) => println!("{TOLD}{number}"),
            Err(error) => println!("{number}: {error}"),
        }
    }
}

/// Leaves each transaction to the settler while it is being decided.
async fn make_doubtful_transactions(node: &Node, place: &Place) {
    let clients = place.clients().await;
    for number in numbers() {
        let mut dialogue = node.begin(&names(), Options::default()).unwrap();
        drive(&mut dialogue, &clients, |_| false).await;
        write(&clients, number).await;
        dialogue.publish(message(place, number), None).unwrap();
        dialogue.commit();
        drive_to(&mut dialogue, &clients, Died::Undecided).await;
        let moment = Duration::from_millis((number % MOMENTS_MS).unsigned_abs().into());
        let _ = tokio::time::timeout(moment, dialogue.work()).await;
    }
}

/// The lock that all of them take.
pub(in crate::coordinator) fn account() -> LockName {
    "account/1".parse().unwrap()
}

/// Two at a time, so that one waits for the other; each reads what the ones before have written.
async fn make_locked_transactions(node: &Node, place: &Place) {
    leave_an_entry(&place.lasting()).await;
    let make = async |first: i32| {
        let clients = place.clients().await;
        for number in numbers() {
            let number = first + number;
            let mut transaction = begin(node, &clients).await.unwrap();
            if let Err(error) = transaction.lock(&account(), None).await {
                println!("{number}: {error}");
                continue;
            }
            write(&clients, number).await;
            match transaction.commit().await {
                Ok(_) => println!("{TOLD}{number}"),
                Err(error) => println!("{number}: {error}"),
            }
        }
    };
    tokio::join!(make(0), make(1_000_000));
}

/// Of a coordinator that has no record any more; it is found, and counts for nothing.
async fn leave_an_entry(place: &Place) {
    let (log, store) = (place.session().await, place.locks());
    // An error is the step's that this process is to meet.
    let locks = match store.open().await {
        Ok(locks) => locks,
        Err(_) => answered(async || store.open().await).await,
    };
    let coordinator = CoordinatorId::random();
    let (host, participants) = (String::new(), BTreeMap::new());
    let record = Record { host, pid: 0, is_orphan: false, participants };
    let fence = answered(async || log.register(coordinator, &record).await).await;
    let queue = Queue { purpose: Purpose::Lock, name: account() };
    let left = Entrant::Transaction(TransactionId { coordinator, number: 1 }, fence);
    let _ = locks.enter(&queue, &left).await;
    answered(async || log.remove(fence, &[], &[]).await).await;
    let _ = locks.discard_leftovers().await;
}

/// Not a test of its own: what the test has done by another process.
#[tokio::test(flavor = "multi_thread")]
async fn another_process() {
    let (Ok(text), Ok(way)) = (std::env::var(PLACE), std::env::var(WAY)) else { return };
    let place = Place::from_text(&text);
    let is = |other: Way| way == format!("{other:?}");
    let outcomes_max = if is(Way::Forget) { 0 } else { settings().outcomes_max };
    let node = place.node_as(CoordinatorSettings { outcomes_max, ..settings() });
    if is(Way::Work) {
        make_transactions(&node, &place).await;
        return node.close().await;
    }
    if is(Way::Lock) {
        make_locked_transactions(&node, &place).await;
        return node.close().await;
    }
    if is(Way::Doubt) {
        make_doubtful_transactions(&node, &place).await;
        return node.close().await;
    }
    if is(Way::LetGo) {
        let session = place.lasting().session().await;
        let taken = async || session.coordinators().await;
        until("it is taken over", taken, |all| all.iter().any(|one| one.is_live)).await;
        node.close().await;
    }
    // Until it is killed.
    std::future::pending::<()>().await;
}
