//! A table in which everything is delivered is emptied at once; one with anything else in it, whatever
//! keeps it there, is not.

use std::time::Duration;

use onecommit::id::Epoch;
use onecommit::outbox::postgres::{Limits, PostgresSource};
use onecommit::outbox::{Chunk, Delivered, Installation, Outbox, OutboxSource as _, Pruned};

use super::fence::until_one_waits;
use super::{LIMIT, Place, SHARD, connect, unique};
use crate::conformance_outbox::{drain, ids, installation, numbered};

const MESSAGES: u32 = 300;
/// Fewer than there are: what one step of deleting can't do.
const STEP: u32 = 10;
const LOCK_MS: u64 = 20;

/// A relay to which any table is large enough, and that has read all that was published.
struct Drained {
    place: Place,
    outbox: Box<dyn Outbox>,
    last: Chunk,
    /// How many messages that were.
    read: usize,
    file: i64,
}

impl Drained {
    async fn new() -> Self {
        Drained::by("postgres", LOCK_MS).await
    }

    async fn by(user: &str, lock_ms: u64) -> Self {
        let place = Place::ready().await;
        keep_autovacuum_out(&place).await;
        place.publishing().publish_many(&place.client, &numbered(0..MESSAGES)).await.unwrap();
        let drained = Drained::of(place, user, lock_ms).await;
        assert_eq!(drained.read, MESSAGES as usize);
        drained
    }

    async fn of(place: Place, user: &str, lock_ms: u64) -> Self {
        if user != "postgres" {
            let rights = format!(
                "create role {user} login; grant usage on schema {{s}} to {user};
                 grant select, insert, update, delete on all tables in schema {{s}} to {user};
                 grant select on {{s}}.outbox_id_seq to {user}"
            );
            place.sql(&rights).await;
        }
        let url = place.url.replace("postgres@", &format!("{user}@"));
        let limits = Limits { truncate_bytes: 1, truncate_lock_ms: lock_ms, ..Limits::default() };
        let mut outbox = PostgresSource { limits, ..place.source_at(&url) }.connect().await.unwrap();
        outbox.claim(SHARD, Epoch(1)).await.unwrap();
        let origin = outbox.origin();
        outbox.add(SHARD, Epoch(1), &origin, None).unwrap();
        let mut chunks = drain(&mut outbox).await;
        let (read, file) = (ids(&chunks).len(), file_of(&place).await);
        Drained { outbox, last: chunks.pop().unwrap(), read, file, place }
    }

    fn delivered(&self) -> Delivered {
        let (position, barrier) = (self.last.position.clone(), self.last.barrier.id);
        Delivered { shard: SHARD, epoch: Epoch(1), position, barrier }
    }

    async fn prune(&mut self) -> Pruned {
        self.outbox.prune(&[self.delivered()], STEP).await.unwrap()
    }

    /// It was deleted from, as if the table could not be emptied.
    async fn assert_deletes(&mut self) {
        assert_eq!(self.prune().await, Pruned { messages: u64::from(STEP), all: false });
        assert_eq!(file_of(&self.place).await, self.file);
    }

    async fn assert_empties(&mut self) {
        assert!(self.prune().await.all);
        assert_ne!(file_of(&self.place).await, self.file);
        assert_eq!(self.place.number("select pg_relation_size('{s}.outbox')").await, 0);
    }
}

/// Its ANALYZE may have the table's lock for longer than a relay waits for it, and rows are deleted then.
async fn keep_autovacuum_out(place: &Place) {
    place.sql("alter table {s}.outbox set (autovacuum_enabled = false)").await;
}

/// A table that was emptied has another file.
async fn file_of(place: &Place) -> i64 {
    place.number("select pg_relation_filenode('{s}.outbox')::bigint").await
}

#[tokio::test]
async fn what_is_all_delivered_goes_at_once_and_what_comes_later_is_delivered() {
    let mut drained = Drained::new().await;
    drained.assert_empties().await;
    assert!(drained.outbox.shard(SHARD).await.unwrap().pruned, "an older progress is refused from now on");
    let later =
        drained.place.publishing().publish_many(&drained.place.client, &numbered(0..3)).await.unwrap();
    assert_eq!(ids(&drain(&mut drained.outbox).await), later);
    drained.place.drop().await;
}

#[tokio::test]
async fn what_is_held_stays_and_goes_when_it_is_not_held_any_more() {
    let mut drained = Drained::new().await;
    let (first, last) = (drained.place.number("select min(id) from {s}.outbox").await, MESSAGES / 3);
    drained.outbox.hold(Some(first + i64::from(last) - 1));
    let mut gone = 0;
    loop {
        let pruned = drained.prune().await;
        gone += pruned.messages;
        if pruned.all {
            break;
        }
    }
    assert_eq!(gone, u64::from(last));
    assert_eq!(file_of(&drained.place).await, drained.file, "it is not emptied");
    assert_eq!(drained.place.number("select count(*) from {s}.outbox").await, i64::from(MESSAGES - last));
    drained.outbox.hold(None);
    drained.assert_empties().await;
    drained.place.drop().await;
}

#[tokio::test]
async fn a_transaction_s_message_is_found_among_all_that_is_young() {
    let mut drained = Drained::new().await;
    let long = Duration::from_secs(600);
    assert!(!drained.outbox.has_proofs(long).await.unwrap());
    // Below more than one look takes.
    let sql = "update {s}.outbox set message_id = '0192e4a7-0000-8000-8000-000000000000' where id =
                 (select min(id) from {s}.outbox);
               insert into {s}.outbox (topic) select 'numbers' from generate_series(1, 25000)";
    drained.place.sql(sql).await;
    assert!(drained.outbox.has_proofs(long).await.unwrap());
    drained.place.sql("update {s}.outbox set created_at = created_at - interval '1 hour'").await;
    assert!(!drained.outbox.has_proofs(long).await.unwrap(), "nobody can ask for it any more");
    drained.place.drop().await;
}

#[tokio::test]
async fn what_was_committed_since_stays() {
    let mut drained = Drained::new().await;
    let late = drained.place.publishing().publish(&drained.place.client, &numbered(0..1)[0]).await.unwrap();
    drained.assert_deletes().await;
    assert_eq!(ids(&drain(&mut drained.outbox).await), [late]);
    drained.place.drop().await;
}

#[tokio::test]
async fn what_is_not_passed_inside_a_window_stays() {
    let mut drained = Drained::new().await;
    let finished = drained.delivered();
    // The window's first half, as it is committed while the second is under way.
    let mut again = drained.place.source().connect().await.unwrap();
    again.claim(SHARD, Epoch(2)).await.unwrap();
    let origin = again.origin();
    again.add(SHARD, Epoch(2), &origin, None).unwrap();
    let first = drain(&mut again).await.swap_remove(0);
    assert_ne!(first.position, finished.position, "more than one chunk");
    let (position, barrier) = (first.position, first.barrier.id);
    let half = Delivered { shard: SHARD, epoch: Epoch(2), position, barrier };
    drained.outbox.prune(&[half], MESSAGES).await.unwrap();
    assert_eq!(file_of(&drained.place).await, drained.file);
    let left = i64::from(MESSAGES) - first.messages.len() as i64;
    assert_eq!(drained.place.number("select count(*) from {s}.outbox").await, left);
    drained.place.drop().await;
}

#[tokio::test]
async fn a_writer_that_has_not_ended_loses_nothing_and_is_not_waited_for() {
    for prepared in [false, true] {
        let mut drained = Drained::new().await;
        let writer = connect(&drained.place.url).await;
        writer.batch_execute("begin").await.unwrap();
        let late = drained.place.publishing().publish(&writer, &numbered(0..1)[0]).await.unwrap();
        let name = unique();
        if prepared {
            writer.batch_execute(&format!("prepare transaction '{name}'")).await.unwrap();
        }
        drained.assert_deletes().await;
        let end = if prepared { format!("commit prepared '{name}'") } else { "commit".to_string() };
        writer.batch_execute(&end).await.unwrap();
        assert_eq!(ids(&drain(&mut drained.outbox).await), [late]);
        drained.place.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_while_the_lock_is_waited_for_stays() {
    let mut drained = Drained::by("postgres", 60_000).await;
    let writer = connect(&drained.place.url).await;
    writer.batch_execute("begin").await.unwrap();
    let late = drained.place.publishing().publish(&writer, &numbered(0..1)[0]).await.unwrap();
    let delivered = [drained.delivered()];
    let prune = drained.outbox.prune(&delivered, STEP);
    let commit = async {
        until_one_waits(&drained.place).await;
        writer.batch_execute("commit").await.unwrap();
    };
    let (pruned, ()) = tokio::join!(prune, commit);
    assert_eq!(pruned.unwrap(), Pruned { messages: u64::from(STEP), all: false });
    assert_eq!(file_of(&drained.place).await, drained.file);
    assert_eq!(ids(&drain(&mut drained.outbox).await), [late]);
    drained.place.drop().await;
}

#[tokio::test]
async fn messages_that_are_set_aside_stay() {
    let mut drained = Drained::new().await;
    let aside = "insert into {s}.set_aside (id, shard, message_id, topic, reason)
                 select id, 0, message_id, topic, 'too large' from {s}.outbox order by id desc limit 1";
    drained.place.sql(aside).await;
    drained.assert_deletes().await;
    drained.place.sql("delete from {s}.set_aside").await;
    drained.assert_empties().await;
    drained.place.drop().await;
}

#[tokio::test]
async fn an_older_epoch_empties_nothing() {
    let mut drained = Drained::new().await;
    let mut successor = drained.place.source().connect().await.unwrap();
    successor.claim(SHARD, Epoch(2)).await.unwrap();
    let delivered = [drained.delivered()];
    let error = drained.outbox.prune(&delivered, STEP).await.unwrap_err();
    assert_eq!(error.kind(), onecommit::ErrorKind::Fenced, "{error}");
    assert_eq!(file_of(&drained.place).await, drained.file);
    drained.place.drop().await;
}

#[tokio::test]
async fn the_messages_of_another_relays_shard_stay() {
    let place = Place::new().await;
    let two = Installation { shards: 2, ..installation() };
    place.source().init(&two).await.unwrap();
    keep_autovacuum_out(&place).await;
    place.publishing().publish_many(&place.client, &numbered(0..MESSAGES)).await.unwrap();
    let drained = Drained::of(place, "postgres", LOCK_MS).await;
    let read = drained.read as i64;
    assert!((1..i64::from(MESSAGES)).contains(&read), "each shard has some of {MESSAGES}: {read}");
    let Drained { mut outbox, place, last, file, .. } = drained;
    let (position, barrier) = (last.position, last.barrier.id);
    let delivered = Delivered { shard: SHARD, epoch: Epoch(1), position, barrier };
    assert_eq!(outbox.prune(&[delivered], MESSAGES).await.unwrap().messages, read as u64);
    assert_eq!(file_of(&place).await, file);
    assert_eq!(place.number("select count(*) from {s}.outbox").await, i64::from(MESSAGES) - read);
    place.drop().await;
}

#[tokio::test]
async fn where_the_table_may_not_be_emptied_rows_are_deleted() {
    let role = unique();
    let mut drained = Drained::by(&role, LOCK_MS).await;
    drained.assert_deletes().await;
    drained.place.sql(&format!("grant truncate on {{s}}.outbox to {role}")).await;
    drained.assert_empties().await;
    drained.place.sql(&format!("drop owned by {role}; drop role {role}")).await;

    let mut referenced = Drained::new().await;
    referenced.place.sql("create table {s}.theirs (id bigint references {s}.outbox)").await;
    referenced.assert_deletes().await;
    for place in [drained.place, referenced.place] {
        place.drop().await;
    }
}

#[tokio::test]
async fn rows_that_are_deleted_are_vacuumed_without_waiting_for_autovacuum() {
    let place = Place::ready().await;
    keep_autovacuum_out(&place).await;
    let mut outbox = place.relay(Epoch(1)).await;
    place.sql("select {s}.publish('t', 'k', 'v') from generate_series(1, 30000)").await;
    let last = drain(&mut outbox).await.pop().unwrap();
    let (position, barrier) = (last.position, last.barrier.id);
    let delivered = [Delivered { shard: SHARD, epoch: Epoch(1), position, barrier }];
    assert!(!outbox.prune(&delivered, 10_000).await.unwrap().all);
    let vacuums = "select pg_stat_get_vacuum_count('{s}.outbox'::regclass)";
    assert_eq!(place.number(vacuums).await, 0, "so few are not worth it");
    while !outbox.prune(&delivered, 10_000).await.unwrap().all {}
    let vacuumed = async { while place.number(vacuums).await == 0 {} };
    tokio::time::timeout(LIMIT, vacuumed).await.expect("a vacuum");
    place.drop().await;
}
