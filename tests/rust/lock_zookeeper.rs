//! Locks in a real ZooKeeper: what only this backend owes beside the conformance suite.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use onecommit::decision_log::zookeeper::ZookeeperDecisionLog;
use onecommit::error::{ErrorKind, Result};
use onecommit::id::{Incarnation, Namespace, TransactionId};
use onecommit::lock::zookeeper::ZookeeperLocks;
use onecommit::lock::{Entrant, LockSession, LockStore};
use onecommit::protocol::lock::{Entry, Owner, Queue, Wait};
use onecommit::zookeeper::{ZookeeperSettings, init};
use tokio::time::Instant;
use zookeeper_client as zk;

use crate::conformance_lease::SHORT;
use crate::conformance_lock::{self as conformance, Session, Stores, begin, held, holder, lock};
use crate::patience::{answered, until};
use crate::zookeeper_server::{self, CHROOT, Proxy};

/// One prepared namespace of its own.
struct Place {
    settings: ZookeeperSettings,
    namespace: Namespace,
    incarnation: Incarnation,
}

impl Place {
    async fn new() -> Place {
        let (settings, namespace) = (zookeeper_server::settings(), zookeeper_server::namespace());
        let place = Place { settings, namespace, incarnation: Incarnation::random() };
        init(&place.settings, &place.namespace, place.incarnation).await.unwrap();
        place
    }

    fn stores(&self) -> Stores {
        let (settings, namespace, incarnation) = (&self.settings, &self.namespace, self.incarnation);
        let log = ZookeeperDecisionLog::new(settings.clone(), namespace, incarnation).unwrap();
        Stores { locks: Box::new(self.locks(settings.clone())), log: Box::new(log) }
    }

    fn locks(&self, settings: ZookeeperSettings) -> ZookeeperLocks {
        ZookeeperLocks::new(settings, &self.namespace, self.incarnation).unwrap()
    }

    async fn session(&self) -> Session {
        conformance::open(&self.stores()).await
    }

    async fn session_through(&self, proxy: &Proxy, session_timeout: Duration) -> Session {
        let settings =
            ZookeeperSettings { servers: proxy.address.clone(), session_timeout, ..self.settings.clone() };
        let locks = self.locks(settings);
        Arc::from(answered(async || locks.open().await).await)
    }

    fn path(&self, below: &str) -> String {
        format!("{CHROOT}/onecommit/{}/{below}", self.namespace)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_conforms() {
    conformance::suite(async || Place::new().await.stores()).await;
}

/// Counts how often somebody who waits is woken.
struct Counted {
    session: Session,
    woken: Arc<AtomicUsize>,
}

#[async_trait]
impl LockSession for Counted {
    async fn enter(&self, queue: &Queue, entrant: &Entrant) -> Result<()> {
        self.session.enter(queue, entrant).await
    }

    async fn entries(&self, queue: &Queue) -> Result<Vec<Entry>> {
        self.session.entries(queue).await
    }

    async fn is_there(&self, queue: &Queue, entry: &Entry) -> Result<bool> {
        self.session.is_there(queue, entry).await
    }

    async fn wait_for_end(&self, queue: &Queue, entry: &Entry, until: Instant) -> Result<()> {
        let waited = self.session.wait_for_end(queue, entry, until).await;
        self.woken.fetch_add(1, Ordering::SeqCst);
        waited
    }

    async fn begin_wait(
        &self,
        transaction: TransactionId,
        queue: &Queue,
    ) -> Result<BTreeMap<TransactionId, Wait>> {
        self.session.begin_wait(transaction, queue).await
    }

    async fn leave(&self, queue: &Queue, owner: Owner) -> Result<()> {
        self.session.leave(queue, owner).await
    }

    async fn end_waits(&self, transaction: TransactionId) -> Result<()> {
        self.session.end_waits(transaction).await
    }

    async fn discard_leftovers(&self) -> Result<u64> {
        self.session.discard_leftovers().await
    }

    async fn position(&self) -> Result<i64> {
        self.session.position().await
    }

    fn is_over(&self) -> bool {
        self.session.is_over()
    }

    fn timeout(&self) -> Option<Duration> {
        self.session.timeout()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_wakes_the_next_one_and_nobody_else() {
    const WAITING: usize = 10;
    let (place, queue) = (Place::new().await, lock("account/42"));
    let woken = Arc::new(AtomicUsize::new(0));
    let session = place.session().await;
    let counted: Session = Arc::new(Counted { session: Arc::clone(&session), woken: Arc::clone(&woken) });
    let first = holder();
    held(&session, &queue, first).await;
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        let entrant = holder();
        waiting.push((entrant, begin(&counted, &queue, entrant)));
    }
    let entries = async || session.entries(&queue).await;
    let mut order = until("all wait", entries, |all| all.len() == WAITING + 1).await;
    order.sort_by_key(|entry| entry.number);
    // Each watches by now, or does not have to be woken to see that it holds.
    tokio::time::sleep(Duration::from_millis(500)).await;
    session.leave(&queue, first.owner()).await.unwrap();
    for (count, entry) in order[1..].iter().enumerate() {
        let at = waiting.iter().position(|(entrant, _)| entrant.owner() == entry.owner).unwrap();
        assert_eq!(waiting.remove(at).1.await.unwrap().unwrap(), entry.number);
        assert!(woken.load(Ordering::SeqCst) <= count + 1, "{woken:?} were woken by {} who left", count + 1);
        session.leave(&queue, entry.owner).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_which_the_answer_was_lost_is_found_again() {
    let (place, queue) = (Place::new().await, lock("a"));
    let proxy = Proxy::start(&place.settings.servers).await;
    let session = place.session_through(&proxy, Duration::from_secs(60)).await;
    let (other, first) = (place.session().await, holder());
    held(&other, &queue, first).await;
    proxy.swallows_answers.send_replace(true);
    let asking = begin(&session, &queue, holder());
    until("it is in the queue", async || other.entries(&queue).await, |all| all.len() == 2).await;
    proxy.cut().await;
    proxy.swallows_answers.send_replace(false);
    other.leave(&queue, first.owner()).await.unwrap();
    let number = asking.await.unwrap().unwrap();
    let entries = other.entries(&queue).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), [number]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_lost_the_session_has_lost_the_lock() {
    let (place, queue) = (Place::new().await, lock("a"));
    let proxy = Proxy::start(&place.settings.servers).await;
    let cut_off = place.session_through(&proxy, SHORT).await;
    let first = held(&cut_off, &queue, holder()).await;
    let other = place.session().await;
    let waiting = begin(&other, &queue, holder());
    proxy.open.send_replace(false);
    assert!(waiting.await.unwrap().unwrap() > first);
    proxy.open.send_replace(true);
    until("its session is over", async || Ok(cut_off.is_over()), |is_over| *is_over).await;
}

#[tokio::test]
async fn what_this_release_does_not_know_is_nobodys_lock() {
    let (place, queue) = (Place::new().await, lock("a"));
    let session = place.session().await;
    held(&session, &queue, holder()).await;
    let client = zookeeper_server::client().await;
    let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    for (name, content) in [("x", ""), (&*format!("h:{}", Incarnation::random()), "\u{2}{}")] {
        let path = place.path(&format!("locks/a/{name}"));
        client.create(&path, content.as_bytes(), &options).await.unwrap();
        let refused = session.entries(&queue).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
        client.delete(&path, None).await.unwrap();
    }
    assert_eq!(session.entries(&queue).await.unwrap().len(), 1);
}
