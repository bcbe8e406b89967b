//! Single situations of the read path that chance meets too seldom.

use std::time::{Duration, Instant};

use onecommit::ErrorKind;
use onecommit::id::{Epoch, ShardIndex};
use onecommit::outbox::postgres::Limits;
use onecommit::outbox::{Chunk, Delivered, Outbox, OutboxSource};

use super::chance::Chance;
use super::database::{Database, connect};

const EPOCH: Epoch = Epoch(1);

/// Windows of ten messages are a backlog.
pub async fn reader(database: &Database) -> Box<dyn Outbox> {
    reader_with(database, Limits { small_window_rows: 10, ..Limits::default() }).await
}

async fn reader_with(database: &Database, limits: Limits) -> Box<dyn Outbox> {
    let mut outbox = database.source_with(limits).connect().await.expect("connect");
    add(&mut outbox, 0).await;
    outbox
}

async fn add(outbox: &mut Box<dyn Outbox>, shard: u16) {
    let (shard, origin) = (ShardIndex(shard), outbox.origin());
    outbox.claim(shard, EPOCH).await.expect("claim");
    outbox.add(shard, EPOCH, &origin, None).expect("add");
}

pub async fn insert(database: &Database, count: usize) {
    database.client.batch_execute(&insert_sql(count)).await.expect("insert");
}

fn insert_sql(count: usize) -> String {
    format!(
        "insert into onecommit.outbox (topic, key, value)
         select 'orders', convert_to(n::text, 'UTF8'), '' from generate_series(1, {count}) n"
    )
}

/// Reads until nothing waits.
pub async fn drain(outbox: &mut Box<dyn Outbox>) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    loop {
        let batch = outbox.read().await.expect("read");
        if batch.chunks.is_empty() && !batch.more {
            return chunks;
        }
        chunks.extend(batch.chunks);
    }
}

pub fn messages(chunks: &[Chunk]) -> usize {
    chunks.iter().map(|chunk| chunk.messages.len()).sum()
}

fn ids(chunks: &[Chunk]) -> Vec<i64> {
    chunks.iter().flat_map(|chunk| &chunk.messages).map(|stored| stored.id).collect()
}

/// Begins to read a backlog in pieces of ten; returns the first.
async fn first_piece(database: &Database) -> (Box<dyn Outbox>, Vec<Chunk>) {
    let limits = Limits { small_window_rows: 10, piece_rows: 10, ..Limits::default() };
    let mut outbox = reader_with(database, limits).await;
    assert!(outbox.read().await.expect("open").backlog);
    let first = outbox.read().await.expect("piece").chunks;
    assert_eq!(messages(&first), 10);
    (outbox, first)
}

/// Lets a part of the time pass that a read takes; no timer is fine enough for it.
async fn within_a_read(chance: &mut Chance) {
    let until = Instant::now() + Duration::from_micros(chance.next() % 3000);
    while Instant::now() < until {
        tokio::task::yield_now().await;
    }
}

/// The sequence says 1 before its first use as after it.
#[tokio::test]
async fn an_id_that_was_never_handed_out_is_no_floor() {
    let database = Database::create().await;
    database.init(2).await;
    let mut outbox = reader(&database).await;
    assert_eq!(messages(&drain(&mut outbox).await), 0);
    // The shards wait at two snapshots, so that a window is opened, with a floor, over no row.
    add(&mut outbox, 1).await;
    assert!(outbox.read().await.expect("read").backlog);
    assert_eq!(messages(&drain(&mut outbox).await), 0);
    insert(&database, 50).await;
    assert_eq!(messages(&drain(&mut outbox).await), 50);
    drop(outbox);
    database.drop().await;
}

/// What is in progress at one window is in the next one, however small both are.
#[tokio::test]
async fn a_late_commit_comes_in_a_small_window() {
    let database = Database::create().await;
    database.init(1).await;
    let late = connect(&database.url).await;
    late.batch_execute(&format!("begin; {}", insert_sql(1))).await.expect("insert");
    let mut outbox = reader(&database).await;
    insert(&database, 1).await;
    assert_eq!(ids(&drain(&mut outbox).await), [2]);
    late.batch_execute("commit").await.expect("commit");
    assert_eq!(ids(&drain(&mut outbox).await), [1], "the late one");
    drop((outbox, late));
    database.drop().await;
}

/// It belongs to the next window, although it is visible while this one is read.
#[tokio::test]
async fn a_commit_between_two_pieces_is_read_once() {
    let database = Database::create().await;
    database.init(1).await;
    insert(&database, 30).await;
    let (mut outbox, mut chunks) = first_piece(&database).await;
    insert(&database, 30).await;
    chunks.extend(drain(&mut outbox).await);
    assert_eq!(ids(&chunks), (1..=60).collect::<Vec<_>>(), "each once, in order");
    drop(outbox);
    database.drop().await;
}

/// Its id is below those that were delivered, and it was not.
#[tokio::test]
async fn a_late_commit_is_not_pruned_by_its_id() {
    let database = Database::create().await;
    database.init(1).await;
    let late = connect(&database.url).await;
    late.batch_execute(&format!("begin; {}", insert_sql(1))).await.expect("insert");
    insert(&database, 30).await;
    let (mut outbox, first) = first_piece(&database).await;
    late.batch_execute("commit").await.expect("commit");
    let last = first.last().expect("ten messages");
    last.barrier.wait().await.expect("barrier");
    let (position, barrier) = (last.position.clone(), last.barrier.id);
    let delivered = Delivered { shard: ShardIndex(0), epoch: EPOCH, position, barrier };
    let mut pruner = database.source().connect().await.expect("connect");
    let pruned = pruner.prune(&[delivered], 100).await.expect("prune");
    assert_eq!(pruned.messages, 10, "only what was delivered goes");
    let rest = ids(&drain(&mut outbox).await);
    assert_eq!(rest, (12..=31).chain([1]).collect::<Vec<_>>());
    drop((outbox, pruner, late));
    database.drop().await;
}

/// Pruning waits for the end of a backlog. Two shards that stand at different snapshots open one to
/// come together, and under writers some transaction is always in progress.
#[tokio::test]
async fn a_backlog_of_shards_taken_one_after_the_other_ends_under_writers() {
    let database = Database::create().await;
    database.init(2).await;
    let (mut running, mut next) = (connect(&database.url).await, connect(&database.url).await);
    let begin = format!("begin; {}", insert_sql(3));
    running.batch_execute(&begin).await.expect("insert");
    let mut outbox = database.source().connect().await.expect("connect");
    add(&mut outbox, 0).await;
    insert(&database, 3).await;
    drain(&mut outbox).await;
    add(&mut outbox, 1).await;
    let (mut reads, mut opened) = (0, false);
    loop {
        next.batch_execute(&begin).await.expect("insert");
        running.batch_execute("commit").await.expect("commit");
        std::mem::swap(&mut running, &mut next);
        // Later than what runs, so that snapshots list that.
        insert(&database, 1).await;
        let batch = outbox.read().await.expect("read");
        if opened && !batch.backlog {
            break;
        }
        opened |= batch.backlog;
        reads += 1;
        assert!(reads < 30, "30 reads of a few messages each, and they still count as a backlog");
    }
    running.batch_execute("commit").await.expect("commit");
    drop((outbox, running, next));
    database.drop().await;
}

/// A transaction begins just as a barrier is written, and is alone until it ends: the snapshot in
/// between does not list it, so that a floor taken after the barrier's number passes over its rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_that_meets_a_barrier_is_read() {
    const ROUNDS: u64 = 150;
    let database = Database::create().await;
    database.init(1).await;
    let mut outbox = reader(&database).await;
    let meeting = connect(&database.url).await;
    let mut chance = Chance::new(1);
    for round in 0..ROUNDS {
        insert(&database, 1).await;
        let begun = async {
            within_a_read(&mut chance).await;
            let sql = format!("begin; {}", insert_sql(20));
            meeting.batch_execute(&sql).await.expect("insert");
        };
        let (batch, ()) = tokio::join!(outbox.read(), begun);
        let first = messages(&batch.expect("read").chunks);
        assert_eq!(first + messages(&drain(&mut outbox).await), 1, "round {round}");
        meeting.batch_execute("commit").await.expect("commit");
        assert_eq!(messages(&drain(&mut outbox).await), 20, "round {round}");
    }
    drop(outbox);
    database.drop().await;
}

/// A window's barrier belongs into the window's own transaction, which waits for the flush. This
/// runtime has one thread: what a read leaves to a task of its own has not run yet when the next
/// read begins, which finds what was committed meanwhile.
#[tokio::test]
async fn a_barrier_is_flushed_whatever_the_default_is_and_however_soon_the_next_read_comes() {
    let database = Database::create().await;
    database.init(1).await;
    let sql = format!("alter database {} set synchronous_commit = off", database.name);
    database.client.batch_execute(&sql).await.expect("alter database");
    let check = "create function check_flush() returns trigger language plpgsql as $$ begin
           assert current_setting('synchronous_commit') = 'on', 'the barrier is not flushed';
           return new; end $$;
         create trigger check_flush before insert on onecommit.barrier
           for each row execute function check_flush()";
    database.client.batch_execute(check).await.expect("trigger");
    let mut outbox = reader(&database).await;
    let writer = connect(&database.url).await;
    let mut chance = Chance::new(2);
    let mut chunks = Vec::new();
    for _ in 0..100 {
        insert(&database, 1).await;
        let meeting = async {
            within_a_read(&mut chance).await;
            writer.batch_execute(&insert_sql(1)).await.expect("insert");
        };
        let (batch, ()) = tokio::join!(outbox.read(), meeting);
        chunks.extend(batch.expect("read").chunks);
        chunks.extend(outbox.read().await.expect("read").chunks);
    }
    chunks.extend(drain(&mut outbox).await);
    assert_eq!(messages(&chunks), 200);
    for chunk in chunks {
        chunk.barrier.wait().await.expect("barrier");
    }
    drop(outbox);
    database.drop().await;
}

/// A crash that the connection survives behind a pooler: the unlogged table was emptied, and filled
/// by whoever connected first.
#[tokio::test]
async fn a_crash_behind_the_connection_ends_it() {
    let database = Database::create().await;
    database.init(1).await;
    for rows in [0, 3, 50] {
        let mut outbox = reader(&database).await;
        drain(&mut outbox).await;
        insert(&database, rows).await;
        let crash = "delete from onecommit.server_life; insert into onecommit.server_life default values";
        database.client.batch_execute(crash).await.expect("another life");
        let error = outbox.read().await.expect_err("the server crashed");
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        let error = outbox.read().await.expect_err("the connection is worth nothing");
        assert_eq!(error.kind(), ErrorKind::Unclear, "{error}");
    }
    database.drop().await;
}

/// The transaction it left open could give the next window a barrier older than its snapshot.
#[tokio::test]
async fn a_read_that_was_given_up_ends_the_connection() {
    let database = Database::create().await;
    database.init(1).await;
    let mut outbox = reader(&database).await;
    insert(&database, 3).await;
    let given_up = tokio::time::timeout(Duration::ZERO, outbox.read()).await;
    assert!(given_up.is_err(), "no server answers in no time");
    let error = outbox.read().await.expect_err("another connection is needed");
    assert_eq!(error.kind(), ErrorKind::Unclear, "{error}");
    let error = outbox.prune(&[], 10).await;
    assert_eq!(error.expect("nothing to prune").messages, 0);
    drop(outbox);
    database.drop().await;
}

/// An idle shard's progress never moves past its barriers, so that nothing would remove them.
#[tokio::test]
async fn a_shard_without_messages_gathers_no_barriers() {
    let database = Database::create().await;
    database.init(2).await;
    let mut outbox = reader(&database).await;
    add(&mut outbox, 1).await;
    // Small windows and backlogs.
    for count in [1, 20, 1, 20, 20] {
        let publish =
            format!("select onecommit.publish('orders', '42', '{{}}') from generate_series(1, {count})");
        database.client.batch_execute(&publish).await.expect("publish");
        assert_eq!(messages(&drain(&mut outbox).await), count);
    }
    let barriers = "select count(*) from onecommit.barrier group by shard";
    let barriers = database.client.query(barriers, &[]).await.expect("count");
    let barriers: Vec<i64> = barriers.iter().map(|row| row.get(0)).collect();
    assert_eq!(barriers, [5], "one for each window, of the shard that found something");
    drop(outbox);
    database.drop().await;
}
