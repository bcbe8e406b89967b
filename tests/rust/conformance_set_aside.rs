//! What every outbox owes for messages that are set aside. A backend passes by calling [`suite`].

use std::collections::BTreeSet;

use onecommit::id::{BarrierId, Epoch, ShardIndex};
use onecommit::message::StoredMessage;
use onecommit::outbox::{AsideCounts, Chunk, Delivered, HeldTopic, Outbox, Request, Selection, Voucher};
use onecommit::protocol::position::Position;
use onecommit::protocol::progress::Progress;
use onecommit::protocol::sieve::{Aside, parked_key};
use onecommit::{ErrorKind, Message, MessageId};

use crate::conformance_outbox::{Place, drain, reading};

const SHARD: ShardIndex = ShardIndex(0);
const EPOCH: Epoch = Epoch(1);
const TOPIC: &str = "numbers";

/// Runs every check, each in a database of its own, in which `init` was never run.
pub async fn suite(fresh: impl AsyncFn() -> Place) {
    what_is_set_aside_outlives_pruning(fresh().await).await;
    a_new_owner_learns_what_its_position_has_not_passed(fresh().await).await;
    a_voucher_is_there_and_younger_than_every_barrier_before(fresh().await).await;
    what_waits_is_due_only_when_nothing_keeps_it_back(fresh().await).await;
    a_topic_on_hold_keeps_its_messages_back(fresh().await).await;
    what_the_progress_has_cleared_is_removed_by_the_next_owner(fresh().await).await;
    a_verdict_replaces_the_record_and_waiting_changes_nothing(fresh().await).await;
    an_older_epoch_changes_nothing(fresh().await).await;
    a_dead_topic_makes_dead_letters(fresh().await).await;
    people_see_and_choose_dead_letters(fresh().await).await;
    a_message_that_was_deleted_by_hand_is_due_without_one(fresh().await).await;
}

/// An outbox with messages that were read and delivered, or set aside.
struct Delivering {
    place: Place,
    outbox: Box<dyn Outbox>,
    messages: Vec<StoredMessage>,
    last: Chunk,
}

impl Delivering {
    /// `keys` one message each, in their order.
    async fn new(place: Place, keys: &[&str]) -> Self {
        let mut outbox = reading(&place, EPOCH).await;
        for key in keys {
            place.publisher.commit(&[Message::new(TOPIC, *key, "x").unwrap()]).await;
        }
        let mut chunks = drain(&mut outbox).await;
        let messages = chunks.iter().flat_map(|chunk| chunk.messages.clone()).collect();
        let last = chunks.pop().expect("something was published");
        Delivering { place, outbox, messages, last }
    }

    async fn set_aside(&mut self, asides: &[Aside]) -> Voucher {
        self.outbox.set_aside(SHARD, EPOCH, asides, &[]).await.unwrap().voucher
    }

    /// The message at `index` can't be delivered.
    fn dead(&self, index: usize) -> Aside {
        Aside::of(&self.messages[index], true, Some("too large".to_string()))
    }

    /// The message at `index` waits.
    fn waiting(&self, index: usize) -> Aside {
        Aside::of(&self.messages[index], true, None)
    }

    async fn due(&mut self, held: &[String]) -> Vec<usize> {
        let due = self.outbox.due(SHARD, held, 100).await.unwrap();
        let index = |id| self.messages.iter().position(|message| message.id == id).unwrap();
        due.iter().map(|due| index(due.id)).collect()
    }

    async fn progress(&mut self, position: Position, barrier: Option<BarrierId>) -> Progress {
        let database = self.outbox.identity().await.unwrap();
        let birth = Progress::birth(EPOCH, 1, database, position);
        Progress { barrier: barrier.map(|barrier| barrier.0), ..birth }
    }

    async fn prune(&mut self, voucher: Voucher) -> u64 {
        let (position, barrier) = (self.last.position.clone(), Some(voucher.id));
        let delivered = Delivered { shard: SHARD, epoch: EPOCH, position, barrier };
        self.outbox.prune(&[delivered], 1000).await.unwrap().messages
    }

    async fn count(&mut self) -> (u64, u64) {
        let AsideCounts { dead_letters, waiting, .. } = self.outbox.count_set_aside(SHARD).await.unwrap();
        (dead_letters, waiting)
    }

    fn id(&self, index: usize) -> MessageId {
        self.messages[index].message_id
    }
}

async fn what_is_set_aside_outlives_pruning(place: Place) {
    let mut at = Delivering::new(place, &["a", "b", "a", "c"]).await;
    let voucher = at.set_aside(&[at.dead(0), at.waiting(2)]).await;
    assert_eq!(at.prune(voucher).await, 2, "the other two are delivered");
    assert_eq!(at.prune(voucher).await, 0);
    assert_eq!(at.count().await, (1, 1));
    let message = at.outbox.message_set_aside(at.id(0)).await.unwrap();
    assert_eq!(message.as_ref(), Some(&at.messages[0]));
    at.outbox.clear(SHARD, EPOCH, &[at.id(0), at.id(2)], &[]).await.unwrap();
    assert_eq!(at.count().await, (0, 0));
    assert_eq!(at.outbox.message_set_aside(at.id(0)).await.unwrap(), None);
    assert_eq!(at.prune(voucher).await, 0, "the messages went with their records");
}

async fn a_new_owner_learns_what_its_position_has_not_passed(place: Place) {
    let mut at = Delivering::new(place, &["a", "b", "a"]).await;
    let origin = at.outbox.origin();
    let voucher = at.set_aside(&[at.dead(0), at.waiting(2)]).await;
    let held = [HeldTopic { topic: "gone".to_string(), reason: "not there".to_string() }];
    at.outbox.set_aside(SHARD, EPOCH, &[], &held).await.unwrap();

    let before = at.progress(origin, None).await;
    let resumed = at.outbox.resume(SHARD, EPOCH, &before).await.unwrap();
    let recorded: BTreeSet<i64> = resumed.recorded.into_iter().collect();
    assert_eq!(recorded, BTreeSet::from([at.messages[0].id, at.messages[2].id]));
    assert_eq!(resumed.parked, [(parked_key(TOPIC, b"a"), 2)]);
    assert_eq!((resumed.count, resumed.held), (2, vec!["gone".to_string()]));
    assert_eq!(resumed.voucher, None, "the progress names no barrier: its window is yet to begin");

    let behind = at.progress(at.last.position.clone(), Some(voucher.id)).await;
    let resumed = at.outbox.resume(SHARD, EPOCH, &behind).await.unwrap();
    assert_eq!(resumed.recorded, Vec::<i64>::new(), "the position has passed them");
    assert_eq!(resumed.count, 2);
}

async fn a_voucher_is_there_and_younger_than_every_barrier_before(place: Place) {
    let mut at = Delivering::new(place, &["a"]).await;
    let window = at.last.barrier.clone();
    let first = at.outbox.set_aside(SHARD, EPOCH, &[], &[]).await.unwrap().voucher;
    assert!(first.number > window.number, "{first:?} {window:?}");
    let second = at.set_aside(&[at.dead(0)]).await;
    assert!(second.number > first.number);
    let named = at.progress(at.last.position.clone(), Some(second.id)).await;
    let resumed = at.outbox.resume(SHARD, EPOCH, &named).await.unwrap();
    let third = resumed.voucher.unwrap();
    assert!(third.number > second.number, "a later one vouches for what was read");
    let cleared = at.outbox.clear(SHARD, EPOCH, &[at.id(0)], &[]).await.unwrap();
    assert!(cleared.number > third.number);
    for voucher in [first, second, third, cleared] {
        assert!(at.outbox.has_barrier(SHARD, voucher.id).await.unwrap());
    }
    let resumed = at.outbox.resume(SHARD, EPOCH, &named).await.unwrap();
    assert_eq!(resumed.voucher, Some(second), "with nothing set aside the named one does");
    at.place.publisher.commit(&[Message::new(TOPIC, "b", "x").unwrap()]).await;
    let next = drain(&mut at.outbox).await.pop().unwrap();
    assert!(next.barrier.number > cleared.number, "a window that begins later has a younger one");
}

async fn what_waits_is_due_only_when_nothing_keeps_it_back(place: Place) {
    let mut at = Delivering::new(place, &["a", "a", "b", "b", "a"]).await;
    at.set_aside(&[at.dead(0), at.waiting(1), at.waiting(3), at.waiting(4)]).await;
    assert_eq!(at.due(&[]).await, [3], "nothing of its key stands before it");
    assert!(!at.outbox.asked(SHARD).await.unwrap().anything);
    assert_eq!(at.outbox.ask(&Selection::Messages(vec![at.id(0)]), Request::Retry).await.unwrap(), 1);
    assert!(at.outbox.asked(SHARD).await.unwrap().anything);
    assert_eq!(at.due(&[]).await, [0, 1, 3, 4], "in their order");
    let due = at.outbox.due(SHARD, &[], 2).await.unwrap();
    let contents: Vec<_> = due.into_iter().map(|due| due.message).collect();
    assert_eq!(contents, [Some(at.messages[0].clone()), Some(at.messages[1].clone())], "at most so many");

    at.outbox.ask(&Selection::All, Request::Discard).await.unwrap();
    let due = at.outbox.due(SHARD, &[], 1).await.unwrap();
    assert_eq!((due[0].message_id, &due[0].message), (at.id(0), &None), "it is not to be delivered");
    at.outbox.clear(SHARD, EPOCH, &[at.id(0), at.id(1), at.id(3), at.id(4)], &[]).await.unwrap();
    assert_eq!(at.due(&[]).await, Vec::<usize>::new());
    assert!(!at.outbox.asked(SHARD).await.unwrap().anything);
}

async fn a_topic_on_hold_keeps_its_messages_back(place: Place) {
    let mut at = Delivering::new(place, &["a", "b"]).await;
    let held = [HeldTopic { topic: TOPIC.to_string(), reason: "not there".to_string() }];
    let asides = [at.waiting(0), at.dead(1)];
    at.outbox.set_aside(SHARD, EPOCH, &asides, &held).await.unwrap();
    assert_eq!(at.outbox.count_set_aside(SHARD).await.unwrap().held, held);
    let on_hold = [TOPIC.to_string()];
    assert_eq!(at.due(&on_hold).await, Vec::<usize>::new());
    at.outbox.ask(&Selection::All, Request::Retry).await.unwrap();
    assert_eq!(at.due(&on_hold).await, Vec::<usize>::new(), "a retry waits for the topic");
    assert_eq!(at.due(&[]).await, [0, 1]);
    at.outbox.ask(&Selection::All, Request::Discard).await.unwrap();
    assert_eq!(at.due(&on_hold).await, [1], "who is given up does not");
    at.outbox.clear(SHARD, EPOCH, &[], &on_hold).await.unwrap();
    assert_eq!(at.outbox.count_set_aside(SHARD).await.unwrap().held, []);
}

async fn what_the_progress_has_cleared_is_removed_by_the_next_owner(place: Place) {
    let mut at = Delivering::new(place, &["a", "a"]).await;
    let voucher = at.set_aside(&[at.dead(0), at.waiting(1)]).await;
    let mut progress = at.progress(at.last.position.clone(), Some(voucher.id)).await;
    progress.cleared = vec![at.id(0).0];
    for _ in 0..2 {
        let resumed = at.outbox.resume(SHARD, EPOCH, &progress).await.unwrap();
        assert_eq!((resumed.count, resumed.parked), (1, vec![(parked_key(TOPIC, b"a"), 1)]));
        assert!(resumed.voucher.unwrap().number > voucher.number, "the named one is older than the removal");
    }
    assert_eq!(at.due(&[]).await, [1]);
    assert_eq!(at.prune(voucher).await, 0);
}

async fn a_verdict_replaces_the_record_and_waiting_changes_nothing(place: Place) {
    let mut at = Delivering::new(place, &["a"]).await;
    let id = at.messages[0].id;
    let new = |recorded: onecommit::outbox::Recorded| recorded.new.into_iter().collect::<Vec<_>>();
    let waiting = [at.waiting(0)];
    assert_eq!(new(at.outbox.set_aside(SHARD, EPOCH, &waiting, &[]).await.unwrap()), [id]);
    let passed = [Aside::of(&at.messages[0], false, Some("invalid".to_string()))];
    assert_eq!(new(at.outbox.set_aside(SHARD, EPOCH, &passed, &[]).await.unwrap()), Vec::<i64>::new());
    at.outbox.ask(&Selection::All, Request::Retry).await.unwrap();
    assert_eq!(new(at.outbox.set_aside(SHARD, EPOCH, &waiting, &[]).await.unwrap()), Vec::<i64>::new());
    let found = at.outbox.dead_letters(&Selection::All, 10).await.unwrap();
    assert_eq!((found[0].reason.as_str(), found[0].request), ("invalid", Some(Request::Retry)));
    let again = [Aside::of(&at.messages[0], true, Some("still invalid".to_string()))];
    at.outbox.set_aside(SHARD, EPOCH, &again, &[]).await.unwrap();
    let found = at.outbox.dead_letters(&Selection::All, 10).await.unwrap();
    assert_eq!((found[0].reason.as_str(), found[0].request), ("still invalid", None), "it was tried");
    // Somebody wants it to be discarded while it is tried.
    at.outbox.ask(&Selection::All, Request::Discard).await.unwrap();
    at.outbox.set_aside(SHARD, EPOCH, &again, &[]).await.unwrap();
    let found = at.outbox.dead_letters(&Selection::All, 10).await.unwrap();
    assert_eq!(found[0].request, Some(Request::Discard), "that is still to be done");
}

async fn an_older_epoch_changes_nothing(place: Place) {
    let mut at = Delivering::new(place, &["a", "b"]).await;
    let voucher = at.set_aside(&[at.dead(0)]).await;
    at.outbox.claim(SHARD, Epoch(2)).await.unwrap();
    let mut progress = at.progress(at.last.position.clone(), Some(voucher.id)).await;
    progress.cleared = vec![at.id(0).0];
    // One that names no barrier needs none: nothing but the epoch keeps it out.
    let origin = at.outbox.origin();
    let birth = at.progress(origin, None).await;
    let late = [at.dead(1)];
    for attempt in 0..4 {
        // After an error a connection is worth nothing.
        let mut old = at.place.source.connect().await.unwrap();
        let error = match attempt {
            0 => old.set_aside(SHARD, EPOCH, &late, &[]).await.map(drop),
            1 => old.clear(SHARD, EPOCH, &[at.id(0)], &[]).await.map(drop),
            2 => old.resume(SHARD, EPOCH, &progress).await.map(drop),
            _ => old.resume(SHARD, EPOCH, &birth).await.map(drop),
        };
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Fenced, "attempt {attempt}");
    }
    assert_eq!(at.count().await, (1, 0));
}

async fn a_dead_topic_makes_dead_letters(place: Place) {
    let mut at = Delivering::new(place, &["a", "a"]).await;
    let held = [HeldTopic { topic: TOPIC.to_string(), reason: "not there".to_string() }];
    let asides = [at.waiting(0), at.waiting(1)];
    let voucher = at.outbox.set_aside(SHARD, EPOCH, &asides, &held).await.unwrap().voucher;
    assert!(at.outbox.declare_topic(TOPIC, true).await.unwrap());
    assert!(!at.outbox.declare_topic(TOPIC, true).await.unwrap(), "it was dead already");
    assert_eq!(at.outbox.asked(SHARD).await.unwrap().dead, [TOPIC]);
    let progress = at.progress(at.last.position.clone(), Some(voucher.id)).await;
    let resumed = at.outbox.resume(SHARD, EPOCH, &progress).await.unwrap();
    assert_eq!((resumed.dead, resumed.held), (vec![TOPIC.to_string()], vec![]));
    assert_eq!((resumed.parked, resumed.count), (vec![], 2));
    assert_eq!(at.count().await, (2, 0));
    assert_eq!(at.due(&[]).await, Vec::<usize>::new());
    assert!(at.outbox.declare_topic(TOPIC, false).await.unwrap());
    assert_eq!(at.outbox.asked(SHARD).await.unwrap().dead, Vec::<String>::new());
}

async fn people_see_and_choose_dead_letters(place: Place) {
    let mut at = Delivering::new(place, &["a", "a", "b", "a"]).await;
    at.set_aside(&[at.dead(0), at.waiting(1), at.dead(2), at.waiting(3)]).await;
    let all = at.outbox.dead_letters(&Selection::All, 10).await.unwrap();
    let shown: Vec<_> = all.iter().map(|one| (one.message_id, one.waiting)).collect();
    assert_eq!(shown, [(at.id(0), 2), (at.id(2), 0)]);
    assert_eq!((all[0].topic.as_str(), all[0].key.as_deref()), (TOPIC, Some(&b"a"[..])));
    assert_eq!((all[0].reason.as_str(), all[0].request, all[0].shard), ("too large", None, SHARD));
    assert!(all[0].set_aside_at_ms > 1_600_000_000_000);
    assert_eq!(at.outbox.dead_letters(&Selection::All, 1).await.unwrap(), all[..1]);
    let other = Selection::Topic("other".to_string());
    assert_eq!(at.outbox.dead_letters(&other, 10).await.unwrap(), []);
    assert_eq!(at.outbox.ask(&other, Request::Discard).await.unwrap(), 0);
    let chosen = Selection::Messages(vec![at.id(2), at.id(1), MessageId::random()]);
    let found = at.outbox.dead_letters(&chosen, 10).await.unwrap();
    assert_eq!(found, all[1..], "who only waits is no dead letter");
    assert_eq!(at.outbox.ask(&chosen, Request::Discard).await.unwrap(), 1);
    let topic = Selection::Topic(TOPIC.to_string());
    let requests: Vec<_> =
        at.outbox.dead_letters(&topic, 10).await.unwrap().iter().map(|one| one.request).collect();
    assert_eq!(requests, [None, Some(Request::Discard)]);
}

async fn a_message_that_was_deleted_by_hand_is_due_without_one(place: Place) {
    let mut at = Delivering::new(place, &["a"]).await;
    let mut gone = at.dead(0);
    gone.id += 1000;
    at.set_aside(&[gone]).await;
    at.outbox.ask(&Selection::All, Request::Retry).await.unwrap();
    let due = at.outbox.due(SHARD, &[], 10).await.unwrap();
    assert_eq!((due.len(), due[0].message_id, &due[0].message), (1, at.id(0), &None));
    assert_eq!(at.outbox.message_set_aside(at.id(0)).await.unwrap(), None);
    assert_eq!(at.outbox.dead_letters(&Selection::All, 1).await.unwrap()[0].key, None);
}
