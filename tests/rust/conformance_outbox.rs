//! What every outbox owes to a relay. A backend passes by calling [`suite`].

use std::cell::Cell;
use std::collections::BTreeSet;

use async_trait::async_trait;
use onecommit::id::{BarrierId, Epoch, ShardIndex};
use onecommit::outbox::{Backlog, Chunk, Contents, Delivered, Installation, Outbox, OutboxSource};
use onecommit::protocol::position::Position;
use onecommit::protocol::progress::Progress;
use onecommit::protocol::slot::HASH_VERSION;
use onecommit::{ErrorKind, Incarnation, Message, MessageId};

const SHARD: ShardIndex = ShardIndex(0);
/// More reads than any check needs: an outbox that never says it is empty fails, and does not hang.
const READS_MAX: usize = 10_000;

/// Publishes through an application's own transaction.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Publishes in one transaction and commits it.
    async fn commit(&self, messages: &[Message]) -> Vec<MessageId>;

    /// Publishes in one transaction and rolls it back.
    async fn roll_back(&self, messages: &[Message]);
}

/// One database of the backend under test.
pub struct Place {
    /// The relay's side.
    pub source: Box<dyn OutboxSource>,
    /// The application's side.
    pub publisher: Box<dyn Publisher>,
}

/// Runs every check, each in a database of its own, in which `init` was never run.
pub async fn suite(fresh: impl AsyncFn() -> Place) {
    init_is_idempotent(fresh().await).await;
    what_is_committed_is_read_once_in_order(fresh().await).await;
    every_content_comes_back(fresh().await).await;
    reading_goes_on_from_any_position(fresh().await).await;
    a_shard_added_again_goes_on_where_it_was(fresh().await).await;
    each_chunk_names_a_barrier_that_is_there(fresh().await).await;
    commits_during_reading_are_read_once(fresh().await).await;
    an_older_epoch_changes_nothing(fresh().await).await;
    pruning_removes_what_was_delivered_and_nothing_else(fresh().await).await;
    pruning_removes_older_barriers(fresh().await).await;
    the_backlog_is_what_was_not_delivered(fresh().await).await;
    the_shard_remembers_birth_and_error(fresh().await).await;
    what_is_adopted_is_read_from_the_beginning(fresh().await).await;
    what_is_removed_can_be_made_anew(fresh().await).await;
}

/// An installation as `init` would write it.
pub fn installation() -> Installation {
    Installation {
        incarnation: Incarnation::random(),
        namespace: "shop".parse().unwrap(),
        participant: "orders".parse().unwrap(),
        shards: 1,
        hash_version: HASH_VERSION,
        delivery_id: "delivery-1".to_string(),
    }
}

async fn init_is_idempotent(place: Place) {
    let source = &place.source;
    assert_eq!(source.found().await.unwrap(), None);
    let error = source.connect().await.err().expect("there is no outbox yet");
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("onecommit init"), "{error}");

    let first = installation();
    assert_eq!(source.init(&first).await.unwrap(), first);
    assert_eq!(source.init(&installation()).await.unwrap(), first, "who came first stays");
    assert_eq!(source.found().await.unwrap(), Some(first.clone()));
    let mut outbox = source.connect().await.unwrap();
    assert_eq!(outbox.installation().await.unwrap(), first);
    let identity = source.connect().await.unwrap().identity().await.unwrap();
    assert_eq!(outbox.identity().await.unwrap(), identity);
}

async fn what_is_committed_is_read_once_in_order(place: Place) {
    let mut outbox = reading(&place, Epoch(1)).await;
    assert!(drain(&mut outbox).await.is_empty(), "nothing was published");
    let mut expected = Vec::new();
    for round in 0..5 {
        expected.extend(place.publisher.commit(&numbered(round * 10..round * 10 + 3)).await);
        place.publisher.roll_back(&numbered(700..703)).await;
        if round % 2 == 0 {
            place.publisher.commit(&[]).await;
        } else {
            let found = ids(&drain(&mut outbox).await);
            assert_eq!(found, expected, "round {round}");
            expected.clear();
        }
    }
    assert_eq!(ids(&drain(&mut outbox).await), expected);
    assert!(drain(&mut outbox).await.is_empty(), "nothing is read twice");
}

async fn every_content_comes_back(place: Place) {
    let mut outbox = reading(&place, Epoch(1)).await;
    let header = |name: &str, value: Option<&[u8]>| (name.to_string(), value.map(<[u8]>::to_vec));
    let repeated =
        vec![header("a", Some(b"1")), header("a", None), header("ä", Some(b"")), header("a", Some(b"\0"))];
    let any_bytes: Vec<u8> = (0..=255).collect();
    let large = vec![7; 300_000];
    let messages: Vec<Message> = [
        (Some(&b"42"[..]), Some(&b"{}"[..]), vec![], None),
        (None, Some(&b"no key"[..]), vec![], None),
        (Some(&b""[..]), Some(&b""[..]), vec![], Some(0)),
        (Some(&b"tombstone"[..]), None, vec![], Some(7)),
        (None, None, repeated, None),
        (Some(&any_bytes[..]), Some(&any_bytes[..]), vec![header("b", Some(&any_bytes))], None),
        (Some(&b"large"[..]), Some(&large[..]), vec![header("large", Some(&large))], None),
    ]
    .into_iter()
    .map(|(key, value, headers, partition)| {
        let owned = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        Message::from_parts("topic.A-1_b", owned(key), owned(value), headers, partition).unwrap()
    })
    .collect();
    let published = place.publisher.commit(&messages).await;
    let chunks = drain(&mut outbox).await;
    let found: Vec<_> = chunks.iter().flat_map(|chunk| &chunk.messages).collect();
    assert_eq!(
        found.iter().map(|stored| &stored.message).collect::<Vec<_>>(),
        messages.iter().collect::<Vec<_>>()
    );
    assert_eq!(ids(&chunks), published);
    assert!(found.iter().all(|stored| stored.created_at_ms > 1_600_000_000_000), "a date of our days");
}

async fn reading_goes_on_from_any_position(place: Place) {
    let mut outbox = reading(&place, Epoch(1)).await;
    let mut published = Vec::new();
    for round in 0..3 {
        published.extend(place.publisher.commit(&numbered(round * 1000..round * 1000 + 600)).await);
    }
    let chunks = drain(&mut outbox).await;
    assert_eq!(ids(&chunks), published);
    assert!(chunks.len() > 3, "1,800 messages are more than three chunks");
    for (index, chunk) in chunks.iter().enumerate() {
        let mut again = place.source.connect().await.unwrap();
        again.add(SHARD, Epoch(1), &chunk.position, chunk.barrier.id).unwrap();
        let rest = ids(&drain(&mut again).await);
        assert_eq!(rest, ids(&chunks[index + 1..]), "behind chunk {index}, {:?}", chunk.position);
    }
}

async fn a_shard_added_again_goes_on_where_it_was(place: Place) {
    let mut outbox = reading(&place, Epoch(1)).await;
    let first = place.publisher.commit(&numbered(0..5)).await;
    let chunks = drain(&mut outbox).await;
    assert_eq!(ids(&chunks), first);
    outbox.remove(SHARD);
    let second = place.publisher.commit(&numbered(5..10)).await;
    assert!(drain(&mut outbox).await.is_empty(), "a removed shard is not read");
    let last = chunks.last().unwrap();
    outbox.add(SHARD, Epoch(1), &last.position, last.barrier.id).unwrap();
    assert_eq!(ids(&drain(&mut outbox).await), second);
}

async fn each_chunk_names_a_barrier_that_is_there(place: Place) {
    let mut outbox = reading(&place, Epoch(1)).await;
    let mut other = place.source.connect().await.unwrap();
    for round in 0..3 {
        place.publisher.commit(&numbered(round..round + 1)).await;
        for chunk in drain(&mut outbox).await {
            let barrier = chunk.barrier.id.expect("a window that found rows has a barrier");
            assert!(other.has_barrier(SHARD, barrier).await.unwrap());
            assert!(!other.has_barrier(ShardIndex(1), barrier).await.unwrap());
        }
    }
    assert!(!other.has_barrier(SHARD, BarrierId::random()).await.unwrap());
}

async fn commits_during_reading_are_read_once(place: Place) {
    const WRITERS: u32 = 4;
    const EACH: u32 = 40;
    let mut outbox = reading(&place, Epoch(1)).await;
    let publisher = &place.publisher;
    let write = async |writer: u32| {
        for number in 0..EACH {
            publisher.commit(&numbered(writer * 1000 + number..writer * 1000 + number + 1)).await;
        }
    };
    let written = Cell::new(false);
    let write_all = async {
        tokio::join!(write(0), write(1), write(2), write(3));
        written.set(true);
    };
    let read = async {
        let mut found = Vec::new();
        while !written.get() {
            found.extend(drain(&mut outbox).await);
            tokio::task::yield_now().await;
        }
        found.extend(drain(&mut outbox).await);
        found
    };
    let (chunks, ()) = tokio::join!(read, write_all);
    let keys: Vec<u32> = chunks.iter().flat_map(|chunk| &chunk.messages).map(number_of).collect();
    assert_eq!(keys.len(), (WRITERS * EACH) as usize);
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "each is read once");
    for writer in 0..WRITERS {
        let own: Vec<u32> = keys.iter().copied().filter(|key| key / 1000 == writer).collect();
        assert!(own.is_sorted(), "one writer's transactions stay in order: {own:?}");
    }
}

async fn an_older_epoch_changes_nothing(place: Place) {
    let mut old = reading(&place, Epoch(5)).await;
    let mut new = place.source.connect().await.unwrap();
    fenced(new.claim(SHARD, Epoch(4)).await);
    new.claim(SHARD, Epoch(5)).await.unwrap();
    let first = place.publisher.commit(&numbered(0..4)).await;
    let chunk = drain(&mut old).await.pop().unwrap();
    new.claim(SHARD, Epoch(6)).await.unwrap();
    let before = new.shard(SHARD).await.unwrap();
    assert_eq!(before.epoch, Epoch(6));

    let second = place.publisher.commit(&numbered(4..8)).await;
    fenced(old.read().await);
    let mut old = place.source.connect().await.unwrap();
    fenced(old.claim(SHARD, Epoch(5)).await);
    fenced(old.note_birth(SHARD, Epoch(5)).await);
    fenced(old.note_error(SHARD, Epoch(5), Some("late")).await);
    let (position, barrier) = (chunk.position.clone(), chunk.barrier.id);
    let late = Delivered { shard: SHARD, epoch: Epoch(5), position: position.clone(), barrier };
    fenced(old.prune(&[late], 100).await);

    assert_eq!(new.shard(SHARD).await.unwrap(), before);
    assert!(new.has_barrier(SHARD, barrier.unwrap()).await.unwrap());
    let origin = new.origin();
    new.add(SHARD, Epoch(6), &origin, None).unwrap();
    assert_eq!(ids(&drain(&mut new).await), [first, second].concat());
}

async fn pruning_removes_what_was_delivered_and_nothing_else(place: Place) {
    let mut outbox = reading(&place, Epoch(1)).await;
    assert!(!outbox.shard(SHARD).await.unwrap().pruned);
    place.publisher.commit(&numbered(0..1000)).await;
    let chunks = drain(&mut outbox).await;
    let (done, rest) = chunks.split_at(chunks.len() / 2);
    let (last, kept) = (done.last().unwrap(), ids(rest));
    let born = Delivered { shard: SHARD, epoch: Epoch(1), position: outbox.origin(), barrier: None };
    assert_eq!(outbox.prune(&[born], 100).await.unwrap().messages, 0, "nothing is known to be delivered");

    assert_eq!(prune_all(&mut outbox, last, 100).await, ids(done).len() as u64);
    assert!(outbox.shard(SHARD).await.unwrap().pruned);
    let origin = outbox.origin();
    outbox.add(SHARD, Epoch(1), &origin, None).unwrap();
    let mut again = place.source.connect().await.unwrap();
    again.add(SHARD, Epoch(1), &origin, None).unwrap();
    assert_eq!(ids(&drain(&mut again).await), kept, "what was pruned is gone, all else is there");

    let more = place.publisher.commit(&numbered(1000..1003)).await;
    again.add(SHARD, Epoch(1), &last.position, last.barrier.id).unwrap();
    let chunks = drain(&mut again).await;
    assert_eq!(ids(&chunks), [kept, more].concat());
    prune_all(&mut again, chunks.last().unwrap(), 1000).await;
    let after = place.publisher.commit(&numbered(1003..1004)).await;
    assert_eq!(ids(&drain(&mut again).await), after, "ids never come again");
}

async fn pruning_removes_older_barriers(place: Place) {
    let mut outbox = reading(&place, Epoch(1)).await;
    let mut barriers = Vec::new();
    for round in 0..3 {
        place.publisher.commit(&numbered(round..round + 1)).await;
        barriers.push(drain(&mut outbox).await.pop().unwrap());
    }
    prune_all(&mut outbox, &barriers[1], 100).await;
    let mut there = Vec::new();
    for chunk in &barriers {
        there.push(outbox.has_barrier(SHARD, chunk.barrier.id.unwrap()).await.unwrap());
    }
    assert_eq!(there, [false, true, true]);
}

async fn the_backlog_is_what_was_not_delivered(place: Place) {
    let mut outbox = reading(&place, Epoch(1)).await;
    let origin = outbox.origin();
    assert_eq!(outbox.backlog(SHARD, &origin).await.unwrap(), Backlog::default());
    place.publisher.commit(&numbered(0..300)).await;
    assert_eq!(waiting(&mut outbox, &origin).await, 300);
    let chunks = drain(&mut outbox).await;
    let mut left = 300;
    for chunk in &chunks {
        left -= chunk.messages.len() as u64;
        assert_eq!(waiting(&mut outbox, &chunk.position).await, left);
    }
    place.publisher.commit(&numbered(300..307)).await;
    assert_eq!(waiting(&mut outbox, &chunks.last().unwrap().position).await, 7);
}

async fn the_shard_remembers_birth_and_error(place: Place) {
    let mut outbox = reading(&place, Epoch(3)).await;
    let shard = outbox.shard(SHARD).await.unwrap();
    assert_eq!((shard.epoch, shard.born, shard.last_error), (Epoch(3), false, None));
    outbox.note_birth(SHARD, Epoch(3)).await.unwrap();
    outbox.note_birth(SHARD, Epoch(3)).await.unwrap();
    outbox.note_error(SHARD, Epoch(3), Some("the topic is gone")).await.unwrap();
    let shard = place.source.connect().await.unwrap().shard(SHARD).await.unwrap();
    let (error, at_ms) = shard.last_error.expect("it was noted");
    assert!(shard.born && at_ms > 1_600_000_000_000);
    assert_eq!(error, "the topic is gone");
    outbox.note_error(SHARD, Epoch(3), None).await.unwrap();
    assert_eq!(outbox.shard(SHARD).await.unwrap().last_error, None);
}

async fn what_is_adopted_is_read_from_the_beginning(place: Place) {
    let mut outbox = reading(&place, Epoch(1)).await;
    let born = [(SHARD, Epoch(1))];
    outbox.note_birth(SHARD, Epoch(1)).await.unwrap();
    assert_eq!(outbox.contents(SHARD, None).await.unwrap(), Contents::default());
    let gone = place.publisher.commit(&numbered(0..10)).await;
    let first = drain(&mut outbox).await.pop().unwrap();
    assert_eq!(prune_all(&mut outbox, &first, 100).await, gone.len() as u64);
    let delivered = place.publisher.commit(&numbered(10..15)).await;
    let last = drain(&mut outbox).await.pop().unwrap();
    let waiting = place.publisher.commit(&numbered(15..22)).await;

    let database = outbox.identity().await.unwrap();
    let position = last.position.clone();
    let progress = Progress {
        barrier: last.barrier.id.map(|id| id.0),
        ..Progress::birth(Epoch(1), 1, database, position)
    };
    let found = outbox.contents(SHARD, Some(&progress)).await.unwrap();
    assert_eq!((found.messages, found.covered, found.foreign), (12, 5, 0));
    assert!(found.newest_ms >= found.oldest_ms && found.oldest_ms.unwrap() > 1_600_000_000_000);
    let newest = outbox.contents(SHARD, None).await.unwrap();
    assert_eq!((newest.messages, newest.covered), (12, 0));

    let mut adopting = place.source.connect_to_adopt().await.unwrap();
    adopting.claim(SHARD, Epoch(2)).await.unwrap();
    for _ in 0..2 {
        fenced(outbox.prepare_adoption(&born, &[SHARD]).await);
        fenced(outbox.note_adoption(&born, &[SHARD], "late").await);
        adopting.prepare_adoption(&[(SHARD, Epoch(2))], &[SHARD]).await.unwrap();
        adopting.note_adoption(&[(SHARD, Epoch(2))], &[SHARD], "delivery-2").await.unwrap();
    }
    let row = adopting.shard(SHARD).await.unwrap();
    assert_eq!((row.epoch, row.born, row.pruned, row.last_error), (Epoch(2), true, false, None));
    assert_eq!(adopting.installation().await.unwrap().delivery_id, "delivery-2");
    assert!(!adopting.has_barrier(SHARD, last.barrier.id.unwrap()).await.unwrap());
    let later = place.publisher.commit(&numbered(22..25)).await;
    let mut again = place.source.connect().await.unwrap();
    let origin = again.origin();
    again.add(SHARD, Epoch(2), &origin, None).unwrap();
    assert_eq!(ids(&drain(&mut again).await), [delivered, waiting, later].concat());
}

async fn what_is_removed_can_be_made_anew(place: Place) {
    drop(reading(&place, Epoch(1)).await);
    place.publisher.commit(&numbered(0..3)).await;
    for _ in 0..2 {
        place.source.remove().await.unwrap();
        assert_eq!(place.source.found().await.unwrap(), None);
    }
    let mut outbox = reading(&place, Epoch(1)).await;
    assert!(drain(&mut outbox).await.is_empty());
    let published = place.publisher.commit(&numbered(3..5)).await;
    assert_eq!(ids(&drain(&mut outbox).await), published);
}

/// A connection whose relay owns the shard and begins before everything.
pub async fn reading(place: &Place, epoch: Epoch) -> Box<dyn Outbox> {
    place.source.init(&installation()).await.unwrap();
    let mut outbox = place.source.connect().await.unwrap();
    outbox.claim(SHARD, epoch).await.unwrap();
    let origin = outbox.origin();
    outbox.add(SHARD, epoch, &origin, None).unwrap();
    outbox
}

/// Reads until nothing waits; every chunk's barrier is durable then.
pub async fn drain(outbox: &mut Box<dyn Outbox>) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for _ in 0..READS_MAX {
        let batch = outbox.read().await.unwrap();
        if batch.chunks.is_empty() && !batch.more {
            for chunk in &chunks {
                let chunk: &Chunk = chunk;
                assert!(chunk.messages.len() <= 256 && !chunk.messages.is_empty());
                chunk.barrier.wait().await.unwrap();
            }
            return chunks;
        }
        chunks.extend(batch.chunks);
    }
    panic!("after {READS_MAX} reads there is still more");
}

/// The ids of what was read, in order.
pub fn ids(chunks: &[Chunk]) -> Vec<MessageId> {
    chunks.iter().flat_map(|chunk| &chunk.messages).map(|stored| stored.message_id).collect()
}

/// Messages of one topic, each with its number as key.
pub fn numbered(numbers: std::ops::Range<u32>) -> Vec<Message> {
    numbers.map(|number| Message::new("numbers", number.to_string(), "x").unwrap()).collect()
}

fn number_of(stored: &onecommit::message::StoredMessage) -> u32 {
    String::from_utf8_lossy(stored.message.key().unwrap()).parse().unwrap()
}

async fn waiting(outbox: &mut Box<dyn Outbox>, position: &Position) -> u64 {
    outbox.backlog(SHARD, position).await.unwrap().messages
}

async fn prune_all(outbox: &mut Box<dyn Outbox>, delivered: &Chunk, limit: u32) -> u64 {
    let (position, barrier) = (delivered.position.clone(), delivered.barrier.id);
    let delivered = [Delivered { shard: SHARD, epoch: Epoch(1), position, barrier }];
    let mut gone = 0;
    for _ in 0..READS_MAX {
        let piece = outbox.prune(&delivered, limit).await.unwrap();
        assert!(piece.messages <= u64::from(limit));
        gone += piece.messages;
        if piece.all {
            return gone;
        }
    }
    panic!("pruning never ends");
}

fn fenced<T>(outcome: onecommit::Result<T>) {
    let error = outcome.err().expect("an older epoch must be refused");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
}
