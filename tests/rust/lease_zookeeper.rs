//! Leases in a real ZooKeeper: what only this backend owes beside the conformance suite.

use std::time::Duration;

use async_trait::async_trait;
use onecommit::error::{ErrorKind, Result};
use onecommit::id::{Epoch, Incarnation, Namespace, RelayId, ShardIndex};
use onecommit::lease::zookeeper::ZookeeperLease;
use onecommit::lease::{Lease, LeaseView};
use onecommit::zookeeper::{ZookeeperSettings, found_incarnation, init};
use tokio::net::TcpListener;
use uuid::Uuid;
use zookeeper_client as zk;

use crate::conformance_lease::{self as conformance, LONG, SHARDS, SHORT, owner, taken, tried, until};
use crate::nobody::Nobody;
use crate::patience::answered;
use crate::zookeeper_server::{self, CHROOT, Proxy};

const FIRST: ShardIndex = ShardIndex(0);

/// One prepared namespace of its own.
struct Place {
    settings: ZookeeperSettings,
    namespace: Namespace,
    incarnation: Incarnation,
}

impl Place {
    async fn new() -> Place {
        let place = Place::unprepared();
        init(&place.settings, &place.namespace, place.incarnation).await.unwrap();
        place
    }

    fn unprepared() -> Place {
        let (settings, namespace) = (zookeeper_server::settings(), zookeeper_server::namespace());
        Place { settings, namespace, incarnation: Incarnation::random() }
    }

    fn through(&self, servers: String, session_timeout: Duration) -> Place {
        let settings = ZookeeperSettings { servers, session_timeout, ..self.settings.clone() };
        Place { settings, namespace: self.namespace.clone(), incarnation: self.incarnation }
    }

    async fn connect(&self, relay: RelayId) -> Result<ZookeeperLease> {
        let (settings, participant) = (self.settings.clone(), "main".parse().unwrap());
        ZookeeperLease::connect(settings, &self.namespace, self.incarnation, participant, SHARDS, relay).await
    }

    async fn relay(&self) -> (ZookeeperLease, RelayId) {
        let relay = RelayId::random();
        let mut lease = answered(async || self.connect(relay).await).await;
        answered(async || lease.renew().await).await;
        (lease, relay)
    }

    fn path(&self, below: &str) -> String {
        format!("{CHROOT}/onecommit/{}/{below}", self.namespace)
    }
}

#[async_trait]
impl conformance::Place for Place {
    async fn open(&self, relay: RelayId, timeout: Duration) -> Result<Box<dyn Lease>> {
        let place = self.through(self.settings.servers.clone(), timeout);
        Ok(Box::new(place.connect(relay).await?))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_leases_conform() {
    conformance::suite(async || Box::new(Place::new().await) as Box<dyn conformance::Place>).await;
}

#[tokio::test]
async fn zookeeper_is_prepared_once_and_for_one_incarnation() {
    let place = Place::unprepared();
    assert_eq!(found_incarnation(&place.settings, &place.namespace).await.unwrap(), None);
    let unprepared = place.connect(RelayId::random()).await.err().unwrap();
    assert_eq!(unprepared.kind(), ErrorKind::Refused);
    assert!(unprepared.to_string().contains("onecommit init"), "{unprepared}");

    for _ in 0..2 {
        init(&place.settings, &place.namespace, place.incarnation).await.unwrap();
    }
    let found = found_incarnation(&place.settings, &place.namespace).await.unwrap();
    assert_eq!(found, Some(place.incarnation));

    let other =
        Place { incarnation: Incarnation::random(), ..place.through(place.settings.servers.clone(), LONG) };
    let refused = init(&other.settings, &other.namespace, other.incarnation).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let refused = other.connect(RelayId::random()).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains(&place.incarnation.to_string()), "{refused}");
}

#[tokio::test]
async fn a_layout_of_an_unknown_release_is_refused() {
    let place = Place::new().await;
    let client = zookeeper_server::client().await;
    for layout in [&br#"{"version":2,"incarnation":"x","more":1}"#[..], b"?"] {
        client.set_data(&place.path("layout"), layout, None).await.unwrap();
        assert_eq!(place.connect(RelayId::random()).await.err().unwrap().kind(), ErrorKind::Refused);
        let init = init(&place.settings, &place.namespace, place.incarnation).await;
        assert_eq!(init.unwrap_err().kind(), ErrorKind::Refused);
    }
}

#[tokio::test]
async fn a_layout_that_is_gone_or_anothers_is_refused_also_within_a_session() {
    let place = Place::new().await;
    let (mut lease, relay) = place.relay().await;
    let (client, layout) = (zookeeper_server::client().await, place.path("layout"));
    let (own, _) = client.get_data(&layout).await.unwrap();
    let anothers = format!(r#"{{"version":1,"incarnation":"{}"}}"#, Incarnation::random());
    client.set_data(&layout, anothers.as_bytes(), None).await.unwrap();
    let refused = lease.renew().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains(&place.incarnation.to_string()), "{refused}");

    client.delete(&layout, None).await.unwrap();
    let refused = lease.renew().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains("onecommit init"), "{refused}");

    let everybody = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    client.create(&layout, &own, &everybody).await.unwrap();
    assert_eq!(lease.renew().await.unwrap().live, [relay]);
}

#[tokio::test]
async fn a_connection_lost_within_the_session_loses_no_lease() {
    let place = Place::new().await;
    let proxy = Proxy::start(&place.settings.servers).await;
    let (mut cut_off, relay) = place.through(proxy.address.clone(), LONG).relay().await;
    let epoch = cut_off.take(FIRST, Epoch::ZERO).await.unwrap().unwrap();

    proxy.cut().await;
    until("it is back", &mut cut_off, |view| owner(view, FIRST) == Some(relay)).await;

    let (mut other, _) = place.relay().await;
    assert_eq!(other.take(FIRST, Epoch::ZERO).await.unwrap(), None);
    assert_eq!(cut_off.take(FIRST, Epoch::ZERO).await.unwrap(), Some(epoch.next()));
}

#[tokio::test]
async fn an_expired_session_loses_its_leases_and_the_next_one_takes_them_with_a_higher_epoch() {
    let place = Place::new().await;
    let proxy = Proxy::start(&place.settings.servers).await;
    let (mut cut_off, cut_off_relay) = place.through(proxy.address.clone(), SHORT).relay().await;
    let (mut other, other_relay) = place.relay().await;
    let before = taken(&mut cut_off, Epoch::ZERO).await;

    proxy.open.send_replace(false);
    let unreachable = cut_off.renew().await.unwrap_err();
    assert_eq!(unreachable.kind(), ErrorKind::Unreachable);
    assert!(unreachable.to_string().contains(&proxy.address), "{unreachable}");
    let gone = |view: &LeaseView| !view.live.contains(&cut_off_relay) && owner(view, FIRST).is_none();
    until("its session is over", &mut other, gone).await;
    let between = other.take(FIRST, Epoch::ZERO).await.unwrap().unwrap();
    assert!(between > before);

    proxy.open.send_replace(true);
    let (view, found) = tried(&mut cut_off, Epoch::ZERO).await;
    assert!(view.live.contains(&cut_off_relay));
    assert_eq!((owner(&view, FIRST), found), (Some(other_relay), None));
    answered(async || cut_off.release(FIRST).await).await;
    assert_eq!(owner(&other.renew().await.unwrap(), FIRST), Some(other_relay));

    other.release(FIRST).await.unwrap();
    assert!(taken(&mut cut_off, Epoch::ZERO).await > between);
}

/// A server that was away longer than the client waits gives every session its full time anew.
#[tokio::test]
async fn what_an_earlier_session_of_the_same_relay_left_is_not_held_but_taken_at_once() {
    let place = Place::new().await;
    let (mut earlier, relay) = place.relay().await;
    let before = earlier.take(FIRST, Epoch::ZERO).await.unwrap().unwrap();

    let mut later = place.connect(relay).await.unwrap();
    let view = later.renew().await.unwrap();
    assert_eq!((view.live.clone(), owner(&view, FIRST)), (vec![relay], None));
    later.release(FIRST).await.unwrap();
    let (mut other, _) = place.relay().await;
    assert_eq!(other.take(FIRST, Epoch::ZERO).await.unwrap(), None);

    assert!(later.take(FIRST, Epoch::ZERO).await.unwrap().unwrap() > before);
    earlier.release(FIRST).await.unwrap();
    earlier.leave().await.unwrap();
    let view = other.renew().await.unwrap();
    assert!(view.live.contains(&relay));
    assert_eq!(owner(&view, FIRST), Some(relay));
}

#[tokio::test]
async fn who_only_looks_is_not_among_the_living() {
    let place = Place::new().await;
    let (mut lease, relay) = place.relay().await;
    lease.take(FIRST, Epoch::ZERO).await.unwrap().unwrap();
    let mut observer = place.connect(RelayId::random()).await.unwrap();
    let view = observer.look().await.unwrap();
    assert_eq!((view.live.clone(), owner(&view, FIRST)), (vec![relay], Some(relay)));
    assert_eq!(lease.renew().await.unwrap().live, [relay]);
}

#[tokio::test]
async fn a_relay_whose_node_was_deleted_joins_again_and_keeps_its_shards() {
    let place = Place::new().await;
    let (mut lease, relay) = place.relay().await;
    lease.take(FIRST, Epoch::ZERO).await.unwrap().unwrap();
    let node = place.path(&format!("relays/main/{relay}"));
    let client = zookeeper_server::client().await;
    let about: serde_json::Value = serde_json::from_slice(&client.get_data(&node).await.unwrap().0).unwrap();
    assert_eq!(about["pid"], std::process::id());

    client.delete(&node, None).await.unwrap();
    let view = lease.renew().await.unwrap();
    assert_eq!((view.live.clone(), owner(&view, FIRST)), (vec![relay], Some(relay)));
}

#[tokio::test]
async fn epochs_go_on_where_they_were_and_nonsense_is_refused() {
    let place = Place::new().await;
    let (mut lease, _) = place.relay().await;
    assert_eq!(lease.take(FIRST, Epoch(41)).await.unwrap(), Some(Epoch(42)));
    lease.leave().await.unwrap();
    let unjoined = lease.take(FIRST, Epoch::ZERO).await.unwrap_err();
    assert_eq!(unjoined.kind(), ErrorKind::Unreachable);
    lease.release(FIRST).await.unwrap();
    lease.leave().await.unwrap();

    let (mut next, _) = place.relay().await;
    assert_eq!(owner(&next.renew().await.unwrap(), FIRST), None);
    assert_eq!(next.take(FIRST, Epoch::ZERO).await.unwrap(), Some(Epoch(43)));
    next.release(FIRST).await.unwrap();
    let shard = place.path("shards/main/0");
    let client = zookeeper_server::client().await;
    assert_eq!(client.get_data(&shard).await.unwrap().0, b"43");
    client.set_data(&shard, b"many", None).await.unwrap();
    let refused = next.take(FIRST, Epoch::ZERO).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains(&shard), "{refused}");
}

#[tokio::test]
async fn only_the_configured_user_may_use_what_was_created() {
    let mut place = Place::unprepared();
    place.settings.chroot = Some(format!("/onecommit-tests-{}", Uuid::new_v4().simple()));
    place.settings.user = Some("relay".into());
    place.settings.password = Some("right".into());
    init(&place.settings, &place.namespace, place.incarnation).await.unwrap();
    let (mut lease, _) = place.relay().await;
    assert!(lease.take(FIRST, Epoch::ZERO).await.unwrap().is_some());

    place.settings.password = Some("wrong".into());
    let refused = place.connect(RelayId::random()).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Configuration);
    assert!(!format!("{refused} {:?}", place.settings).contains("wrong"));
    place.settings.user = None;
    assert_eq!(place.connect(RelayId::random()).await.err().unwrap().kind(), ErrorKind::Configuration);
}

#[tokio::test]
async fn a_server_that_is_away_or_no_server_is_said_so() {
    let place = Place::unprepared();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    let nobody = Nobody::new().await;
    for away in [silent, nobody.address.to_string()] {
        let error = place.through(away.clone(), SHORT).connect(RelayId::random()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.to_string().contains(&away), "{error}");
    }
    for wrong in ["", "host:port", "a:1/path"] {
        let error = place.through(wrong.into(), SHORT).connect(RelayId::random()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    }
}

#[tokio::test]
async fn the_timeout_is_the_one_that_the_servers_granted() {
    let mut place = Place::new().await;
    let day = Duration::from_secs(24 * 3600);
    place.settings.session_timeout = day;
    assert!(place.relay().await.0.timeout() < day);
}
