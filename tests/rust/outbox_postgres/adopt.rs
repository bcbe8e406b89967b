//! Rows that another server's transactions wrote, and a sequence that lost its place: refused by a
//! relay, and right once they are adopted.

use onecommit::ErrorKind;
use onecommit::id::Epoch;
use onecommit::message::StoredMessage;
use onecommit::outbox::OutboxSource;

use super::{Place, SHARD};
use crate::conformance_outbox::numbered;

/// Far above what any test's server has handed out.
const AHEAD: &str = "4000000000";

fn keys(found: &[StoredMessage]) -> Vec<String> {
    found.iter().map(|stored| String::from_utf8_lossy(stored.message.key().unwrap()).into()).collect()
}

async fn publish(place: &mut Place, numbers: std::ops::Range<u32>) {
    let publishing = place.publishing();
    let transaction = place.client.transaction().await.unwrap();
    publishing.publish_many(&transaction, &numbered(numbers)).await.unwrap();
    transaction.commit().await.unwrap();
}

async fn adopt(place: &Place) {
    let mut outbox = place.source().connect_to_adopt().await.unwrap();
    outbox.claim(SHARD, Epoch(5)).await.unwrap();
    outbox.prepare_adoption(&[(SHARD, Epoch(5))], &[SHARD]).await.unwrap();
}

async fn is_refused(place: &Place, word: &str) {
    let error = place.source().connect().await.err().expect("a relay must not read it");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let said = error.to_string();
    assert!(said.contains(word) && said.contains("onecommit adopt orders"), "{said}");
}

#[tokio::test]
async fn rows_with_numbers_yet_to_be_handed_out_come_in_the_order_of_ids() {
    let mut place = Place::ready().await;
    publish(&mut place, 0..6).await;
    // Some are ahead, some belong to transactions that could run now, some are old.
    place.sql(&format!("update {{s}}.outbox set xid = '{AHEAD}' where id % 3 = 0")).await;
    place.sql("update {s}.outbox set xid = '700' where id % 3 = 1").await;
    is_refused(&place, "yet to hand out").await;
    let mut outbox = place.source().connect_to_adopt().await.unwrap();
    assert_eq!(outbox.contents(SHARD, None).await.unwrap().foreign, 2);
    drop(outbox);
    publish(&mut place, 6..9).await;
    adopt(&place).await;
    let sql = "select count(*) from {s}.outbox where xid >= pg_snapshot_xmax(pg_current_snapshot())";
    assert_eq!(place.number(sql).await, 0);
    let found = place.read_all().await;
    assert_eq!(keys(&found), (0..9).map(|number: u32| number.to_string()).collect::<Vec<_>>());
    place.drop().await;
}

#[tokio::test]
async fn rows_of_a_transaction_that_runs_are_not_held_back_by_it() {
    let mut place = Place::ready().await;
    publish(&mut place, 0..3).await;
    let mut other = super::connect(&place.url).await;
    let running = other.transaction().await.unwrap();
    let number: String = running.query_one("select pg_current_xact_id()::text", &[]).await.unwrap().get(0);
    place.sql(&format!("update {{s}}.outbox set xid = '{number}' where id = 2")).await;
    adopt(&place).await;
    assert_eq!(keys(&place.read_all().await), ["0", "1", "2"]);
    running.rollback().await.unwrap();
    place.drop().await;
}

#[tokio::test]
async fn a_sequence_below_the_table_is_raised() {
    let mut place = Place::ready().await;
    publish(&mut place, 0..5).await;
    place.sql("select setval('{s}.outbox_id_seq', 2)").await;
    is_refused(&place, "sequence").await;
    for _ in 0..2 {
        adopt(&place).await;
    }
    publish(&mut place, 5..7).await;
    assert_eq!(place.number("select max(id) from {s}.outbox").await, 7);
    assert_eq!(place.read_all().await.len(), 7);
    place.drop().await;
}

#[tokio::test]
async fn what_others_have_built_stays() {
    let place = Place::ready().await;
    place.sql("create view {s}.waiting as select id from {s}.outbox").await;
    let error = place.source().remove().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("waiting"), "{error}");
    place.sql("drop view {s}.waiting; create table {s}.mine (n int)").await;
    place.source().remove().await.unwrap();
    assert_eq!(place.number("select count(*) from {s}.mine").await, 0);
    place.drop().await;
}
