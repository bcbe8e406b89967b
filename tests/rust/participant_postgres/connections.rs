//! Connections: few, replaced when they break, none of them to a server that can't take part.

use std::time::Duration;

use onecommit::ErrorKind;
use onecommit::id::CoordinatorId;
use onecommit::participant::Participant;
use onecommit::participant::postgres::PostgresParticipant;

use super::{CONNECTIONS, Place, REQUEST_LIMIT, SCHEMA, connect, participant_at};
use crate::patience::{LIMIT, answered};

const OURS: &str = "from pg_stat_activity
    where application_name = 'onecommit coordinator' and datname = current_database()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_share_few_connections() {
    let place = Place::new().await;
    let participant = &place.participant;
    let requests = || answered(async || participant.instance().await);
    for _ in 0..10 {
        tokio::join!(
            requests(),
            requests(),
            requests(),
            requests(),
            requests(),
            requests(),
            requests(),
            requests()
        );
    }
    let open = place.number(&format!("select count(*) {OURS}")).await;
    assert!(open >= 1 && open <= CONNECTIONS as i64, "{open}");
    place.drop().await;
}

#[tokio::test]
async fn who_waits_for_a_connection_waits_within_a_limit() {
    let place = Place::new().await;
    let limit = Duration::from_secs(2);
    let one = PostgresParticipant::new(&place.url.parse().unwrap(), SCHEMA, 1, limit);
    answered(async || one.instance().await).await;
    let blocker = connect(&place.url).await;
    blocker.batch_execute("begin; lock table onecommit.coordinator").await.unwrap();
    let coordinator = CoordinatorId::random();
    let (first, second) = tokio::join!(one.history(coordinator), one.history(coordinator));
    let errors = [first.unwrap_err(), second.unwrap_err()];
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::Unreachable), "{errors:?}");
    assert!(errors[0].to_string().contains("did not answer within 2000 ms"), "{errors:?}");
    blocker.batch_execute("commit").await.unwrap();
    assert_eq!(answered(async || one.history(coordinator).await).await.1, None);
    place.drop().await;
}

#[tokio::test]
async fn all_busy_is_said() {
    let place = Place::new().await;
    let none = PostgresParticipant::new(&place.url.parse().unwrap(), SCHEMA, 0, Duration::from_millis(1));
    let error = none.instance().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("all 0 connections"), "{error}");
    place.drop().await;
}

#[tokio::test]
async fn a_connection_that_broke_is_replaced() {
    let place = Place::new().await;
    let before = answered(async || place.participant.instance().await).await;
    for _ in 0..3 {
        let ended = place.number(&format!("select count(pg_terminate_backend(pid)) {OURS}")).await;
        assert!(ended >= 1, "there is one to break");
        assert_eq!(answered(async || place.participant.instance().await).await, before, "the same life");
    }
    place.drop().await;
}

#[tokio::test]
async fn a_request_that_is_given_up_leaves_nothing_behind() {
    let place = Place::new().await;
    answered(async || place.participant.instance().await).await;
    let blocker = connect(&place.url).await;
    blocker.batch_execute("begin; lock table onecommit.coordinator").await.unwrap();
    tokio::select! {
        done = place.participant.open_history(CoordinatorId::random()) => panic!("it did not wait: {done:?}"),
        () = place.someone_waits() => {}
    }
    let ended = async {
        // The blocker keeps the table: only a cancellation ends the one that waits for it.
        while place.number(&format!("select count(*) {OURS}")).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, ended).await.unwrap();
    blocker.batch_execute("commit").await.unwrap();
    place.drop().await;
}

#[tokio::test]
async fn what_stands_in_the_way_is_said() {
    let place = Place::new().await;
    let url = place.url.parse().unwrap();
    let unprepared = PostgresParticipant::new(&url, "nothing_here", 1, REQUEST_LIMIT);
    let error = unprepared.instance().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("run `onecommit init`"), "{error}");

    place.sql("drop table onecommit.coordinator").await;
    let error = place.participant.open_history(CoordinatorId::random()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("of an earlier release: run `onecommit init`"), "{error}");

    let read_only = format!("{}?options=-c%20default_transaction_read_only%3Don", place.url);
    let error = participant_at(&read_only).instance().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("postgresql://app:secret@{}/db", listener.local_addr().unwrap());
    let limit = Duration::from_millis(300);
    let error =
        PostgresParticipant::new(&silent.parse().unwrap(), SCHEMA, 1, limit).instance().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("app:***@127.0.0.1"), "{error}");
    place.drop().await;
}
