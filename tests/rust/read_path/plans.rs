//! How much a read looks at, by PostgreSQL's own counters: as much as it returns, however much
//! waits and however many dead rows lie in between.

use std::time::{Duration, Instant};

use onecommit::id::{Epoch, ShardIndex};
use onecommit::outbox::Outbox;
use onecommit::protocol::position::Position;
use onecommit::protocol::snapshot::Snapshot;

use super::database::{Database, connect};
use super::edges::{drain, insert, reader};

const ROWS: usize = 300_000;
/// A condition that does not come true within this time never does.
const LIMIT: Duration = Duration::from_secs(60);

/// Scans of the whole table, and entries read from its indexes.
async fn looked_at(database: &Database) -> (i64, i64) {
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
        let chunks = outbox.read().await.expect("piece").chunks;
        found += chunks.iter().map(|chunk| chunk.messages.len()).sum::<usize>();
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
    tokio::time::timeout(Duration::from_secs(60), reported).await.expect("counters");
    let before = entries(&database).await;
    late.batch_execute("commit").await.expect("commit");
    insert(&database, 50).await;
    let start = Instant::now();
    let chunks = drain(&mut outbox).await;
    eprintln!("late commit over {ROWS} dead rows: {:?}", start.elapsed());
    let first = &chunks[0].messages[0];
    assert_eq!(first.message.key(), Some(&b"late"[..]), "the oldest id comes first");
    assert_eq!(chunks.iter().map(|chunk| chunk.messages.len()).sum::<usize>(), 51);
    drop(outbox);
    let (_, after) = looked_at(&database).await;
    assert!(after - before < 10_000, "{} entries for 51 messages", after - before);
    drop(late);
    database.drop().await;
}
