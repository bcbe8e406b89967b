//! Which timelines a promoted server comes from, and who may know it: on the oldest, the usual and the
//! newest version.

use onecommit::ErrorKind;
use onecommit::participant::Participant;
use onecommit::protocol::fate::Switch;

use super::{Place, participant_at};
use crate::patience::answered;
use crate::postgres_servers::Servers;

async fn position(place: &Place) -> u64 {
    let sql = "select (pg_current_wal_flush_lsn() - '0/0')::bigint";
    u64::try_from(place.number(sql).await).unwrap()
}

async fn switches(place: &Place) -> Vec<Switch> {
    answered(async || place.participant.timelines().await).await.1
}

async fn timelines_are_told_to_whom_may_know_them(version: &str) {
    let mut servers = Servers::new();
    let place = Place::at(&servers.say(&format!("primary only {version}"))).await;
    assert!(switches(&place).await.is_empty(), "it was never promoted");
    let login = "create role login login; grant usage on schema onecommit to login;
                 grant select, insert on onecommit.server_life to login";
    place.sql(login).await;
    let before = position(&place).await;
    servers.say("begin_timeline only");
    let place = place.again().await;
    let (instance, left) = answered(async || place.participant.timelines().await).await;
    assert_eq!(instance.database.timeline.as_deref(), Some("00000002"));
    assert_eq!(instance, answered(async || place.participant.instance().await).await);
    let [switch] = &left[..] else { panic!("{left:?}") };
    assert_eq!(switch.timeline, "00000001");
    assert!(before <= switch.position && switch.position <= position(&place).await);

    let other = participant_at(&place.url_as("login"));
    let refused = other.timelines().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    assert!(refused.to_string().contains("`grant execute on function pg_read_file(text)`"), "{refused}");
    place.sql("grant execute on function pg_read_file(text) to login").await;
    assert_eq!(answered(async || other.timelines().await).await.1, left);

    servers.say("begin_timeline only");
    let both = switches(&place.again().await).await;
    assert_eq!(both[0], left[0]);
    assert_eq!((both.len(), both[1].timeline.as_str()), (2, "00000002"));
    assert!(both[0].position < both[1].position);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_postgresql_tells_its_timelines() {
    timelines_are_told_to_whom_may_know_them("13").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_tells_its_timelines() {
    timelines_are_told_to_whom_may_know_them("15").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_postgresql_tells_its_timelines() {
    timelines_are_told_to_whom_may_know_them("18").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_promotion_the_timeline_is_the_new_one_while_the_control_file_has_the_old_one() {
    let mut servers = Servers::new();
    let first = Place::at(&servers.say("primary first")).await;
    let standby = servers.say("standby second first");
    servers.say("catch_up second");
    servers.say("stop first immediate");
    // It would write the new timeline into the control file, in its own time.
    servers.say("hold second checkpointer");
    servers.say("promote second");
    let second = first.moved_to(&standby).await;
    let in_control_file = "select timeline_id::bigint from pg_control_checkpoint()";
    assert_eq!(second.number(in_control_file).await, 1);
    let instance = answered(async || second.participant.instance().await).await;
    assert_eq!(instance.database.timeline.as_deref(), Some("00000002"));
    assert_eq!(switches(&second).await.len(), 1);
}
