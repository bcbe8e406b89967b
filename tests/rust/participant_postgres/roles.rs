//! Branches that another role has prepared: only that role, or a superuser, may end them.

use onecommit::ErrorKind;
use onecommit::id::CoordinatorId;
use onecommit::participant::postgres::PostgresParticipant;
use onecommit::participant::{End, Ended, Participant};
use onecommit::protocol::branch::BranchName;
use uuid::Uuid;

use super::{NEWEST, OLDEST, Place, USUAL, participant_at};
use crate::conformance_participant::branch;
use crate::patience::answered;

/// A login of ours without any special right, and a role that applications work under.
struct Roles {
    place: Place,
    login: String,
    application: String,
    participant: PostgresParticipant,
}

impl Roles {
    async fn on(variable: &str) -> Self {
        let place = Place::on(variable).await;
        let unique = Uuid::new_v4().simple().to_string();
        let (login, application) = (format!("login_{unique}"), format!("a\\b  -c x'\"ü {unique}"));
        let quoted = quoted(&application);
        place
            .sql(&format!(
                "create role {login} login; create role {quoted};
                 grant insert, select on entry to {quoted};
                 grant usage on schema onecommit to {login};
                 grant select, insert on onecommit.server_life to {login};
                 grant select, insert, update, delete on onecommit.coordinator to {login}"
            ))
            .await;
        let participant = participant_at(&place.url_as(&login));
        Roles { place, login, application, participant }
    }

    async fn prepared(&self, number: u64) -> BranchName {
        let name = branch(CoordinatorId::random(), number);
        self.place.sql(&format!("set role {}", quoted(&self.application))).await;
        self.place.prepare(&name.to_string()).await;
        self.place.sql("reset role").await;
        name
    }

    async fn grant(&self, how: &str) {
        self.place.sql(&format!("grant {} to {} {how}", quoted(&self.application), self.login)).await;
    }

    async fn end(&self, name: &BranchName, end: End) -> onecommit::Result<Ended> {
        self.participant.end(name, Some(&self.application), end).await
    }

    async fn can_act(&self) -> bool {
        answered(async || self.participant.can_act_as(&self.application).await).await
    }

    async fn drop(self) {
        let Roles { place, login, application, participant } = self;
        drop(participant);
        let application = quoted(&application);
        place.sql(&format!("drop owned by {login}, {application}; drop role {login}, {application}")).await;
        place.drop().await;
    }
}

fn quoted(role: &str) -> String {
    format!("\"{}\"", role.replace('"', "\"\""))
}

async fn a_branch_is_ended_as_its_owner(variable: &str) {
    let roles = Roles::on(variable).await;
    let (first, second) = (roles.prepared(1).await, roles.prepared(2).await);
    let (_, found) = answered(async || roles.participant.prepared().await).await;
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|branch| branch.owner == roles.application), "{found:?}");

    assert!(!roles.can_act().await);
    let error = roles.end(&first, End::Commit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    let said = error.to_string();
    assert!(said.contains("`grant` that role to this user") && said.contains(&roles.application), "{said}");
    let error = roles.participant.end(&first, None, End::Commit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert!(!roles.place.has(&first.to_string()).await);

    roles.grant("").await;
    assert!(roles.can_act().await);
    let end = async |name, end| answered(async || roles.end(name, end).await).await;
    assert_eq!(end(&first, End::Commit).await, Ended::Now);
    assert_eq!(end(&second, End::RollBack).await, Ended::Now);
    assert_eq!(end(&first, End::Commit).await, Ended::NotThere);
    assert!(roles.place.has(&first.to_string()).await && !roles.place.has(&second.to_string()).await);
    roles.drop().await;
}

#[tokio::test]
async fn a_branch_of_another_role_is_ended_as_its_owner() {
    a_branch_is_ended_as_its_owner(USUAL).await;
}

#[tokio::test]
async fn the_oldest_postgresql_ends_a_branch_as_its_owner() {
    a_branch_is_ended_as_its_owner(OLDEST).await;
}

#[tokio::test]
async fn the_newest_postgresql_ends_a_branch_as_its_owner() {
    a_branch_is_ended_as_its_owner(NEWEST).await;
}

#[tokio::test]
async fn a_member_that_may_not_set_its_role_can_not_act() {
    let roles = Roles::on(NEWEST).await;
    let name = roles.prepared(1).await;
    roles.grant("with set false").await;
    assert!(!roles.can_act().await);
    let error = roles.end(&name, End::RollBack).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    roles.grant("with set true, inherit false").await;
    assert!(roles.can_act().await);
    assert_eq!(answered(async || roles.end(&name, End::RollBack).await).await, Ended::Now);
    roles.drop().await;
}

#[tokio::test]
async fn a_role_of_the_url_is_no_obstacle() {
    let roles = Roles::on(USUAL).await;
    let (name, other) = (roles.prepared(1).await, roles.prepared(2).await);
    let third = format!("third_{}", Uuid::new_v4().simple());
    roles.grant("").await;
    roles
        .place
        .sql(&format!(
            "create role {third}; grant {third} to {}; grant usage on schema onecommit to {third};
             grant select, insert on onecommit.server_life to {third}",
            roles.login
        ))
        .await;
    let url = format!("{}?options=-c%20role%3D{third}", roles.place.url_as(&roles.login));
    let participant = participant_at(&url);
    assert!(answered(async || participant.can_act_as(&roles.application).await).await);
    assert!(answered(async || participant.can_act_as(&third).await).await);
    let ended = answered(async || participant.end(&name, Some(&roles.application), End::Commit).await).await;
    assert_eq!(ended, Ended::Now);
    assert_eq!(answered(async || roles.end(&other, End::RollBack).await).await, Ended::Now);
    drop(participant);
    roles.place.sql(&format!("drop owned by {third}; drop role {third}")).await;
    roles.drop().await;
}

#[tokio::test]
async fn a_superuser_ends_what_anybody_has_prepared() {
    let roles = Roles::on(USUAL).await;
    let (name, other) = (roles.prepared(1).await, roles.prepared(2).await);
    let superuser = &roles.place.participant;
    assert!(answered(async || superuser.can_act_as(&roles.application).await).await);
    let end = async |name, owner| answered(async || superuser.end(name, owner, End::Commit).await).await;
    assert_eq!(end(&name, Some(roles.application.as_str())).await, Ended::Now);
    assert_eq!(end(&other, Some("a role that was dropped")).await, Ended::Now);
    roles.drop().await;
}

#[tokio::test]
async fn a_role_that_is_not_there_is_said() {
    let roles = Roles::on(USUAL).await;
    let name = branch(CoordinatorId::random(), 1);
    let missing = "nobody's role";
    assert!(!answered(async || roles.participant.can_act_as(missing).await).await);
    let error = roles.participant.end(&name, Some(missing), End::Commit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains(missing), "{error}");
    roles.drop().await;
}
