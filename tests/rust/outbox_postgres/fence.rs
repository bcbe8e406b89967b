//! What stops a relay that must not go on: a crash of the server that shows nowhere else, and a
//! successor whose claim comes at the worst moment.

use onecommit::id::Epoch;
use onecommit::outbox::{Delivered, OutboxSource};
use onecommit::{ErrorKind, MessageId, Result};

use super::{LIMIT, Place, SHARD, connect};
use crate::conformance_outbox::{drain, ids, numbered};

async fn publish(place: &Place) -> MessageId {
    place.publishing().publish(&place.client, &numbered(0..1)[0]).await.unwrap()
}

fn fenced<T>(outcome: Result<T>) {
    let error = outcome.err().expect("an older epoch must be refused");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
}

/// Waits until a statement on the place's tables waits for a lock.
pub(super) async fn until_one_waits(place: &Place) {
    let looker = connect(&place.url).await;
    let sql = format!(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
           and application_name = 'onecommit relay' and query like '%{}%'",
        place.schema
    );
    let waiting = async {
        while looker.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("a statement that waits for a lock");
}

#[tokio::test]
async fn a_crash_that_shows_nowhere_else_ends_every_read() {
    let crashes = ["truncate {s}.server_life", "update {s}.server_life set id = gen_random_uuid()"];
    for crash in crashes {
        let place = Place::ready().await;
        let (mut outbox, mut idle) = (place.relay(Epoch(1)).await, place.relay(Epoch(1)).await);
        let first = publish(&place).await;
        let chunks = drain(&mut outbox).await;
        assert_eq!(ids(&chunks), [first]);
        assert!(idle.read().await.is_ok());
        place.sql(crash).await;
        let second = publish(&place).await;
        for outbox in [&mut outbox, &mut idle] {
            let error = outbox.read().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
            assert!(error.to_string().contains("crashed"), "{error}");
            assert!(outbox.read().await.is_err(), "and no later one makes up for it");
        }
        let mut again = place.source().connect().await.unwrap();
        let last = chunks.last().unwrap();
        again.add(SHARD, Epoch(1), &last.position, last.barrier.id).unwrap();
        assert_eq!(ids(&drain(&mut again).await), [second]);
        drop((outbox, idle, again));
        place.drop().await;
    }
}

/// Everything that an old owner writes is refused.
async fn assert_fenced(place: &Place, delivered: Delivered) {
    let mut old = place.source().connect().await.unwrap();
    let epoch = delivered.epoch;
    fenced(old.claim(SHARD, epoch).await);
    fenced(old.note_birth(SHARD, epoch).await);
    fenced(old.note_error(SHARD, epoch, Some("late")).await);
    fenced(old.prune(std::slice::from_ref(&delivered), 100).await);
    let mut old = place.source().connect().await.unwrap();
    old.add(SHARD, epoch, &delivered.position, delivered.barrier).unwrap();
    let barriers = place.number("select count(*) from {s}.barrier").await;
    publish(place).await;
    fenced(old.read().await);
    assert_eq!(place.number("select count(*) from {s}.barrier").await, barriers);
    let shard = place.source().connect().await.unwrap().shard(SHARD).await.unwrap();
    assert_eq!((shard.born, shard.pruned, shard.last_error), (false, false, None));
}

#[tokio::test]
async fn a_claim_waits_for_a_barrier_and_fences_what_follows() {
    const HELD: &str = "select pg_advisory_lock(hashtext('{s}'))";
    let place = Place::ready().await;
    // A barrier's commit takes as long as this test likes.
    place
        .sql(
            "create function {s}.slow() returns trigger language plpgsql as $$ begin
               perform pg_advisory_xact_lock(hashtext('{s}')); return null; end $$;
             create constraint trigger slow after insert on {s}.barrier
             deferrable initially deferred for each row execute function {s}.slow()",
        )
        .await;
    let mut old = place.relay(Epoch(1)).await;
    publish(&place).await;
    place.sql(HELD).await;
    let chunk = old.read().await.unwrap().chunks.pop().unwrap();
    let mut new = place.source().connect().await.unwrap();
    let claiming = tokio::spawn(async move { new.claim(SHARD, Epoch(2)).await });
    until_one_waits(&place).await;
    assert!(!claiming.is_finished(), "the barrier is not committed yet");
    place.sql("select pg_advisory_unlock_all()").await;
    chunk.barrier.wait().await.unwrap();
    claiming.await.unwrap().unwrap();

    publish(&place).await;
    fenced(old.read().await);
    drop(old);
    let (position, barrier) = (chunk.position, chunk.barrier.id);
    assert!(place.source().connect().await.unwrap().has_barrier(SHARD, barrier.unwrap()).await.unwrap());
    assert_fenced(&place, Delivered { shard: SHARD, epoch: Epoch(1), position, barrier }).await;
    place.drop().await;
}

#[tokio::test]
async fn a_barrier_waits_for_a_claim_and_is_fenced() {
    let place = Place::ready().await;
    let mut old = place.relay(Epoch(1)).await;
    publish(&place).await;
    let chunk = drain(&mut old).await.pop().unwrap();
    publish(&place).await;
    place.sql("begin; update {s}.shard set epoch = 2").await;
    let (mut pruner, delivered) = (place.source().connect().await.unwrap(), {
        let (position, barrier) = (chunk.position.clone(), chunk.barrier.id);
        Delivered { shard: SHARD, epoch: Epoch(1), position, barrier }
    });
    let late = delivered.clone();
    let reading = tokio::spawn(async move { old.read().await });
    let pruning = tokio::spawn(async move { pruner.prune(&[late], 100).await });
    until_one_waits(&place).await;
    assert!(!reading.is_finished() && !pruning.is_finished());
    place.sql("commit").await;
    fenced(reading.await.unwrap());
    fenced(pruning.await.unwrap());
    assert_fenced(&place, delivered).await;
    place.drop().await;
}
