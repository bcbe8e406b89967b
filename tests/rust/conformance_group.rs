//! What every store of groups owes to members. A backend passes by calling [`suite`].

use std::time::Duration;

use onecommit::Result;
use onecommit::error::ErrorKind;
use onecommit::group::{Group, GroupSeen, GroupSession, Member};
use onecommit::id::MemberId;

use crate::patience::{LIMIT, answered, until};

/// Where two groups are kept that do not know each other.
pub struct Place {
    pub group: Box<dyn Group>,
    pub other: Box<dyn Group>,
}

/// Runs every check, each with a place of its own.
pub async fn suite(fresh: impl AsyncFn() -> Place) {
    all_see_the_same_in_the_order_of_joining(&fresh().await).await;
    who_watches_is_told_who_comes_changes_and_goes(&fresh().await).await;
    members_go_with_their_session(&fresh().await).await;
    an_id_is_one_sessions(&fresh().await).await;
}

pub fn member(name: &str) -> Member {
    Member { id: MemberId::random(), name: name.to_string(), data: vec![0, 255] }
}

pub async fn open(group: &dyn Group) -> Box<dyn GroupSession> {
    answered(async || group.open().await).await
}

pub async fn join(session: &mut dyn GroupSession, member: &Member) {
    answered(async || session.join(member).await).await;
}

pub async fn members(session: &mut dyn GroupSession) -> Vec<Member> {
    answered(async || session.members().await).await
}

/// Until others see just these.
pub async fn seen(session: &mut dyn GroupSession, expected: &[Member]) {
    let look = async || session.members().await;
    until("the members are as expected", look, |found: &Vec<Member>| found == expected).await;
}

async fn all_see_the_same_in_the_order_of_joining(place: &Place) {
    let (mut a, mut b) = (open(&*place.group).await, open(&*place.group).await);
    assert_eq!(members(&mut *a).await, []);
    let (one, two, three) = (member("one"), member("two"), member(""));
    join(&mut *a, &one).await;
    join(&mut *b, &two).await;
    join(&mut *a, &three).await;
    let expected = [one.clone(), two.clone(), three];
    seen(&mut *a, &expected).await;
    seen(&mut *b, &expected).await;
    let mut elsewhere = open(&*place.other).await;
    assert_eq!(members(&mut *elsewhere).await, []);
    // Who says something else keeps the place.
    let one = Member { name: "uno".to_string(), data: Vec::new(), ..one };
    join(&mut *a, &one).await;
    seen(&mut *b, &[one, two, expected[2].clone()]).await;
}

async fn who_watches_is_told_who_comes_changes_and_goes(place: &Place) {
    let (mut a, mut watcher) = (open(&*place.group).await, open(&*place.group).await);
    let mut known = GroupSeen { members: Vec::new(), is_current: true };
    let one = member("one");
    let changed = Member { data: b"else".to_vec(), ..one.clone() };
    for expected in [vec![one.clone()], vec![changed.clone()], Vec::new()] {
        let before = known.clone();
        let mut waiting = tokio::spawn(async move { (watcher.changed(&before).await, watcher) });
        // There is nothing to tell of yet.
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        match expected.first() {
            Some(member) => join(&mut *a, member).await,
            None => answered(async || a.leave(one.id).await).await,
        }
        let told = tokio::time::timeout(LIMIT, waiting).await.expect("it is told").unwrap();
        watcher = told.1;
        known = told.0.unwrap();
        assert_eq!(known, GroupSeen { members: expected, is_current: true });
    }
    answered(async || a.leave(one.id).await).await;
}

async fn members_go_with_their_session(place: &Place) {
    let (mut dies, mut lives) = (open(&*place.group).await, open(&*place.group).await);
    let (one, two) = (member("dies"), member("lives"));
    join(&mut *dies, &one).await;
    join(&mut *lives, &two).await;
    seen(&mut *lives, &[one, two.clone()]).await;
    drop(dies);
    seen(&mut *lives, std::slice::from_ref(&two)).await;
    // What it left is in nobody's way.
    let mut next = open(&*place.group).await;
    let three = member("next");
    join(&mut *next, &three).await;
    seen(&mut *lives, &[two, three]).await;
}

async fn an_id_is_one_sessions(place: &Place) {
    let (mut a, mut b) = (open(&*place.group).await, open(&*place.group).await);
    let one = member("one");
    join(&mut *a, &one).await;
    let refused: Result<()> = b.join(&one).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    seen(&mut *b, &[one]).await;
}
