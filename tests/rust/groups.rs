//! The stores of groups: both conform, and what only one of them owes.

use std::time::Duration;

use onecommit::error::{ErrorKind, Result};
use onecommit::group::file::FileGroup;
use onecommit::group::zookeeper::ZookeeperGroup;
use onecommit::group::{Group, GroupOf, GroupSeen, GroupSession, Member};
use onecommit::id::{Incarnation, Namespace};
use onecommit::zookeeper::{ZookeeperSettings, init};
use tokio::time::timeout;

use crate::conformance_group::{self as conformance, Place, join, member, open, seen};
use crate::patience::{LIMIT, anew, answered};
use crate::zookeeper_server::{self, MORTAL, Proxy};

/// Who has a connection is answered within this.
const MOMENT: Duration = Duration::from_millis(100);
const TIMES: usize = 5;

fn named(name: &str) -> GroupOf {
    GroupOf::Named(name.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    conformance::suite(async || {
        number.set(number.get() + 1);
        let path = folder.path().join(number.get().to_string());
        let group = Box::new(FileGroup::new(&path, &named("a/b")));
        Place { group, other: Box::new(FileGroup::new(&path, &GroupOf::Nodes)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_a_file_that_was_replaced_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let group = FileGroup::new(folder.path(), &named("a"));
    let mut session = open(&group).await;
    join(&mut *session, &member("one")).await;
    std::fs::rename(folder.path().join("groups.db"), folder.path().join("elsewhere")).unwrap();
    assert_eq!(session.members().await.unwrap_err().kind(), ErrorKind::Fenced);
    let mut next = open(&group).await;
    seen(&mut *next, &[]).await;
}

async fn prepared() -> (ZookeeperSettings, Namespace) {
    let (settings, namespace) = (zookeeper_server::settings(), zookeeper_server::namespace());
    answered(async || init(&settings, &namespace, Incarnation::random()).await).await;
    (settings, namespace)
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_conforms() {
    conformance::suite(async || {
        let (settings, namespace) = prepared().await;
        let group = |of: &GroupOf| -> Box<dyn Group> {
            Box::new(ZookeeperGroup::new(settings.clone(), &namespace, of).unwrap())
        };
        Place { group: group(&named("a/b ä")), other: group(&named("a")) }
    })
    .await;
}

/// The next that is told, whatever the server's answers.
async fn told(session: &mut dyn GroupSession, known: &GroupSeen) -> Result<GroupSeen> {
    loop {
        match timeout(LIMIT, session.changed(known)).await.expect("it is told") {
            Err(error) if error.is_retriable() && error.kind() != ErrorKind::Fenced => {}
            told => return told,
        }
    }
}

/// That it may be gone is told first. Where the machine stood still until the session was over there is no time for
/// that.
async fn told_unsure(session: &mut dyn GroupSession, known: &GroupSeen) -> Option<GroupSeen> {
    match told(session, known).await {
        Err(over) if over.kind() == ErrorKind::Fenced => None,
        told => {
            let unsure = told.unwrap();
            assert_eq!(unsure, GroupSeen { is_current: false, ..known.clone() });
            Some(unsure)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_the_session_is_told_first_that_it_may_be_gone_and_then_that_it_is() {
    anew(TIMES, who_loses_the_session).await;
}

async fn who_loses_the_session() -> Option<()> {
    let (settings, namespace) = prepared().await;
    let proxy = Proxy::start(&settings.servers).await;
    let through = ZookeeperSettings { servers: proxy.address.clone(), ..settings.clone() };
    let mortal = ZookeeperSettings { session_timeout: MORTAL, ..through.clone() };
    let group = |settings: &ZookeeperSettings| {
        ZookeeperGroup::new(settings.clone(), &namespace, &named("workers")).unwrap()
    };
    let (mut stays, mut cut_off) = (open(&group(&settings)).await, open(&group(&mortal)).await);
    let (one, two) = (member("stays"), member("cut off"));
    join(&mut *stays, &one).await;
    join(&mut *cut_off, &two).await;
    seen(&mut *stays, &[one.clone(), two.clone()]).await;
    let both = GroupSeen { members: vec![one.clone(), two.clone()], is_current: true };

    proxy.open.send_replace(false);
    // Until its client has noticed: before, a call that fails says so, and what is told of the connection is not met.
    while matches!(timeout(MOMENT, cut_off.members()).await, Ok(Ok(_))) {}
    let unsure = told_unsure(&mut *cut_off, &both).await?;
    let left = told(&mut *stays, &both).await.unwrap();
    assert_eq!(left, GroupSeen { members: vec![one.clone()], is_current: true });

    proxy.open.send_replace(true);
    let over = told(&mut *cut_off, &unsure).await.unwrap_err();
    assert_eq!(over.kind(), ErrorKind::Fenced, "{over}");
    assert_eq!(cut_off.join(&two).await.unwrap_err().kind(), ErrorKind::Fenced);
    let again = Member { id: member("").id, ..two };
    let mut next = open(&group(&through)).await;
    join(&mut *next, &again).await;
    seen(&mut *stays, &[one, again]).await;
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_cut_is_told_of_and_leaves_the_member_one() {
    anew(TIMES, a_short_cut).await;
}

async fn a_short_cut() -> Option<()> {
    let (settings, namespace) = prepared().await;
    let proxy = Proxy::start(&settings.servers).await;
    let session_timeout = Duration::from_secs(12);
    let through = ZookeeperSettings { servers: proxy.address.clone(), session_timeout, ..settings.clone() };
    let group = ZookeeperGroup::new(through, &namespace, &named("workers")).unwrap();
    let mut session = open(&group).await;
    let one = member("one");
    join(&mut *session, &one).await;
    let known = GroupSeen { members: vec![one], is_current: true };
    proxy.open.send_replace(false);
    let unsure = told_unsure(&mut *session, &known).await?;
    proxy.open.send_replace(true);
    match told(&mut *session, &unsure).await {
        Ok(again) => assert_eq!(again, known),
        // A machine that stood still for that long has lost it.
        Err(over) => assert_eq!(over.kind(), ErrorKind::Fenced),
    }
    Some(())
}
