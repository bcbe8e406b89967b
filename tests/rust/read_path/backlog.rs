//! What counting the backlog looks at: a bounded number of rows, however many wait, are delivered and
//! not removed yet, or are dead.

use onecommit::id::ShardIndex;
use onecommit::outbox::{Outbox, OutboxSource};
use onecommit::protocol::position::Position;
use onecommit::protocol::snapshot::Snapshot;

use super::database::{Database, connect};
use super::edges::{insert, messages, reader};
use super::plans::looked_at;

const SHARD: ShardIndex = ShardIndex(0);
const ROWS: usize = 300_000;
/// The bound of one shard alone.
const COUNTED: u64 = 200_000;

async fn now(database: &Database) -> Position {
    let sql = "select pg_current_snapshot()::text";
    let now: String = database.client.query_one(sql, &[]).await.expect("snapshot").get(0);
    Position::finished(now.parse::<Snapshot>().expect("snapshot"))
}

async fn connected(database: &Database) -> Box<dyn Outbox> {
    database.source().connect().await.expect("connect")
}

#[tokio::test]
async fn a_large_backlog_is_counted_up_to_the_bound() {
    let database = Database::create().await;
    database.init(1).await;
    insert(&database, ROWS).await;
    let before = looked_at(&database).await;
    let mut outbox = connected(&database).await;
    let found = outbox.backlog(SHARD, &outbox.origin()).await.expect("backlog");
    drop(outbox);
    assert_eq!((found.messages, found.more), (COUNTED, true));
    assert!(found.oldest_ms > 0);
    let (scans, entries) = looked_at(&database).await;
    assert_eq!(scans, before.0, "a whole scan");
    assert!(entries - before.1 < COUNTED as i64 + 1000, "{} entries", entries - before.1);
    database.drop().await;
}

/// A long transaction keeps the rows that were delivered and removed.
#[tokio::test]
async fn dead_and_delivered_rows_cost_nothing() {
    let database = Database::create().await;
    database.init(1).await;
    let holds = connect(&database.url).await;
    let snapshot = "begin isolation level repeatable read; select pg_current_snapshot()";
    holds.batch_execute(snapshot).await.expect("hold");
    insert(&database, ROWS).await;
    let half = format!("delete from onecommit.outbox where id <= {}", ROWS / 2);
    database.client.batch_execute(&half).await.expect("delete");
    let position = now(&database).await;
    insert(&database, 5).await;
    let before = looked_at(&database).await;
    let mut outbox = connected(&database).await;
    let found = outbox.backlog(SHARD, &position).await.expect("backlog");
    drop(outbox);
    assert_eq!((found.messages, found.more), (5, false));
    let (scans, entries) = looked_at(&database).await;
    assert_eq!(scans, before.0, "a whole scan");
    assert!(entries - before.1 < 1000, "{} entries", entries - before.1);
    drop(holds);
    database.drop().await;
}

/// In the middle of a backlog what was delivered lies below, and the rest is found from there on.
#[tokio::test]
async fn an_open_window_is_counted_from_where_it_stands() {
    let database = Database::create().await;
    database.init(1).await;
    insert(&database, ROWS).await;
    let mut outbox = reader(&database).await;
    let mut delivered = 0;
    let position = loop {
        let chunks = outbox.read().await.expect("read").chunks;
        delivered += messages(&chunks);
        if let (true, Some(last)) = (delivered > ROWS / 2, chunks.last()) {
            break last.position.clone();
        }
    };
    assert!(matches!(position, Position::Snapshots { this: Some(_), .. }), "{position}");
    insert(&database, 7).await;
    drop(outbox);
    let before = looked_at(&database).await.1;
    let mut outbox = connected(&database).await;
    let found = outbox.backlog(SHARD, &position).await.expect("backlog");
    drop(outbox);
    let left = ROWS - delivered + 7;
    assert_eq!((found.messages, found.more), (left as u64, false));
    let (_, entries) = looked_at(&database).await;
    assert!(entries - before < left as i64 + 1000, "{} entries for {left}", entries - before);
    database.drop().await;
}

/// Where none of a shard's is among the rows that are looked at, its oldest is younger than these.
#[tokio::test]
async fn a_shard_behind_the_bound_is_told_to_wait_no_longer_than_what_was_looked_at() {
    let database = Database::create().await;
    database.init(2).await;
    let one_key = format!(
        "insert into onecommit.outbox (topic, key, value, created_at)
         select 'orders', 'a', '', clock_timestamp() - interval '1 hour' from generate_series(1, {ROWS})"
    );
    database.client.batch_execute(&one_key).await.expect("insert");
    let mut outbox = connected(&database).await;
    let origin = outbox.origin();
    let mut both = Vec::new();
    for shard in 0..2 {
        both.push(outbox.backlog(ShardIndex(shard), &origin).await.expect("backlog"));
    }
    both.sort_by_key(|found| found.messages);
    assert_eq!((both[0].messages, both[0].more, both[1].messages), (0, true, COUNTED));
    for found in both {
        assert!((3_600_000..3_700_000).contains(&found.oldest_ms), "{}", found.oldest_ms);
    }
    drop(outbox);
    database.drop().await;
}
