//! What every lease owes to relays. A backend passes by calling [`suite`]; one that keeps leases in
//! the rows of a table also calls [`a_paused_owner_comes_back_to_nothing`].

use std::time::{Duration, Instant};

use async_trait::async_trait;
use onecommit::Result;
use onecommit::id::{Epoch, RelayId, ShardIndex};
use onecommit::lease::{Lease, LeaseView};
use onecommit::protocol::lease::share;

use crate::patience::{self, LIMIT, answered};

/// How many shards a place has.
pub const SHARDS: u16 = 4;
const SHARD: ShardIndex = ShardIndex(0);
/// Where nobody is to be counted as dead, and no request to be given up: it has half of this.
pub const LONG: Duration = Duration::from_secs(240);
/// Where a death is waited for. Every request may be given up then, and has to be repeated.
pub const SHORT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Where the leases of one participant with [`SHARDS`] shards are kept.
#[async_trait]
pub trait Place: Send + Sync {
    /// What a relay of that id opens, to count as dead after that long. To drop it is to die.
    async fn open(&self, relay: RelayId, timeout: Duration) -> Result<Box<dyn Lease>>;
}

/// Runs every check, each with a place of its own.
pub async fn suite(fresh: impl AsyncFn() -> Box<dyn Place>) {
    one_relay_at_a_time(&*fresh().await).await;
    epochs_only_grow(&*fresh().await).await;
    only_the_owner_gives_up(&*fresh().await).await;
    who_leaves_is_gone_at_once(&*fresh().await).await;
    a_dead_owner_is_succeeded(&*fresh().await).await;
    let began = Instant::now();
    while !a_living_owner_is_not(&*fresh().await).await {
        assert!(began.elapsed() < LIMIT, "this machine stands still again and again");
    }
    shards_are_shared_evenly(&*fresh().await).await;
}

async fn one_relay_at_a_time(place: &dyn Place) {
    let (first, second) = (RelayId::random(), RelayId::random());
    let (mut a, mut b) = (open(place, first, LONG).await, open(place, second, LONG).await);
    let view = a.renew().await.unwrap();
    assert_eq!(view.owners, (0..SHARDS).map(|n| (ShardIndex(n), None)).collect::<Vec<_>>());
    b.renew().await.unwrap();
    assert!(a.take(SHARD, Epoch::ZERO).await.unwrap().is_some());
    assert_eq!(b.take(SHARD, Epoch::ZERO).await.unwrap(), None);
    assert!(b.take(ShardIndex(1), Epoch::ZERO).await.unwrap().is_some());
    assert_eq!(a.take(ShardIndex(1), Epoch::ZERO).await.unwrap(), None);
    for lease in [&mut a, &mut b] {
        let expected = |view: &LeaseView| {
            owner(view, SHARD) == Some(first)
                && owner(view, ShardIndex(1)) == Some(second)
                && owner(view, ShardIndex(2)).is_none()
                && lives(view, first)
                && lives(view, second)
        };
        until("both see who owns what", &mut **lease, expected).await;
    }
    let looker = RelayId::random();
    let view = open(place, looker, LONG).await.look().await.unwrap();
    assert_eq!((owner(&view, SHARD), owner(&view, ShardIndex(2))), (Some(first), None));
    let view = a.renew().await.unwrap();
    assert!(!lives(&view, looker), "who only looks is not among the living");
}

async fn epochs_only_grow(place: &dyn Place) {
    let (mut a, mut b) =
        (open(place, RelayId::random(), LONG).await, open(place, RelayId::random(), LONG).await);
    a.renew().await.unwrap();
    b.renew().await.unwrap();
    let mut last = Epoch::ZERO;
    for round in 0..4 {
        let lease = if round % 2 == 0 { &mut a } else { &mut b };
        for _ in 0..2 {
            let epoch = lease.take(SHARD, Epoch::ZERO).await.unwrap().expect("free, or its own");
            assert!(epoch > last, "{epoch} after {last}");
            last = epoch;
        }
        lease.release(SHARD).await.unwrap();
    }
    let above = Epoch(last.0 + 1000);
    let epoch = a.take(SHARD, above).await.unwrap().unwrap();
    assert!(epoch > above, "{epoch} is not above {above}");
    assert!(a.take(SHARD, Epoch::ZERO).await.unwrap().unwrap() > epoch);
}

async fn only_the_owner_gives_up(place: &dyn Place) {
    let first = RelayId::random();
    let (mut a, mut b) = (open(place, first, LONG).await, open(place, RelayId::random(), LONG).await);
    a.renew().await.unwrap();
    b.renew().await.unwrap();
    a.take(SHARD, Epoch::ZERO).await.unwrap().unwrap();
    b.release(SHARD).await.unwrap();
    assert_eq!(b.take(SHARD, Epoch::ZERO).await.unwrap(), None, "it is not b's to give");
    a.release(SHARD).await.unwrap();
    a.release(SHARD).await.unwrap();
    until("the shard is free", &mut *b, |view| owner(view, SHARD).is_none()).await;
    assert!(b.take(SHARD, Epoch::ZERO).await.unwrap().is_some());
}

async fn who_leaves_is_gone_at_once(place: &dyn Place) {
    let first = RelayId::random();
    let (mut a, mut b) = (open(place, first, LONG).await, open(place, RelayId::random(), LONG).await);
    a.renew().await.unwrap();
    for shard in [SHARD, ShardIndex(1)] {
        a.take(shard, Epoch::ZERO).await.unwrap().unwrap();
    }
    until("a is seen", &mut *b, |view| lives(view, first) && owner(view, SHARD) == Some(first)).await;
    a.leave().await.unwrap();
    until("a has left", &mut *b, |view| {
        !lives(view, first) && owner(view, SHARD).is_none() && owner(view, ShardIndex(1)).is_none()
    })
    .await;
    assert!(b.take(SHARD, Epoch::ZERO).await.unwrap().is_some());
}

async fn a_dead_owner_is_succeeded(place: &dyn Place) {
    let first = RelayId::random();
    let (mut a, mut b) = (open(place, first, SHORT).await, open(place, RelayId::random(), SHORT).await);
    let epoch = taken(&mut *a, Epoch(10)).await;
    until("b looks", &mut *b, |_| true).await;
    drop(a);
    until("a is dead", &mut *b, |view| !lives(view, first) && owner(view, SHARD).is_none()).await;
    let next = taken(&mut *b, Epoch::ZERO).await;
    assert!(next > epoch, "{next} after {epoch}");
}

/// False where this process itself stood still for the timeout: the owner may have counted as dead.
async fn a_living_owner_is_not(place: &dyn Place) -> bool {
    let first = RelayId::random();
    let (mut a, mut b) = (open(place, first, SHORT).await, open(place, RelayId::random(), SHORT).await);
    let mut renewed = Instant::now();
    taken(&mut *a, Epoch::ZERO).await;
    let (started, long) = (Instant::now(), 2 * a.timeout());
    while started.elapsed() < long {
        let renewed_before = std::mem::replace(&mut renewed, Instant::now());
        answered(async || a.renew().await).await;
        let (view, found) = tried(&mut *b, Epoch::ZERO).await;
        if renewed_before.elapsed() >= a.timeout() {
            return false;
        }
        assert_eq!((owner(&view, SHARD), found), (Some(first), None));
        tokio::time::sleep(PAUSE).await;
    }
    true
}

async fn shards_are_shared_evenly(place: &dyn Place) {
    let (first, second) = (RelayId::random(), RelayId::random());
    let (mut a, mut b) = (open(place, first, LONG).await, open(place, second, LONG).await);
    let held =
        |view: &LeaseView, relay| view.owners.iter().filter(|(_, owner)| *owner == Some(relay)).count();
    let started = Instant::now();
    loop {
        let view = step(&mut a, first).await;
        if held(&view, first) == usize::from(SHARDS) {
            break;
        }
        assert!(started.elapsed() < LIMIT, "the first relay takes all: {view:?}");
    }
    loop {
        step(&mut a, first).await;
        let view = step(&mut b, second).await;
        if (held(&view, first), held(&view, second)) == (2, 2) {
            break;
        }
        assert!(started.elapsed() < LIMIT, "the second relay gets half: {view:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Only for leases in the rows of a table: a relay that stood still while another took its shard.
#[allow(dead_code, reason = "without such a backend there is nobody to call it")]
pub async fn a_paused_owner_comes_back_to_nothing(place: &dyn Place) {
    let (first, second) = (RelayId::random(), RelayId::random());
    let (mut a, mut b) = (open(place, first, SHORT).await, open(place, second, SHORT).await);
    let old = taken(&mut *a, Epoch::ZERO).await;
    until("a counts as dead", &mut *b, |view| owner(view, SHARD).is_none()).await;
    let new = taken(&mut *b, Epoch::ZERO).await;
    assert!(new > old);
    assert_eq!(answered(async || a.take(SHARD, Epoch::ZERO).await).await, None);
    answered(async || a.release(SHARD).await).await;
    // However long ago a has looked, b has shown since that it lives.
    until("b renews", &mut *b, |_| true).await;
    let view = answered(async || a.renew().await).await;
    assert_eq!(owner(&view, SHARD), Some(second));
    until("a lives again", &mut *b, |view| lives(view, first) && owner(view, SHARD) == Some(second)).await;
}

async fn open(place: &dyn Place, relay: RelayId, timeout: Duration) -> Box<dyn Lease> {
    answered(async || place.open(relay, timeout).await).await
}

/// Renews, which also replaces a session that is over, and tries to take the shard.
pub async fn tried(lease: &mut dyn Lease, above: Epoch) -> (LeaseView, Option<Epoch>) {
    answered(async || Ok((lease.renew().await?, lease.take(SHARD, above).await?))).await
}

/// Takes the shard that is nobody else's. An attempt that was given up, and took effect later, can
/// be in the way of the next one.
pub async fn taken(lease: &mut dyn Lease, above: Epoch) -> Epoch {
    let request = async || Ok(tried(lease, above).await);
    let (_, found) = patience::until("the shard is taken", request, |(_, found)| found.is_some()).await;
    found.unwrap()
}

/// What a relay does again and again.
async fn step(lease: &mut Box<dyn Lease>, me: RelayId) -> LeaseView {
    let view = lease.renew().await.unwrap();
    let share = share(me, &view.live, &view.owners);
    for shard in share.release {
        lease.release(shard).await.unwrap();
    }
    for shard in share.take {
        lease.take(shard, Epoch::ZERO).await.unwrap();
    }
    view
}

/// Renews until the view is as expected.
pub async fn until(what: &str, lease: &mut dyn Lease, expected: impl Fn(&LeaseView) -> bool) -> LeaseView {
    patience::until(what, async || lease.renew().await, expected).await
}

/// Who owns a shard; every view has every shard.
pub fn owner(view: &LeaseView, shard: ShardIndex) -> Option<RelayId> {
    view.owners.iter().find(|(number, _)| *number == shard).unwrap().1
}

fn lives(view: &LeaseView, relay: RelayId) -> bool {
    view.live.contains(&relay)
}
