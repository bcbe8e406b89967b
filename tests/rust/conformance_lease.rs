//! What every lease owes to relays. A backend passes by calling [`suite`]; one that keeps leases in
//! the rows of a table also calls [`a_paused_owner_comes_back_to_nothing`].

use std::time::{Duration, Instant};

use async_trait::async_trait;
use onecommit::id::{Epoch, RelayId, ShardIndex};
use onecommit::lease::{Lease, LeaseView};
use onecommit::protocol::lease::share;

/// How many shards a place has.
pub const SHARDS: u16 = 4;
const SHARD: ShardIndex = ShardIndex(0);
/// A condition that does not come true within this time never does.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Where the leases of one participant with [`SHARDS`] shards are kept.
#[async_trait]
pub trait Place: Send + Sync {
    /// What a relay of that id opens. To drop it is to die.
    async fn open(&self, relay: RelayId) -> Box<dyn Lease>;
}

/// Runs every check, each with a place of its own.
pub async fn suite(fresh: impl AsyncFn() -> Box<dyn Place>) {
    one_relay_at_a_time(&*fresh().await).await;
    epochs_only_grow(&*fresh().await).await;
    only_the_owner_gives_up(&*fresh().await).await;
    who_leaves_is_gone_at_once(&*fresh().await).await;
    a_dead_owner_is_succeeded(&*fresh().await).await;
    a_living_owner_is_not(&*fresh().await).await;
    shards_are_shared_evenly(&*fresh().await).await;
}

async fn one_relay_at_a_time(place: &dyn Place) {
    let (first, second) = (RelayId::random(), RelayId::random());
    let (mut a, mut b) = (place.open(first).await, place.open(second).await);
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
        until("both see who owns what", lease, expected).await;
    }
    let looker = RelayId::random();
    let view = place.open(looker).await.look().await.unwrap();
    assert_eq!((owner(&view, SHARD), owner(&view, ShardIndex(2))), (Some(first), None));
    let view = a.renew().await.unwrap();
    assert!(!lives(&view, looker), "who only looks is not among the living");
}

async fn epochs_only_grow(place: &dyn Place) {
    let (mut a, mut b) = (place.open(RelayId::random()).await, place.open(RelayId::random()).await);
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
    let (mut a, mut b) = (place.open(first).await, place.open(RelayId::random()).await);
    a.renew().await.unwrap();
    b.renew().await.unwrap();
    a.take(SHARD, Epoch::ZERO).await.unwrap().unwrap();
    b.release(SHARD).await.unwrap();
    assert_eq!(b.take(SHARD, Epoch::ZERO).await.unwrap(), None, "it is not b's to give");
    a.release(SHARD).await.unwrap();
    a.release(SHARD).await.unwrap();
    until("the shard is free", &mut b, |view| owner(view, SHARD).is_none()).await;
    assert!(b.take(SHARD, Epoch::ZERO).await.unwrap().is_some());
}

async fn who_leaves_is_gone_at_once(place: &dyn Place) {
    let first = RelayId::random();
    let (mut a, mut b) = (place.open(first).await, place.open(RelayId::random()).await);
    a.renew().await.unwrap();
    for shard in [SHARD, ShardIndex(1)] {
        a.take(shard, Epoch::ZERO).await.unwrap().unwrap();
    }
    until("a is seen", &mut b, |view| lives(view, first) && owner(view, SHARD) == Some(first)).await;
    a.leave().await.unwrap();
    until("a has left", &mut b, |view| {
        !lives(view, first) && owner(view, SHARD).is_none() && owner(view, ShardIndex(1)).is_none()
    })
    .await;
    assert!(b.take(SHARD, Epoch::ZERO).await.unwrap().is_some());
}

async fn a_dead_owner_is_succeeded(place: &dyn Place) {
    let first = RelayId::random();
    let (mut a, mut b) = (place.open(first).await, place.open(RelayId::random()).await);
    a.renew().await.unwrap();
    let epoch = a.take(SHARD, Epoch(10)).await.unwrap().unwrap();
    until("a is seen", &mut b, |view| lives(view, first)).await;
    drop(a);
    until("a is dead", &mut b, |view| !lives(view, first) && owner(view, SHARD).is_none()).await;
    let next = b.take(SHARD, Epoch::ZERO).await.unwrap().expect("its owner is dead");
    assert!(next > epoch, "{next} after {epoch}");
}

async fn a_living_owner_is_not(place: &dyn Place) {
    let first = RelayId::random();
    let (mut a, mut b) = (place.open(first).await, place.open(RelayId::random()).await);
    a.renew().await.unwrap();
    a.take(SHARD, Epoch::ZERO).await.unwrap().unwrap();
    until("a is seen", &mut b, |view| owner(view, SHARD) == Some(first)).await;
    let (started, long) = (Instant::now(), 2 * a.timeout());
    while started.elapsed() < long {
        a.renew().await.unwrap();
        let view = b.renew().await.unwrap();
        assert_eq!(owner(&view, SHARD), Some(first));
        assert_eq!(b.take(SHARD, Epoch::ZERO).await.unwrap(), None);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn shards_are_shared_evenly(place: &dyn Place) {
    let (first, second) = (RelayId::random(), RelayId::random());
    let (mut a, mut b) = (place.open(first).await, place.open(second).await);
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
    let (mut a, mut b) = (place.open(first).await, place.open(second).await);
    a.renew().await.unwrap();
    let old = a.take(SHARD, Epoch::ZERO).await.unwrap().unwrap();
    until("a counts as dead", &mut b, |view| owner(view, SHARD).is_none()).await;
    let new = b.take(SHARD, Epoch::ZERO).await.unwrap().unwrap();
    assert!(new > old);
    assert_eq!(a.take(SHARD, Epoch::ZERO).await.unwrap(), None);
    a.release(SHARD).await.unwrap();
    let view = a.renew().await.unwrap();
    assert_eq!(owner(&view, SHARD), Some(second));
    until("a lives again", &mut b, |view| lives(view, first) && owner(view, SHARD) == Some(second)).await;
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

/// Renews, whatever comes back, until it shows what is waited for.
pub async fn renew_until(lease: &mut dyn Lease, wanted: impl Fn(&LeaseView) -> bool) -> LeaseView {
    let waiting = async {
        loop {
            match lease.renew().await {
                Ok(view) if wanted(&view) => return view,
                Ok(_) => {}
                Err(error) => assert!(error.is_retriable(), "{error}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("the view that is waited for")
}

/// Renews until the view is as expected.
async fn until(what: &str, lease: &mut Box<dyn Lease>, expected: impl Fn(&LeaseView) -> bool) {
    let started = Instant::now();
    loop {
        let view = lease.renew().await.unwrap();
        if expected(&view) {
            return;
        }
        assert!(started.elapsed() < LIMIT, "{what}, but it never came: {view:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Who owns a shard; every view has every shard.
pub fn owner(view: &LeaseView, shard: ShardIndex) -> Option<RelayId> {
    view.owners.iter().find(|(number, _)| *number == shard).unwrap().1
}

fn lives(view: &LeaseView, relay: RelayId) -> bool {
    view.live.contains(&relay)
}
