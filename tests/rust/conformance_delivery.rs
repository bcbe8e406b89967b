//! What every delivery owes to a relay. A backend passes by calling [`suite`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use onecommit::delivery::{DeliveredMessage, Delivery, DeliveryScope, ShardDelivery};
use onecommit::id::{BarrierId, Epoch, ShardIndex};
use onecommit::message::{ID_HEADER, StoredMessage};
use onecommit::protocol::position::Position;
use onecommit::protocol::progress::{DatabaseIdentity, Progress};
use onecommit::{ErrorKind, Message, MessageId, Result};

use crate::patience::{LIMIT, anew_blocking, answered_blocking};

const SHARD: ShardIndex = ShardIndex(0);
/// A batch that is open for less is ended by no store.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// How often a check is made in which a batch stays open while others read.
pub(crate) const TIMES: usize = 3;

/// The backend under test.
pub trait Backend {
    /// A delivery of that scope; two calls are two processes' views of the same place.
    fn delivery(&self, scope: DeliveryScope) -> Box<dyn Delivery>;

    /// All that a consumer of committed messages sees of a topic, up to its end now.
    fn visible(&self, topic: &str) -> Vec<DeliveredMessage>;

    /// The same when everything is seen that is committed to a topic. No transaction is open in it.
    fn committed(&self, topic: &str) -> Vec<DeliveredMessage> {
        self.visible(topic)
    }
}

/// Runs every check, each with a scope and a topic of its own. Calls block.
pub fn suite(backend: &dyn Backend) {
    the_place_has_one_id(backend);
    a_topic_is_made_once(backend);
    progress_is_absent_until_it_is_committed(backend);
    messages_and_progress_are_committed_together(backend);
    every_content_arrives(backend);
    what_is_given_up_never_arrives(backend);
    a_fenced_predecessor_commits_nothing(backend);
    shards_do_not_fence_each_other(backend);
    the_order_of_sending_is_kept(backend);
    what_is_removed_is_forgotten_and_no_message_with_it(backend);
}

struct Place<'a> {
    backend: &'a dyn Backend,
    scope: DeliveryScope,
    topic: String,
}

impl<'a> Place<'a> {
    fn new(backend: &'a dyn Backend) -> Self {
        let unique = MessageId::random();
        let (prefix, topic) = (format!("onecommit.test.{unique}"), format!("topic.{unique}"));
        let scope = DeliveryScope { prefix, participant: "orders".parse().unwrap(), shards: 2 };
        let place = Place { backend, scope, topic };
        answered_blocking(|| place.delivery().init());
        answered_blocking(|| place.delivery().create_topic(&place.topic, Some(1)));
        place
    }

    fn delivery(&self) -> Box<dyn Delivery> {
        self.backend.delivery(self.scope.clone())
    }

    fn open(&self, epoch: i64) -> Box<dyn ShardDelivery> {
        self.open_shard(SHARD, epoch)
    }

    fn open_shard(&self, shard: ShardIndex, epoch: i64) -> Box<dyn ShardDelivery> {
        answered_blocking(|| self.delivery().open(shard, Epoch(epoch)))
    }

    fn peek(&self) -> Option<Progress> {
        answered_blocking(|| self.delivery().peek(SHARD))
    }

    fn messages(&self, numbers: std::ops::Range<i64>) -> Vec<StoredMessage> {
        let message = |number: i64| Message::new(&self.topic, number.to_string(), "x").unwrap();
        numbers.map(|number| stored(number, message(number))).collect()
    }

    fn keys(&self) -> Vec<i64> {
        let key = |message: &DeliveredMessage| String::from_utf8_lossy(message.key.as_ref().unwrap()).parse();
        self.backend.committed(&self.topic).iter().map(|message| key(message).unwrap()).collect()
    }
}

fn the_place_has_one_id(backend: &dyn Backend) {
    let place = Place::new(backend);
    let id = place.delivery().id().unwrap();
    assert!(!id.is_empty());
    assert_eq!(place.delivery().id().unwrap(), id);
    place.delivery().init().unwrap();
    assert_eq!(place.delivery().id().unwrap(), id, "init is idempotent");
}

fn a_topic_is_made_once(backend: &dyn Backend) {
    let place = Place::new(backend);
    let topic = format!("{}.another", place.topic);
    let mut tries = 0;
    let mut make = || {
        tries += 1;
        place.delivery().create_topic(&topic, None)
    };
    let made = answered_blocking(&mut make);
    assert!(!answered_blocking(&mut make));
    assert!(made || tries > 2, "only a try that got no answer in time may have made it before");
    assert_eq!(place.backend.committed(&topic), []);
}

fn progress_is_absent_until_it_is_committed(backend: &dyn Backend) {
    let place = Place::new(backend);
    assert_eq!(place.peek(), None);
    let mut shard = place.open(1);
    assert_eq!(shard.progress().unwrap(), None);
    // The birth record: progress without messages.
    shard.begin().unwrap();
    commit(&mut *shard, &progress(1, 0)).unwrap();
    assert_eq!(shard.progress().unwrap(), Some(progress(1, 0)));
    assert_eq!(place.peek(), Some(progress(1, 0)));
    drop(shard);
    assert_eq!(place.open(2).progress().unwrap(), Some(progress(1, 0)), "opened again");
}

fn what_is_removed_is_forgotten_and_no_message_with_it(backend: &dyn Backend) {
    let place = Place::new(backend);
    assert!(place.delivery().is_there().unwrap());
    let mut shard = place.open(3);
    shard.begin().unwrap();
    shard.send(&place.messages(0..5)).unwrap();
    commit(&mut *shard, &progress(3, 5)).unwrap();
    drop(shard);
    for _ in 0..2 {
        place.delivery().remove().unwrap();
    }
    place.delivery().init().unwrap();
    assert!(place.delivery().is_there().unwrap());
    assert_eq!(place.open(1).progress().unwrap(), None);
    assert_eq!(place.keys(), (0..5).collect::<Vec<_>>());
}

fn messages_and_progress_are_committed_together(backend: &dyn Backend) {
    anew_blocking(TIMES, || messages_and_progress_together(backend));
}

fn messages_and_progress_together(backend: &dyn Backend) -> Option<()> {
    let place = Place::new(backend);
    let mut shard = place.open(1);
    let began = Instant::now();
    shard.begin().unwrap();
    shard.send(&place.messages(0..10)).unwrap();
    shard.send(&place.messages(10..20)).unwrap();
    assert_eq!(backend.visible(&place.topic), [], "nothing is visible before the commit");
    assert_eq!(place.peek(), None);
    commit_in_time(&mut *shard, &progress(1, 20), began)?;
    assert_eq!(place.keys(), (0..20).collect::<Vec<_>>());
    assert_eq!(shard.progress().unwrap(), Some(progress(1, 20)));
    for round in 2..5 {
        shard.begin().unwrap();
        shard.send(&place.messages(round * 10..round * 10 + 10)).unwrap();
        commit(&mut *shard, &progress(1, round * 10 + 10)).unwrap();
        let settled = place.delivery().peek_settled(SHARD).unwrap();
        assert_eq!(settled, Some(progress(1, round * 10 + 10)), "a confirmed commit is seen");
    }
    drop(shard);
    assert_eq!(place.open(2).progress().unwrap(), Some(progress(1, 50)));
    assert_eq!(place.keys(), (0..50).collect::<Vec<_>>());
    Some(())
}

fn every_content_arrives(backend: &dyn Backend) {
    let place = Place::new(backend);
    let header = |name: &str, value: Option<&[u8]>| (name.to_string(), value.map(<[u8]>::to_vec));
    let repeated =
        vec![header("a", Some(b"1")), header("a", None), header("b", Some(b"")), header("a", Some(b"\0"))];
    let any_bytes: Vec<u8> = (0..=255).collect();
    let sent: Vec<StoredMessage> = [
        (Some(vec![]), Some(vec![]), vec![]),
        (None, Some(b"no key".to_vec()), vec![]),
        (Some(b"tombstone".to_vec()), None, vec![]),
        (Some(any_bytes.clone()), Some(any_bytes), repeated),
    ]
    .into_iter()
    .zip(0..)
    .map(|((key, value, headers), id)| {
        stored(id, Message::from_parts(&place.topic, key, value, headers, Some(0)).unwrap())
    })
    .collect();
    let mut shard = place.open(1);
    shard.begin().unwrap();
    shard.send(&sent).unwrap();
    commit(&mut *shard, &progress(1, 4)).unwrap();
    let arrived = place.backend.committed(&place.topic);
    assert_eq!(arrived.len(), sent.len());
    for (sent, arrived) in sent.iter().zip(&arrived) {
        assert_eq!(arrived.key.as_deref(), sent.message.key());
        assert_eq!(arrived.value.as_deref(), sent.message.value());
        assert_eq!(arrived.timestamp_ms, sent.created_at_ms);
        assert_eq!((arrived.topic.as_str(), arrived.partition), (place.topic.as_str(), 0));
        let id = header(ID_HEADER, Some(sent.message_id.to_string().as_bytes()));
        assert_eq!(arrived.headers, [sent.message.headers(), &[id]].concat());
    }
    assert!(arrived.is_sorted_by_key(|message| message.offset));
}

fn what_is_given_up_never_arrives(backend: &dyn Backend) {
    let place = Place::new(backend);
    let mut shard = place.open(1);
    shard.begin().unwrap();
    shard.send(&place.messages(0..3)).unwrap();
    commit(&mut *shard, &progress(1, 3)).unwrap();
    shard.begin().unwrap();
    shard.send(&place.messages(3..6)).unwrap();
    shard.seal(&progress(1, 6)).unwrap();
    shard.abort(LIMIT).unwrap();
    assert_eq!(place.keys(), [0, 1, 2]);
    assert_eq!(place.peek(), Some(progress(1, 3)));
    drop(shard);
    let mut shard = place.open(2);
    assert_eq!(shard.progress().unwrap(), Some(progress(1, 3)));
    shard.begin().unwrap();
    shard.send(&place.messages(6..9)).unwrap();
    commit(&mut *shard, &progress(2, 9)).unwrap();
    assert_eq!(place.keys(), [0, 1, 2, 6, 7, 8]);
    // A batch that is dropped half-way, as by a crash.
    shard.begin().unwrap();
    shard.send(&place.messages(9..12)).unwrap();
    drop(shard);
    assert_eq!(place.open(3).progress().unwrap(), Some(progress(2, 9)));
    assert_eq!(place.keys(), [0, 1, 2, 6, 7, 8]);
}

fn a_fenced_predecessor_commits_nothing(backend: &dyn Backend) {
    let place = Place::new(backend);
    let mut old = place.open(1);
    old.begin().unwrap();
    old.send(&place.messages(0..3)).unwrap();
    commit(&mut *old, &progress(1, 3)).unwrap();
    old.begin().unwrap();
    old.send(&place.messages(3..6)).unwrap();
    let mut new = place.open(2);
    assert_eq!(new.progress().unwrap(), Some(progress(1, 3)));

    let late = old.send(&place.messages(6..9)).and_then(|_| commit(&mut *old, &progress(1, 9)));
    let error = late.expect_err("a fenced predecessor must not commit");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert_eq!(place.keys(), [0, 1, 2]);
    assert_eq!(place.peek(), Some(progress(1, 3)));

    new.begin().unwrap();
    new.send(&place.messages(3..6)).unwrap();
    commit(&mut *new, &progress(2, 6)).unwrap();
    assert_eq!(place.keys(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(new.progress().unwrap(), Some(progress(2, 6)));
}

fn shards_do_not_fence_each_other(backend: &dyn Backend) {
    anew_blocking(TIMES, || two_shards_at_once(backend));
}

fn two_shards_at_once(backend: &dyn Backend) -> Option<()> {
    let place = Place::new(backend);
    let mut first = place.open(1);
    let mut second = place.open_shard(ShardIndex(1), 7);
    let began = Instant::now();
    // The first one's open batch must not hide the progress of the second.
    first.begin().unwrap();
    first.send(&place.messages(0..2)).unwrap();
    second.begin().unwrap();
    second.send(&place.messages(2..4)).unwrap();
    commit(&mut *second, &progress(7, 4)).unwrap();
    assert_eq!(second.progress().unwrap(), Some(progress(7, 4)));
    assert_eq!(first.progress().unwrap(), None);
    commit_in_time(&mut *first, &progress(1, 2), began)?;
    assert_eq!(first.progress().unwrap(), Some(progress(1, 2)));
    assert_eq!(second.progress().unwrap(), Some(progress(7, 4)));
    let mut keys = place.keys();
    keys.sort();
    assert_eq!(keys, [0, 1, 2, 3]);
    Some(())
}

fn the_order_of_sending_is_kept(backend: &dyn Backend) {
    let place = Place::new(backend);
    let mut shard = place.open(1);
    for batch in 0..3 {
        shard.begin().unwrap();
        for chunk in 0..4 {
            let first = batch * 1000 + chunk * 250;
            shard.send(&place.messages(first..first + 250)).unwrap();
        }
        commit(&mut *shard, &progress(1, batch * 1000 + 1000)).unwrap();
    }
    assert_eq!(place.keys(), (0..3000).collect::<Vec<_>>());
}

fn stored(id: i64, message: Message) -> StoredMessage {
    let created_at_ms = now_ms() + id;
    StoredMessage { id, message_id: MessageId::random(), transaction: id as u64, created_at_ms, message }
}

/// For messages' times: a store deletes by them what is older than its topic's retention.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

/// Ends a batch.
pub(crate) fn commit(shard: &mut dyn ShardDelivery, progress: &Progress) -> Result<()> {
    shard.seal(progress)?;
    shard.commit()
}

/// Ends a batch that was left open meanwhile. `None` where the machine stood still for so long that the store may have
/// ended it.
pub(crate) fn commit_in_time(
    shard: &mut dyn ShardDelivery,
    progress: &Progress,
    began: Instant,
) -> Option<()> {
    let committed = commit(shard, progress).inspect_err(|error| {
        assert!(error.is_retriable() && began.elapsed() >= OPEN_LIMIT, "{error}");
        eprintln!("not in time: {error}");
    });
    committed.ok()
}

fn progress(epoch: i64, last: i64) -> Progress {
    let (system, database) = ("7371".to_string(), "16384".to_string());
    let database = DatabaseIdentity { system, database, timeline: None };
    let birth = Progress::birth(Epoch(epoch), 2, database, Position::Sequence { last });
    let barrier = BarrierId("4e62d1c2-9f0e-4b61-8f0a-6f6f0f0c0d01".parse().unwrap());
    Progress { barrier: (last > 0).then_some(barrier.0), ..birth }
}
