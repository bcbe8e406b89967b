//! The decision log in a real ZooKeeper: what only this backend owes beside the conformance suite.

use std::time::Duration;

use onecommit::decision_log::zookeeper::ZookeeperDecisionLog;
use onecommit::decision_log::{DecisionLog, Fence, LogSession};
use onecommit::error::{ErrorKind, Result};
use onecommit::id::{CoordinatorId, Incarnation, Namespace, TransactionId};
use onecommit::protocol::batch::Answer;
use onecommit::protocol::decision::Outcome;
use onecommit::zookeeper::{ZookeeperSettings, adopt, init, remove};
use zookeeper_client as zk;

use crate::conformance_decision_log::{self as conformance, decide, record, request, taken};
use crate::conformance_lease::LONG;
use crate::patience::{anew, answered, until};
use crate::zookeeper_server::{self, CHROOT, MORTAL, Proxy};

/// One prepared namespace of its own.
struct Place {
    settings: ZookeeperSettings,
    namespace: Namespace,
    incarnation: Incarnation,
}

impl Place {
    async fn new() -> Place {
        let (settings, namespace) = (zookeeper_server::settings(), zookeeper_server::namespace());
        let place = Place { settings, namespace, incarnation: Incarnation::random() };
        init(&place.settings, &place.namespace, place.incarnation).await.unwrap();
        place
    }

    fn log(&self) -> ZookeeperDecisionLog {
        ZookeeperDecisionLog::new(self.settings.clone(), &self.namespace, self.incarnation).unwrap()
    }

    async fn open(&self) -> Result<Box<dyn LogSession>> {
        self.log().open().await
    }

    async fn session(&self) -> Box<dyn LogSession> {
        answered(async || self.open().await).await
    }

    async fn session_through(&self, proxy: &Proxy, session_timeout: Duration) -> Box<dyn LogSession> {
        let settings =
            ZookeeperSettings { servers: proxy.address.clone(), session_timeout, ..self.settings.clone() };
        let log = ZookeeperDecisionLog::new(settings, &self.namespace, self.incarnation).unwrap();
        answered(async || log.open().await).await
    }

    fn path(&self, below: &str) -> String {
        format!("{CHROOT}/onecommit/{}/{below}", self.namespace)
    }
}

async fn registered(session: &dyn LogSession) -> (CoordinatorId, Fence) {
    let id = CoordinatorId::random();
    (id, answered(async || session.register(id, &record(1)).await).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_conforms() {
    conformance::suite(async || Box::new(Place::new().await.log()) as Box<dyn DecisionLog>).await;
}

#[tokio::test]
async fn only_what_was_prepared_for_this_incarnation_is_used() {
    let place = Place::new().await;
    let other = Place { incarnation: Incarnation::random(), ..Place::new().await };
    let unprepared = Place { namespace: zookeeper_server::namespace(), ..Place::new().await };
    for place in [other, unprepared] {
        assert_eq!(place.open().await.err().unwrap().kind(), ErrorKind::Refused);
    }
    let session = place.session().await;
    zookeeper_server::client().await.delete(&place.path("layout"), None).await.unwrap();
    let refused = session.coordinators().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "nothing is taken for settled: {refused}");
}

async fn is_over(session: &dyn LogSession) {
    until("its session is over", async || Ok(session.is_over()), |is_over| *is_over).await;
}

#[tokio::test]
async fn who_has_lost_the_session_is_succeeded_and_decides_nothing_more() {
    anew(5, who_has_lost_the_session).await;
}

/// `None` where the machine stood still until the session was over, before it is cut off.
async fn who_has_lost_the_session() -> Option<()> {
    let place = Place::new().await;
    let proxy = Proxy::start(&place.settings.servers).await;
    let cut_off = place.session_through(&proxy, MORTAL).await;
    let deciding = async {
        let (id, fence) = registered(&*cut_off).await;
        assert_eq!(decide(&cut_off, fence, &request(0, &[1], &[])).await, Answer::Done);
        (id, fence)
    };
    let (id, fence) = tokio::select! {
        decided = deciding => decided,
        () = is_over(&*cut_off) => return None,
    };
    let recoverer = place.session().await;
    if recoverer.take_over(id).await.unwrap().is_some() {
        // Its client hears of it later; nobody takes over from a coordinator whose session lasts.
        is_over(&*cut_off).await;
        return None;
    }

    proxy.open.send_replace(false);
    assert_eq!(cut_off.decide(fence, &request(1, &[2], &[])).await, Answer::Lost);
    let legacy = taken(&recoverer, id).await;
    assert_eq!(legacy.batches.keys().collect::<Vec<_>>(), [&0]);

    proxy.open.send_replace(true);
    is_over(&*cut_off).await;
    assert_eq!(cut_off.decide(fence, &request(1, &[2], &[])).await, Answer::Lost);
    let next = place.session_through(&proxy, LONG).await;
    assert_eq!(decide(&next, fence, &request(1, &[2], &[])).await, Answer::Fenced);
    assert_eq!(recoverer.look(id).await.unwrap().unwrap().1, legacy.batches);
    Some(())
}

#[tokio::test]
async fn a_request_of_which_the_answer_was_lost_is_found_done() {
    let place = Place::new().await;
    let proxy = Proxy::start(&place.settings.servers).await;
    let session = place.session_through(&proxy, LONG).await;
    let (id, fence) = registered(&*session).await;
    let other = place.session().await;

    proxy.swallows_answers.send_replace(true);
    let asked = request(0, &[1], &[]);
    let (answer, ()) = tokio::join!(session.decide(fence, &asked), async {
        let is_there = async || Ok(other.look(id).await?.is_some_and(|(_, batches)| batches.len() == 1));
        until("it is decided", is_there, |is_there| *is_there).await;
        proxy.cut().await;
        proxy.swallows_answers.send_replace(false);
    });
    assert_eq!(answer, Answer::Lost);
    let again = until(
        "an answer comes",
        async || Ok(session.decide(fence, &asked).await),
        |answer| *answer != Answer::Lost,
    );
    assert_eq!(again.await, Answer::Exists);
}

#[tokio::test]
async fn what_somebody_else_wrote_is_refused_by_its_path() {
    let place = Place::new().await;
    let (owner, recoverer) = (place.session().await, place.session().await);
    let (id, fence) = registered(&*owner).await;
    decide(&owner, fence, &request(3, &[1], &[])).await;
    owner.let_go(id).await.unwrap();
    let client = zookeeper_server::client().await;
    let everybody = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    let refused = async |path: &str| {
        for refused in [recoverer.take_over(id).await.err(), recoverer.look(id).await.err()] {
            let refused = refused.unwrap();
            assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
            assert!(refused.to_string().contains(path), "{refused} does not name {path}");
        }
        assert!(!recoverer.coordinators().await.unwrap()[0].is_live, "whoever understands it need not wait");
    };
    let (coordinator, decisions) =
        (place.path(&format!("coordinators/{id}")), place.path(&format!("decisions/{id}")));
    let (batch, other) = (format!("{decisions}/{:020}", 3), format!("{decisions}/4"));

    client.create(&other, b"", &everybody).await.unwrap();
    refused(&other).await;
    client.delete(&other, None).await.unwrap();
    let (own, _) = client.get_data(&batch).await.unwrap();
    client.set_data(&batch, b"?", None).await.unwrap();
    refused(&batch).await;
    client.delete(&batch, None).await.unwrap();
    client.delete(&decisions, None).await.unwrap();
    refused(&decisions).await;
    client.create(&decisions, b"", &everybody).await.unwrap();
    client.create(&batch, &own, &everybody).await.unwrap();
    let (own, _) = client.get_data(&coordinator).await.unwrap();
    client.set_data(&coordinator, b"{}", None).await.unwrap();
    refused(&coordinator).await;
    client.set_data(&coordinator, &own, None).await.unwrap();
    assert_eq!(taken(&recoverer, id).await.batches.len(), 1);

    let outcomes = place.path(&format!("outcomes/{id}:{:020}", 1));
    client.create(&outcomes, b"?", &everybody).await.unwrap();
    let refused = recoverer.outcome(TransactionId { coordinator: id, number: 1 }).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::Refused && refused.to_string().contains(&outcomes), "{refused}");
}

/// More than one request may hold: ZooKeeper's limit is 1 MiB.
#[tokio::test]
async fn any_number_of_batches_is_read_and_removed() {
    const BATCHES: u64 = 9000;
    let place = Place::new().await;
    let session = place.session().await;
    let (id, fence) = registered(&*session).await;
    decide(&session, fence, &request(0, &[1], &[])).await;
    let client = zookeeper_server::client().await;
    let decisions = place.path(&format!("decisions/{id}"));
    let (bytes, _) = client.get_data(&format!("{decisions}/{:020}", 0)).await.unwrap();
    let everybody = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    let add = async |folder: &str, batches: std::ops::Range<u64>| {
        for from in batches.clone().step_by(1000) {
            let mut writer = client.new_multi_writer();
            for batch in from..(from + 1000).min(batches.end) {
                writer.add_create(&format!("{folder}/{batch:020}"), &bytes, &everybody).unwrap();
            }
            writer.commit().await.unwrap();
        }
    };
    add(&decisions, 1..BATCHES).await;
    session.let_go(id).await.unwrap();
    let legacy = taken(&session, id).await;
    assert_eq!(legacy.batches.len(), BATCHES as usize);
    let numbers: Vec<u64> = legacy.batches.into_keys().collect();
    let outcomes: Vec<_> = numbers
        .iter()
        .map(|number| (TransactionId { coordinator: id, number: *number }, Outcome::Committed))
        .collect();
    answered(async || session.remove(legacy.fence, &numbers, &outcomes).await).await;
    assert_eq!(session.look(id).await.unwrap(), None);
    assert_eq!(session.outcome(outcomes[8999].0).await.unwrap(), Some(Outcome::Committed));
    for folder in ["coordinators", "live", "decisions"] {
        let left = client.list_children(&place.path(folder)).await.unwrap();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
    assert_eq!(client.list_children(&place.path("outcomes")).await.unwrap().len(), 2);

    // As left by a removal that was cut off.
    let (other, fence) = registered(&*session).await;
    client.create(&decisions, b"", &everybody).await.unwrap();
    add(&decisions, 0..5000).await;
    session.forget_outcomes(7, usize::MAX).await.unwrap();
    let left = client.list_children(&place.path("decisions")).await.unwrap();
    assert_eq!(left, [other.to_string()], "what has a record stays");
    assert_eq!(decide(&session, fence, &request(0, &[1], &[])).await, Answer::Done);

    client.create(&decisions, b"", &everybody).await.unwrap();
    add(&decisions, 0..2).await;
    let orphan = onecommit::protocol::decision::Record { is_orphan: true, ..record(1) };
    let fence = session.adopt_orphan(id, &orphan).await.unwrap().unwrap();
    answered(async || session.remove(fence, &[], &[]).await).await;
    assert!(client.check_stat(&decisions).await.unwrap().is_none(), "an orphan decides nothing");
}

#[tokio::test]
async fn a_namespace_in_which_a_coordinator_is_not_settled_is_neither_removed_nor_given_away() {
    let place = Place::new().await;
    let session = place.session().await;
    let (id, _) = registered(&*session).await;
    for state in [format!("living: coordinators/{id}"), format!("dead: {id}")] {
        let removed = remove(&place.settings, &place.namespace, place.incarnation).await;
        let adopted = adopt(&place.settings, &place.namespace, Incarnation::random()).await;
        for refused in [removed.unwrap_err(), adopted.unwrap_err()] {
            assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
            assert!(refused.to_string().contains(&state), "{refused}");
        }
        session.let_go(id).await.unwrap();
    }
    let legacy = taken(&session, id).await;
    answered(async || session.remove(legacy.fence, &[], &[]).await).await;
    answered(async || remove(&place.settings, &place.namespace, place.incarnation).await).await;
}

#[tokio::test]
async fn only_the_configured_user_may_use_what_was_created() {
    let mut place = Place {
        settings: zookeeper_server::settings(),
        namespace: zookeeper_server::namespace(),
        incarnation: Incarnation::random(),
    };
    place.settings.chroot = Some(format!("{CHROOT}-{}", zookeeper_server::namespace()));
    place.settings.user = Some("coordinator".into());
    place.settings.password = Some("right".into());
    init(&place.settings, &place.namespace, place.incarnation).await.unwrap();
    let session = place.session().await;
    let (id, fence) = registered(&*session).await;
    decide(&session, fence, &request(0, &[1], &[])).await;
    session.let_go(id).await.unwrap();
    let root = format!("{}/onecommit/{}", place.settings.chroot.unwrap(), place.namespace);
    let client = zookeeper_server::client().await;
    for below in [
        format!("coordinators/{id}"),
        format!("coordinators/{id}/fence"),
        format!("decisions/{id}"),
        format!("decisions/{id}/{:020}", 0),
    ] {
        let written = client.set_data(&format!("{root}/{below}"), b"", None).await;
        assert_eq!(written.unwrap_err(), zk::Error::NoAuth, "{below}");
    }
    assert_eq!(taken(&session, id).await.batches.len(), 1);
}
