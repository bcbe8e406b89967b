//! How much a read looks at, by PostgreSQL's own counters: as much as it returns, however much
//! waits and however many dead rows lie in between.

use std::time::{Duration, Instant};

use onecommit::id::{Epoch, ShardIndex};
use onecommit::outbox::postgres::Limits;
use onecommit::outbox::{Chunk, Delivered, Outbox, OutboxSource};
use onecommit::protocol::position::Position;
use onecommit::protocol::snapshot::Snapshot;

use super::database::{Database, connect};
use super::edges::{drain, insert, messages, reader};
use crate::patience::LIMIT;

const ROWS: usize = 300_000;

/// Scans of the whole table, and entries read from its indexes.
pub async fn looked_at(database: &Database) -> (i64, i64) {
    let readers = "select count(*) from pg_stat_activity
                   where datname = current_database() and application_name = 'onecommit relay'";
    // A connection reports its counters when it ends.
    let ended = async {
        while database.count(readers).await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, ended).await.expect("the readers' connections end");
    let entries = entries(database).await;
    let scans = "select seq_scan from pg_stat_user_tables where relname = 'outbox'";
    (database.count(scans).await, entries)
}

/// Entries read from the indexes, as far as connections have reported them; the test's own has.
async fn entries(database: &Database) -> i64 {
    database.client.batch_execute("select pg_stat_force_next_flush()").await.expect("flush counters");
    database
        .count("select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname = 'outbox'")
        .await
}

/// Everything up to now counts as delivered.
async fn move_to_now(database: &Database, outbox: &mut Box<dyn Outbox>) {
    let sql = "select pg_current_snapshot()::text";
    let now: String = database.client.query_one(sql, &[]).await.expect("snapshot").get(0);
    let position = Position::finished(now.parse::<Snapshot>().expect("snapshot"));
    outbox.add(ShardIndex(0), Epoch(1), &position, None).expect("add");
}

#[tokio::test]
async fn a_read_looks_at_what_it_returns() {
    let database = Database::create().await;
    database.init(1).await;
    insert(&database, ROWS).await;

    let before = looked_at(&database).await;
    let mut outbox = reader(&database).await;
    move_to_now(&database, &mut outbox).await;
    let start = Instant::now();
    for _ in 0..20 {
        assert!(drain(&mut outbox).await.is_empty());
    }
    let empty = start.elapsed() / 20;
    let start = Instant::now();
    for _ in 0..20 {
        insert(&database, 5).await;
        assert_eq!(drain(&mut outbox).await.len(), 1);
    }
    let few = start.elapsed() / 20;
    drop(outbox);
    let (scans, entries) = looked_at(&database).await;
    assert_eq!(scans, before.0, "a whole scan for a small window");
    assert!(entries - before.1 < 1000, "{} entries for 100 messages", entries - before.1);

    let before = (scans, entries);
    let mut outbox = reader(&database).await;
    assert!(outbox.read().await.expect("open").chunks.is_empty());
    // The first is a small one: how many fit is learnt from it.
    const PIECES: u32 = 4;
    let start = Instant::now();
    let mut found = 0;
    for _ in 0..PIECES {
        found += messages(&outbox.read().await.expect("piece").chunks);
    }
    let piece = start.elapsed() / PIECES;
    drop(outbox);
    let (scans, entries) = looked_at(&database).await;
    assert_eq!(scans, before.0);
    let enough = i64::try_from(found).expect("count") * 9 / 8;
    assert!(entries - before.1 < enough, "{} entries for {found} messages", entries - before.1);
    eprintln!("of {ROWS}: empty poll {empty:?}, insert and read 5 {few:?}, piece {piece:?}");
    database.drop().await;
}

/// A transaction that was open for long, as it ends: its messages lie far below dead rows that no
/// vacuum could remove while it ran.
#[tokio::test]
async fn a_late_commit_is_not_searched_among_dead_rows() {
    let database = Database::create().await;
    database.init(1).await;
    let late = connect(&database.url).await;
    let publish = "select onecommit.publish('orders', 'late', '{}')";
    late.batch_execute(&format!("begin isolation level repeatable read; {publish}")).await.expect("late");
    insert(&database, ROWS).await;
    let mut outbox = reader(&database).await;
    move_to_now(&database, &mut outbox).await;
    database.client.batch_execute("delete from onecommit.outbox").await.expect("delete");
    let start = entries(&database).await;
    for _ in 0..2 {
        insert(&database, 50).await;
        assert!(!drain(&mut outbox).await.is_empty());
    }
    // The first of these windows had no floor and walked over the dead rows, which the reader's
    // connection reports in its own time.
    let reported = async {
        while entries(&database).await - start < ROWS as i64 {
            assert!(drain(&mut outbox).await.is_empty());
        }
    };
    tokio::time::timeout(LIMIT, reported).await.expect("counters");
    let before = entries(&database).await;
    late.batch_execute("commit").await.expect("commit");
    insert(&database, 50).await;
    let start = Instant::now();
    let chunks = drain(&mut outbox).await;
    eprintln!("late commit over {ROWS} dead rows: {:?}", start.elapsed());
    let first = &chunks[0].messages[0];
    assert_eq!(first.message.key(), Some(&b"late"[..]), "the oldest id comes first");
    assert_eq!(messages(&chunks), 51);
    drop(outbox);
    let (_, after) = looked_at(&database).await;
    assert!(after - before < 10_000, "{} entries for 51 messages", after - before);
    drop(late);
    database.drop().await;
}

/// Whatever a relay does opens the outbox, also while a long transaction keeps dead rows.
#[tokio::test]
async fn opening_looks_at_no_dead_rows() {
    let database = Database::create().await;
    database.init(1).await;
    let holds = connect(&database.url).await;
    let snapshot = "begin isolation level repeatable read; select pg_current_snapshot()";
    holds.batch_execute(snapshot).await.expect("hold");
    insert(&database, ROWS).await;
    database.client.batch_execute("delete from onecommit.outbox").await.expect("delete");
    let before = looked_at(&database).await;
    drop(database.source().connect().await.expect("connect"));
    let after = looked_at(&database).await;
    assert_eq!(after.0, before.0, "a whole scan");
    assert!(after.1 - before.1 < 1000, "{} entries", after.1 - before.1);
    drop(holds);
    database.drop().await;
}

/// After a restart no floor tells where a window begins, and delivered messages may lie before it.
#[tokio::test]
async fn a_piece_walks_over_no_more_than_its_limit() {
    const WALK: usize = 1000;
    let database = Database::create().await;
    database.init(1).await;
    insert(&database, 20 * WALK).await;
    let limits = Limits { small_window_rows: 10, walk_ids: WALK as i64, ..Limits::default() };
    let mut outbox = database.source_with(limits).connect().await.expect("connect");
    outbox.claim(ShardIndex(0), Epoch(1)).await.expect("claim");
    move_to_now(&database, &mut outbox).await;
    insert(&database, 50).await;
    let mut reads = 0;
    let found = loop {
        let batch = outbox.read().await.expect("read");
        assert!(batch.more, "{reads} reads, and nothing found");
        if !batch.chunks.is_empty() {
            break batch.chunks;
        }
        reads += 1;
    };
    assert_eq!(reads, 21, "one opens the window, each other walks over as many ids as it may");
    assert_eq!(messages(&found) + messages(&drain(&mut outbox).await), 50);
    drop(outbox);
    database.drop().await;
}

/// Walking over what waits for one shard whenever another has delivered took a core.
#[tokio::test]
async fn pruning_seldom_walks_over_a_shard_that_waits() {
    const PAUSE_FOR_ONE: Duration = Duration::from_micros(20);
    let database = Database::create().await;
    database.init(2).await;
    insert(&database, ROWS).await;
    let mut outbox = reader(&database).await;
    let first = delivered(&drain(&mut outbox).await).await;
    let (mut gone, mut began) = (0, Instant::now());
    loop {
        let pruned = outbox.prune(std::slice::from_ref(&first.0), 50_000).await.expect("prune");
        gone += pruned.messages as usize;
        if pruned.all {
            break;
        }
        began = Instant::now();
    }
    assert_eq!(gone, first.1, "the other shard's are kept");
    let pause = PAUSE_FOR_ONE * (ROWS - gone) as u32;

    insert(&database, 50).await;
    let second = delivered(&drain(&mut outbox).await).await;
    let pruned = outbox.prune(std::slice::from_ref(&second.0), 50_000).await.expect("prune");
    assert_eq!(pruned.messages as usize, second.1, "what is new goes at once");
    assert!(!pruned.all || began.elapsed() >= pause, "it walked over {} that wait", ROWS - gone);
    let whole =
        async { while !outbox.prune(std::slice::from_ref(&second.0), 50_000).await.expect("prune").all {} };
    tokio::time::timeout(LIMIT, whole).await.expect("a whole walk later");
    drop(outbox);
    database.drop().await;
}

/// What counts as delivered once these chunks are, and how many messages they have.
async fn delivered(chunks: &[Chunk]) -> (Delivered, usize) {
    let last = chunks.last().expect("a chunk");
    last.barrier.wait().await.expect("barrier");
    let (position, barrier) = (last.position.clone(), last.barrier.id);
    (Delivered { shard: ShardIndex(0), epoch: Epoch(1), position, barrier }, messages(chunks))
}
