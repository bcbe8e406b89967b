//! History rows: written durably, and what stands in the way of a write.

use onecommit::ErrorKind;
use onecommit::id::CoordinatorId;
use onecommit::participant::{Instance, Marked, Participant};
use onecommit::protocol::history::{CompareAndSet, Row};

use super::{Place, connect, participant_at};
use crate::patience::answered;

const FIRST: CompareAndSet = CompareAndSet { expected: [0, 0], mark: 1 };

async fn opened(place: &Place) -> (CoordinatorId, Instance) {
    let coordinator = CoordinatorId::random();
    place.participant.open_history(coordinator).await.unwrap();
    (coordinator, answered(async || place.participant.instance().await).await)
}

#[tokio::test]
async fn a_history_is_on_disk_before_it_is_confirmed() {
    let place = Place::new().await;
    place
        .sql(
            "create function durable() returns trigger language plpgsql as $$ begin
               if current_setting('synchronous_commit') not in ('on', 'remote_apply') then
                 raise 'not flushed';
               end if;
               return null;
             end $$;
             create constraint trigger durable after insert or update or delete on onecommit.coordinator
             deferrable initially deferred for each row execute function durable()",
        )
        .await;
    for setting in ["off", "local", "on", "remote_apply"] {
        let url = format!("{}?options=-c%20synchronous_commit%3D{setting}", place.url);
        let participant = participant_at(&url);
        let (coordinator, instance) =
            (CoordinatorId::random(), answered(async || participant.instance().await).await);
        participant.open_history(coordinator).await.unwrap();
        assert_eq!(participant.mark(coordinator, FIRST, &instance).await.unwrap(), Marked::Written);
        // Written once more: that it can be seen does not mean that it has reached a standby.
        assert_eq!(participant.mark(coordinator, FIRST, &instance).await.unwrap(), Marked::Written);
        assert!(participant.close_history(coordinator, &instance).await.unwrap());
        place.sql("update onecommit.coordinator set closed_at = closed_at - interval '1 day'").await;
        assert_eq!(participant.forget_histories(0).await.unwrap(), 1);
    }
    place.drop().await;
}

#[tokio::test]
async fn a_mark_that_is_there_is_written_again() {
    let place = Place::new().await;
    let (coordinator, instance) = opened(&place).await;
    let version = "select xmin::text::bigint from onecommit.coordinator";
    let mark = async || answered(async || place.participant.mark(coordinator, FIRST, &instance).await).await;
    assert_eq!(mark().await, Marked::Written);
    let first = place.number(version).await;
    assert_eq!(mark().await, Marked::Written);
    assert_ne!(place.number(version).await, first);
    place.drop().await;
}

#[tokio::test]
async fn a_mark_that_meets_a_recoverer_never_passes_it() {
    let place = Place::new().await;
    let (coordinator, instance) = opened(&place).await;
    let recoverer = connect(&place.url).await;
    recoverer.batch_execute("begin; update onecommit.coordinator set closed = true").await.unwrap();
    let participant = participant_at(&place.url);
    let marking = tokio::spawn(async move { participant.mark(coordinator, FIRST, &instance).await });
    place.someone_waits().await;
    recoverer.batch_execute("commit").await.unwrap();
    let error = marking.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("changed at the same time"), "{error}");
    let instance = answered(async || place.participant.instance().await).await;
    let marked = answered(async || place.participant.mark(coordinator, FIRST, &instance).await).await;
    assert_eq!(marked, Marked::Lost(Some(Row { mark: 0, is_closed: true })));
    place.drop().await;
}

#[tokio::test]
async fn an_instance_is_told_alike_whatever_the_session_is_set_to() {
    let place = Place::new().await;
    let plain = answered(async || place.participant.instance().await).await;
    for setting in ["timezone%3DAsia/Tokyo", "datestyle%3DGerman", "lc_time%3DC", "extra_float_digits%3D-15"]
    {
        let participant = participant_at(&format!("{}?options=-c%20{setting}", place.url));
        assert_eq!(answered(async || participant.instance().await).await, plain, "{setting}");
    }
    place.drop().await;
}

#[tokio::test]
async fn a_row_that_was_changed_by_hand_is_refused() {
    let place = Place::new().await;
    let (coordinator, _) = opened(&place).await;
    place
        .sql(
            "alter table onecommit.coordinator drop constraint coordinator_mark_check;
             update onecommit.coordinator set mark = -1",
        )
        .await;
    let error = place.participant.history(coordinator).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("by hand (mark: -1)"), "{error}");
    place.drop().await;
}
