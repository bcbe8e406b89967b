//! The backends in SQLite files: the outbox, the topic log and the leases.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use onecommit::delivery::topic_log::{TopicLogDelivery, TopicLogReader};
use onecommit::delivery::{DeliveredMessage, Delivery, DeliveryScope};
use onecommit::id::{Epoch, RelayId, ShardIndex};
use onecommit::lease::Lease;
use onecommit::lease::file::FileLease;
use onecommit::message::StoredMessage;
use onecommit::outbox::sqlite::{SqliteSource, publish_many};
use onecommit::outbox::{Delivered, Installation, OutboxSource};
use onecommit::protocol::position::Position;
use onecommit::protocol::progress::{DatabaseIdentity, Progress};
use onecommit::protocol::snapshot::Snapshot;
use onecommit::{Error, ErrorKind, Message, MessageId};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::conformance_delivery as delivery_suite;
use crate::conformance_lease as lease_suite;
use crate::conformance_outbox::{self as outbox_suite, Place, Publisher, drain, installation, numbered};
use crate::conformance_set_aside as set_aside_suite;
use crate::patience::{LIMIT, answered_blocking};

const SHARD: ShardIndex = ShardIndex(0);

#[tokio::test(flavor = "multi_thread")]
async fn the_outbox_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let fresh = async || place(&directory);
    outbox_suite::suite(&fresh).await;
    set_aside_suite::suite(&fresh).await;
}

#[test]
fn the_topic_log_conforms() {
    let directory = tempfile::tempdir().unwrap();
    delivery_suite::suite(&Log(directory.path().join("data/topics.db")));
}

#[tokio::test(flavor = "multi_thread")]
async fn file_leases_conform() {
    let directory = tempfile::tempdir().unwrap();
    let fresh = || Box::new(Leases(file(&directory, "leases")));
    lease_suite::suite(async || fresh() as Box<dyn lease_suite::Place>).await;
    lease_suite::a_paused_owner_comes_back_to_nothing(&*fresh()).await;
}

fn file(directory: &TempDir, name: &str) -> PathBuf {
    directory.path().join(format!("{name}-{}.db", MessageId::random()))
}

fn place(directory: &TempDir) -> Place {
    place_at(file(directory, "app"))
}

fn place_at(path: PathBuf) -> Place {
    let source = SqliteSource { path: path.clone(), busy_limit: LIMIT };
    Place { source: Box::new(source), publisher: Box::new(App(path)) }
}

struct App(PathBuf);

impl App {
    fn connection(&self) -> Connection {
        let connection = Connection::open(&self.0).unwrap();
        connection.busy_timeout(LIMIT).unwrap();
        connection
    }
}

#[async_trait]
impl Publisher for App {
    async fn commit(&self, messages: &[Message]) -> Vec<MessageId> {
        let (mut connection, messages) = (self.connection(), messages.to_vec());
        let write = move || {
            let transaction = connection.transaction().unwrap();
            let ids = publish_many(&transaction, &messages).unwrap();
            transaction.commit().unwrap();
            ids
        };
        tokio::task::spawn_blocking(write).await.unwrap()
    }

    async fn roll_back(&self, messages: &[Message]) {
        let mut connection = self.connection();
        let transaction = connection.transaction().unwrap();
        publish_many(&transaction, messages).unwrap();
        transaction.rollback().unwrap();
    }
}

struct Log(PathBuf);

impl delivery_suite::Backend for Log {
    fn delivery(&self, scope: DeliveryScope) -> Box<dyn Delivery> {
        Box::new(TopicLogDelivery::new(&self.0, scope))
    }

    fn visible(&self, topic: &str) -> Vec<DeliveredMessage> {
        let mut reader = TopicLogReader::open(&self.0, topic, None, true).unwrap();
        let read = std::iter::from_fn(|| reader.next(Duration::ZERO).unwrap());
        let messages: Vec<DeliveredMessage> = read.collect();
        assert!(reader.at_end());
        messages
    }
}

struct Leases(PathBuf);

#[async_trait]
impl lease_suite::Place for Leases {
    async fn open(&self, relay: RelayId, timeout: Duration) -> onecommit::Result<Box<dyn Lease>> {
        let participant = "orders".parse().unwrap();
        Ok(Box::new(FileLease::open(&self.0, participant, lease_suite::SHARDS, relay, timeout)?))
    }
}

#[tokio::test]
async fn a_read_is_bounded_in_rows_and_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(&directory);
    let mut outbox = outbox_suite::reading(&place, Epoch(1)).await;
    place.publisher.commit(&numbered(0..4_500)).await;
    let mut sizes = Vec::new();
    for expected_more in [true, true, false] {
        let batch = outbox.read().await.unwrap();
        assert_eq!((batch.more, batch.backlog), (expected_more, expected_more));
        sizes.push(batch.chunks.iter().map(|chunk| chunk.messages.len()).sum::<usize>());
    }
    assert_eq!(sizes, [2_000, 2_000, 500]);

    let megabytes = |size: usize| Message::new("t", "k", vec![0; size * 1024 * 1024]).unwrap();
    place.publisher.commit(&[megabytes(1), megabytes(2), megabytes(12), megabytes(1)]).await;
    let mut sizes = Vec::new();
    for expected_more in [true, true, false] {
        let batch = outbox.read().await.unwrap();
        assert_eq!(batch.more, expected_more);
        sizes.push(batch.chunks.iter().map(|chunk| chunk.messages.len()).sum::<usize>());
    }
    assert_eq!(sizes, [2, 1, 1], "at least one message, whatever its size");
}

#[tokio::test]
async fn what_another_program_inserts_is_read_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "app");
    let place = place_at(path.clone());
    let mut outbox = outbox_suite::reading(&place, Epoch(1)).await;
    let connection = Connection::open(&path).unwrap();
    let insert = "insert into onecommit_outbox (topic, key, value) values ('t', x'6b', x'76')";
    connection.execute(insert, ()).unwrap();
    let chunks = drain(&mut outbox).await;
    let stored = &chunks[0].messages[0];
    assert_eq!(stored.message, Message::new("t", "k", "v").unwrap());
    let now: i64 = connection.query_row("select unixepoch()", (), |row| row.get(0)).unwrap();
    assert!((stored.created_at_ms / 1000 - now).abs() < 60, "{} {now}", stored.created_at_ms);
    let text = "insert into onecommit_outbox (topic, value) values ('t', 'text')";
    assert!(connection.execute(text, ()).unwrap_err().to_string().contains("CHECK"));
}

#[tokio::test]
async fn a_row_that_cannot_be_read_stops_reading_and_is_named() {
    for (column, wrong) in [
        ("headers", "x'02'"),
        ("headers", "x'0100000005'"),
        ("headers", "'text'"),
        ("value", "'text'"),
        ("message_id", "x'00'"),
        ("partition", "'one'"),
        ("partition", "99999999999"),
        ("created_at_ms", "'today'"),
        ("topic", "x'ff'"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory, "app");
        let place = place_at(path.clone());
        let mut outbox = outbox_suite::reading(&place, Epoch(1)).await;
        place.publisher.commit(&numbered(0..3)).await;
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("pragma ignore_check_constraints = on").unwrap();
        connection
            .execute(&format!("update onecommit_outbox set {column} = {wrong} where id = 2"), ())
            .unwrap();
        let error = outbox.read().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
        assert!(error.context().contains(&("id", "2".to_string())), "{error}");
        let barriers = "select count(*) from onecommit_barrier";
        let barriers: i64 = connection.query_row(barriers, (), |row| row.get(0)).unwrap();
        assert_eq!(barriers, 0);
    }
}

#[tokio::test]
async fn ids_that_come_again_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "app");
    let place = place_at(path.clone());
    let mut outbox = outbox_suite::reading(&place, Epoch(1)).await;
    place.publisher.commit(&numbered(0..5)).await;
    drain(&mut outbox).await;
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("delete from onecommit_outbox; delete from sqlite_sequence").unwrap();
    let error = outbox.read().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");

    let rebuilt = "create table other as select * from onecommit_outbox;
                   drop table onecommit_outbox;
                   create table onecommit_outbox (id integer primary key, message_id blob)";
    connection.execute_batch(rebuilt).unwrap();
    let error = place.source.connect().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("autoincrement"), "{error}");
}

#[tokio::test]
async fn a_restored_file_prunes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "app");
    let place = place_at(path.clone());
    let mut outbox = outbox_suite::reading(&place, Epoch(1)).await;
    place.publisher.commit(&numbered(0..5)).await;
    let chunk = drain(&mut outbox).await.pop().unwrap();
    Connection::open(&path).unwrap().execute("delete from onecommit_barrier", ()).unwrap();
    let (position, barrier) = (chunk.position, chunk.barrier.id);
    let delivered = Delivered { shard: SHARD, epoch: Epoch(1), position, barrier };
    assert_eq!(outbox.prune(&[delivered], 10).await.unwrap_err().kind(), ErrorKind::Refused);
    let origin = outbox.origin();
    assert_eq!(outbox.backlog(SHARD, &origin).await.unwrap().messages, 5);
    assert!(!outbox.shard(SHARD).await.unwrap().pruned);
}

#[tokio::test]
async fn a_barrier_of_a_later_connection_is_the_newer_one() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(&directory);
    let mut first = outbox_suite::reading(&place, Epoch(1)).await;
    let mut chunks = Vec::new();
    for number in 0..3 {
        place.publisher.commit(&numbered(number..number + 1)).await;
        chunks.extend(drain(&mut first).await);
    }
    let mut second = place.source.connect().await.unwrap();
    second.add(SHARD, Epoch(1), &chunks[2].position, chunks[2].barrier.id).unwrap();
    place.publisher.commit(&numbered(3..4)).await;
    let chunk = drain(&mut second).await.pop().unwrap();
    let (position, barrier) = (chunks[2].position.clone(), chunks[2].barrier.id);
    second.prune(&[Delivered { shard: SHARD, epoch: Epoch(1), position, barrier }], 10).await.unwrap();
    assert!(second.has_barrier(SHARD, chunk.barrier.id.unwrap()).await.unwrap());
}

#[tokio::test]
async fn nothing_is_held_open_between_calls() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "app");
    let place = place_at(path.clone());
    let mut outbox = outbox_suite::reading(&place, Epoch(1)).await;
    place.publisher.commit(&numbered(0..3_000)).await;
    let batch = outbox.read().await.unwrap();
    assert!(batch.more);
    // Fails with "busy" as long as anybody reads or writes.
    let connection = Connection::open(&path).unwrap();
    let blocked: i64 = connection.query_row("pragma wal_checkpoint(truncate)", (), |row| row.get(0)).unwrap();
    assert_eq!(blocked, 0);
}

#[tokio::test]
async fn what_cannot_be_an_outbox_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "app");
    let source = |path: &PathBuf| SqliteSource { path: path.clone(), busy_limit: Duration::from_millis(50) };
    let two = Installation { shards: 2, ..installation() };
    let error = source(&path).init(&two).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");

    std::fs::write(&path, [b'x'; 4096]).unwrap();
    for error in [source(&path).init(&installation()).await.err(), source(&path).connect().await.err()] {
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("not a SQLite database"), "{error}");
    }
    let nowhere = directory.path().join("no/such/directory.db");
    let error = source(&nowhere).init(&installation()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("no/such/directory.db"), "{error}");

    let path = file(&directory, "app");
    source(&path).init(&installation()).await.unwrap();
    let mut outbox = source(&path).connect().await.unwrap();
    let wrong = Position::finished(Snapshot::empty());
    assert_eq!(outbox.add(SHARD, Epoch(1), &wrong, None).unwrap_err().kind(), ErrorKind::Refused);
    let mut other = Connection::open(&path).unwrap();
    let held = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let error = outbox.claim(SHARD, Epoch(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    drop(held);
    outbox.claim(SHARD, Epoch(1)).await.unwrap();

    other.execute("update onecommit_installation set schema_version = 99", ()).unwrap();
    let error = source(&path).found().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    other.execute("update onecommit_installation set schema_version = 2", ()).unwrap();
    drop(outbox);
    leave_wal(&other);
    let error = source(&path).connect().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("journal_mode"), "{error}");
}

/// A connection that was dropped may be closed a moment later, by the thread of its last call, and SQLite does not
/// wait for that.
fn leave_wal(connection: &Connection) {
    answered_blocking(|| {
        let left = connection.query_row("pragma journal_mode = delete", (), |_| Ok(()));
        left.map_err(|error| {
            let is_busy = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy);
            let kind = if is_busy { ErrorKind::Unreachable } else { ErrorKind::Failed };
            Error::new(kind, "leave WAL mode", "SQLite refused").caused_by(error)
        })
    });
}

fn scope() -> DeliveryScope {
    DeliveryScope {
        prefix: "onecommit.shop.1".to_string(),
        participant: "orders".parse().unwrap(),
        shards: 1,
    }
}

#[test]
fn a_lower_lease_cannot_take_a_shard_from_a_higher_one() {
    let directory = tempfile::tempdir().unwrap();
    let delivery = TopicLogDelivery::new(directory.path().join("topics.db"), scope());
    delivery.init().unwrap();
    delivery.open(SHARD, Epoch(3)).unwrap();
    let error = delivery.open(SHARD, Epoch(2)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    delivery.open(SHARD, Epoch(3)).unwrap();
}

#[test]
fn a_reader_goes_on_where_its_group_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("topics.db");
    append(&path, 0..5);
    let open = |group, from_beginning| TopicLogReader::open(&path, "numbers", group, from_beginning).unwrap();
    let read = |reader: &mut TopicLogReader| reader.next(Duration::ZERO).unwrap().map(|found| found.offset);

    let mut billing = open(Some("billing"), true);
    assert_eq!((read(&mut billing), read(&mut billing)), (Some(0), Some(1)));
    assert!(!billing.at_end());
    assert_eq!(read(&mut open(Some("billing"), true)), Some(0), "nothing was committed yet");
    billing.commit().unwrap();
    assert_eq!(read(&mut open(Some("billing"), true)), Some(2));
    assert_eq!(read(&mut open(Some("billing"), false)), Some(2));
    assert_eq!(read(&mut open(Some("shipping"), true)), Some(0), "another group");

    let mut now = open(None, false);
    assert_eq!(read(&mut now), None);
    assert!(now.at_end());
    append(&path, 5..6);
    assert_eq!(read(&mut now), Some(5));
    now.commit().unwrap();
    let mut other = TopicLogReader::open(&path, "no.such.topic", None, true).unwrap();
    assert_eq!(read(&mut other), None);
}

#[test]
fn a_waiting_reader_sees_what_comes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("topics.db");
    TopicLogDelivery::new(&path, scope()).init().unwrap();
    let mut reader = TopicLogReader::open(&path, "numbers", None, true).unwrap();
    let writer = std::thread::spawn(move || append(&path, 0..1));
    assert_eq!(reader.next(LIMIT).unwrap().unwrap().offset, 0);
    writer.join().unwrap();
}

fn append(path: &Path, numbers: std::ops::Range<u32>) {
    let delivery = TopicLogDelivery::new(path, scope());
    delivery.init().unwrap();
    let mut shard = delivery.open(SHARD, Epoch(1)).unwrap();
    let database = DatabaseIdentity { system: "1".into(), database: "main".into(), timeline: None };
    let stored = |(id, message)| StoredMessage {
        id,
        message_id: MessageId::random(),
        transaction: 1,
        created_at_ms: 0,
        message,
    };
    let messages: Vec<StoredMessage> = (1..).zip(outbox_suite::numbered(numbers)).map(stored).collect();
    shard.begin().unwrap();
    shard.send(&messages).unwrap();
    delivery_suite::commit(
        &mut *shard,
        &Progress::birth(Epoch(1), 1, database, Position::Sequence { last: 0 }),
    )
    .unwrap();
}

#[test]
fn many_processes_may_make_a_file_at_once() {
    const OPENERS: usize = 8;
    const LOG_WAITS: Duration = Duration::from_secs(10);
    for _ in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let path = Arc::new(directory.path().join("data/topics.db"));
        let start = Arc::new(Barrier::new(OPENERS));
        let openers: Vec<_> = (0..OPENERS)
            .map(|_| {
                let (path, start) = (Arc::clone(&path), Arc::clone(&start));
                std::thread::spawn(move || {
                    start.wait();
                    let log = TopicLogDelivery::new(path.as_path(), scope());
                    // Only who has waited as long as the log waits, because the disk stood still, may
                    // have to ask again.
                    answered_blocking(|| {
                        let began = Instant::now();
                        let made = log.init().and_then(|()| log.id());
                        made.inspect_err(|error| assert!(began.elapsed() >= LOG_WAITS, "{error}"))
                    })
                })
            })
            .collect();
        let ids: Vec<String> = openers.into_iter().map(|opener| opener.join().unwrap()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
}

#[tokio::test]
async fn files_of_another_kind_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("topics.db");
    let log = TopicLogDelivery::new(&path, scope());
    log.init().unwrap();
    let lease = |path| {
        let (participant, timeout) = ("orders".parse().unwrap(), Duration::from_secs(1));
        FileLease::open(path, participant, 1, RelayId::random(), timeout)
    };
    let error = lease(&path).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("not a file of leases"), "{error}");

    Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = log.init().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("version 9"), "{error}");

    let text = directory.path().join("leases.db");
    std::fs::write(&text, "not a database at all, but long enough to be looked at").unwrap();
    let error = lease(&text).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");

    let app = file(&directory, "app");
    Connection::open(&app).unwrap().execute_batch("create table orders (id integer)").unwrap();
    assert_eq!(lease(&app).err().unwrap().kind(), ErrorKind::Refused);
    place_at(app).source.init(&installation()).await.unwrap();
}

#[test]
fn each_log_has_an_id_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let id = |name: &str| {
        let log = TopicLogDelivery::new(directory.path().join(name), scope());
        log.init().unwrap();
        log.id().unwrap()
    };
    assert_eq!(id("one.db"), id("one.db"));
    assert_ne!(id("one.db"), id("two.db"));
}

#[test]
fn only_init_makes_a_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("topics.db");
    let log = TopicLogDelivery::new(&path, scope());
    let expect_not_there = || {
        for error in [
            log.id().err(),
            log.peek(SHARD).err(),
            log.open(SHARD, Epoch(1)).err(),
            TopicLogReader::open(&path, "numbers", None, true).err(),
        ] {
            let error = error.unwrap();
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
            assert!(error.to_string().contains("the topic log is not there"), "{error}");
        }
    };
    expect_not_there();
    assert!(!path.exists());
    // What a disk that was full has left of it, or an `init` that died.
    std::fs::File::create(&path).unwrap();
    expect_not_there();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn what_goes_into_a_log_that_is_gone_is_not_committed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("topics.db");
    let aside = directory.path().join("aside.db");
    let log = TopicLogDelivery::new(&path, scope());
    log.init().unwrap();
    let database = DatabaseIdentity { system: "1".into(), database: "main".into(), timeline: None };
    let progress = Progress::birth(Epoch(1), 1, database, Position::Sequence { last: 0 });
    let mut shard = log.open(SHARD, Epoch(1)).unwrap();
    let mut commit = move || shard.begin().and_then(|()| delivery_suite::commit(&mut *shard, &progress));
    commit().unwrap();
    std::fs::rename(&path, &aside).unwrap();
    let error = commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unclear, "{error}");
    std::fs::copy(&aside, &path).unwrap();
    assert_eq!(commit().unwrap_err().kind(), ErrorKind::Unclear, "another file, with the same contents");
    std::fs::rename(&aside, &path).unwrap();
    commit().unwrap();
}

#[tokio::test]
async fn an_outbox_that_is_replaced_is_not_read_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "app");
    let place = place_at(path.clone());
    let mut outbox = outbox_suite::reading(&place, Epoch(1)).await;
    assert!(outbox.read().await.unwrap().chunks.is_empty());
    let copy = file(&directory, "copy");
    std::fs::copy(&path, &copy).unwrap();
    std::fs::rename(&copy, &path).unwrap();
    let error = outbox.read().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("removed or replaced"), "{error}");
}
