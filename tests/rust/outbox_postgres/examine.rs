//! What the doctor reads of a database, on every version: transactions that stay open, prepared or
//! not, and the topics of what waits.

use std::time::Duration;

use onecommit::outbox::OutboxSource;
use onecommit::outbox::postgres::PostgresFacts;

use super::{NEWEST, OLDEST, Place, USUAL, connect, unique};
use crate::conformance_outbox::{installation, numbered};

/// However young a transaction is.
async fn examine(place: &Place) -> PostgresFacts {
    place.source().examine(Duration::ZERO).await.unwrap()
}

#[tokio::test]
async fn open_and_prepared_transactions_are_seen() {
    for version in [OLDEST, USUAL, NEWEST] {
        let place = Place::named(version, &unique()).await;
        place.source().init(&installation()).await.unwrap();
        let name = unique();
        let open = connect(&place.url).await;
        open.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
        let pid: i32 = open.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        let prepare = format!("begin; select pg_current_xact_id(); prepare transaction '{name}'");
        connect(&place.url).await.batch_execute(&prepare).await.unwrap();

        let facts = place.source().examine(Duration::from_secs(3_600)).await.unwrap();
        assert!(facts.long_transactions.iter().all(|one| one.pid != pid), "{facts:?}");
        // Others have theirs in the same database, and only the oldest few are told.
        let seen = async {
            loop {
                let facts = examine(&place).await;
                let held = facts.long_transactions.iter().find(|one| one.pid == pid);
                let prepared = facts.prepared.iter().find(|one| one.name == name);
                if let Some((held, prepared)) = held.zip(prepared) {
                    break (held.state.clone(), prepared.owner.clone());
                }
            }
        };
        let (state, owner) = tokio::time::timeout(super::LIMIT, seen).await.unwrap();
        assert_eq!((state.as_str(), owner.as_str()), ("idle in transaction", "postgres"));
        place.client.batch_execute(&format!("rollback prepared '{name}'")).await.unwrap();
    }
}

#[tokio::test]
async fn topics_of_what_waits_are_told_with_their_oldest() {
    let place = Place::new().await;
    place.source().init(&installation()).await.unwrap();
    assert!(examine(&place).await.topics.is_empty());
    for message in numbered(0..3) {
        place.publishing().publish(&place.client, &message).await.unwrap();
    }
    let topic = numbered(0..1)[0].topic().to_string();
    let aged = format!("update {}.outbox set created_at = now() - interval '1 hour'", place.schema);
    place.client.batch_execute(&aged).await.unwrap();
    let facts = examine(&place).await;
    assert_eq!(facts.topics.len(), 1);
    assert_eq!(facts.topics[0].0, topic);
    assert!((3_600_000..3_700_000).contains(&facts.topics[0].1), "{:?}", facts.topics);
    assert!(facts.missing_rights.is_empty(), "{:?}", facts.missing_rights);
}
