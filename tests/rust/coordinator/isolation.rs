//! What a transaction over two databases is isolated from, and what not. That write skew commits is shown
//! by the program in `docs/transactions.md`.

use onecommit::coordinator::Options;
use onecommit::participant::Isolation;
use tokio_postgres::Client;

use super::{Log, Place, begin, connect, move_money, names};
use crate::patience::until;

const TOTAL: i32 = 200;

async fn total(client: &Client) -> i32 {
    client.query_one("select total from account where id = 1", &[]).await.unwrap().get(0)
}

/// In each database the level holds as if the branch were all there is.
#[tokio::test(flavor = "multi_thread")]
async fn each_branch_has_the_level_that_was_asked_for() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let other = connect(&place.urls[1]).await;
    for (isolation, seen) in
        [(Isolation::ReadCommitted, 1), (Isolation::RepeatableRead, 0), (Isolation::Serializable, 0)]
    {
        let branches: Vec<_> = names().into_iter().zip(&clients).collect();
        let options = Options { isolation, ..Options::default() };
        let transaction = node.transaction(&branches, options).await.unwrap();
        let before = total(&clients[1]).await;
        other.batch_execute("update account set total = total + 1 where id = 1").await.unwrap();
        assert_eq!(total(&clients[1]).await, before + seen, "{isolation}");
        transaction.roll_back().await.unwrap();
    }
    node.close().await;
}

/// Across them it is atomic, and not simultaneous.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_both_databases_may_see_half_of_a_transaction() {
    let place = Place::new(Log::File).await;
    let (node, clients, readers) = (place.node(), place.clients().await, place.clients().await);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let moving = tokio::spawn(async move {
        // To the second database only, so that what is there never falls; the first has no floor.
        clients[0].batch_execute("alter table account drop constraint account_total_check").await.unwrap();
        while !*stopped.borrow() {
            let transaction = begin(&node, &clients).await.unwrap();
            move_money(&clients).await;
            transaction.commit().await.unwrap();
        }
        node.close().await;
    });
    let look = async || {
        let before = total(&readers[1]).await;
        let here = total(&readers[0]).await;
        // Where nothing came in between it was so at the moment at which the first was read.
        let is_same = total(&readers[1]).await == before;
        Ok(is_same.then_some(here + before))
    };
    until("half of one is seen", look, |sum| sum.is_some_and(|sum| sum != TOTAL)).await;
    stop.send_replace(true);
    moving.await.unwrap();
    let totals = place.totals().await;
    assert_eq!(totals[0] + totals[1], TOTAL, "in the end it is whole");
}
