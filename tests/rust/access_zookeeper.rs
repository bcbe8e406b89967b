//! Who may change what is kept in a real ZooKeeper: all that is made is its user's own, and what is not is named,
//! refused and mended.

use onecommit::decision_log::DecisionLog as _;
use onecommit::decision_log::zookeeper::ZookeeperDecisionLog;
use onecommit::error::{ErrorKind, Result};
use onecommit::id::{CoordinatorId, Epoch, Incarnation, Namespace, RelayId, ShardIndex, TransactionId};
use onecommit::lease::Lease as _;
use onecommit::lease::zookeeper::ZookeeperLease;
use onecommit::protocol::batch::Answer;
use onecommit::protocol::decision::Outcome;
use onecommit::zookeeper::{ZookeeperSettings, exposed_nodes, init};
use zookeeper_client as zk;

use crate::conformance_decision_log::{decide, record, request};
use crate::conformance_lease::{LONG, SHARDS};
use crate::patience::answered;
use crate::zookeeper_server::{self, CHROOT};

const PASSWORD: &str = "secret";

struct Place {
    namespace: Namespace,
    incarnation: Incarnation,
}

impl Place {
    fn new() -> Place {
        Place { namespace: zookeeper_server::namespace(), incarnation: Incarnation::random() }
    }

    /// Below a path of its own: what lies above a user's nodes is that user's, too.
    fn chroot(&self) -> String {
        format!("{CHROOT}-{}", self.namespace)
    }

    fn path(&self, below: &str) -> String {
        format!("{}/onecommit/{}{below}", self.chroot(), self.namespace)
    }

    fn of(&self, user: Option<&str>) -> ZookeeperSettings {
        ZookeeperSettings {
            chroot: Some(self.chroot()),
            user: user.map(str::to_string),
            password: user.map(|_| PASSWORD.to_string()),
            ..zookeeper_server::settings()
        }
    }

    fn strict(&self, user: &str) -> ZookeeperSettings {
        ZookeeperSettings { require_acl: true, ..self.of(Some(user)) }
    }

    async fn init(&self, settings: &ZookeeperSettings) -> usize {
        answered(async || init(settings, &self.namespace, self.incarnation).await).await
    }

    /// What relays and coordinators make: every kind of node.
    async fn work(&self, settings: &ZookeeperSettings) -> Result<()> {
        let relay = RelayId::random();
        let (namespace, incarnation) = (&self.namespace, self.incarnation);
        let participant = "main".parse().unwrap();
        let mut lease =
            ZookeeperLease::connect(settings.clone(), namespace, incarnation, participant, SHARDS, relay)
                .await?;
        answered(async || lease.renew().await).await;
        answered(async || lease.take(ShardIndex(0), Epoch::ZERO).await).await;
        let session = ZookeeperDecisionLog::new(settings.clone(), namespace, incarnation)?.open().await?;
        let id = CoordinatorId::random();
        let fence = answered(async || session.register(id, &record(1)).await).await;
        assert_eq!(decide(&session, fence, &request(0, &[1], &[])).await, Answer::Done);
        let outcome = (TransactionId { coordinator: id, number: 1 }, Outcome::Committed);
        answered(async || session.keep_outcomes(fence, &[outcome]).await).await;
        // Both sessions live for as long as the tree is looked at.
        std::mem::forget((lease, session));
        Ok(())
    }

    /// Every node with the rights on it, as ZooKeeper tells them.
    async fn rights(&self, client: &zk::Client) -> Vec<(String, Vec<zk::Acl>)> {
        let (mut all, mut at) = (vec![self.path("")], 0);
        while let Some(path) = all.get(at).cloned() {
            all.extend(
                client.list_children(&path).await.unwrap().iter().map(|name| format!("{path}/{name}")),
            );
            at += 1;
        }
        let mut found = Vec::new();
        for path in all {
            let (acls, _) = client.get_acl(&path).await.unwrap();
            found.push((path, acls));
        }
        found
    }
}

async fn client_of(user: &str) -> zk::Client {
    let auth = format!("{user}:{PASSWORD}");
    let connector = zk::Client::connector().with_session_timeout(LONG).with_auth("digest", auth.as_bytes());
    connector.connect(&zookeeper_server::settings().servers).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_made_with_a_user_is_that_users() {
    let place = Place::new();
    place.init(&place.strict("owner")).await;
    place.work(&place.strict("owner")).await.unwrap();
    let rights = place.rights(&client_of("owner").await).await;
    let has = |part: &str| rights.iter().any(|(path, _)| path.contains(part));
    for part in ["/layout", "/relays/main/", "/owner", "/fence", "/live/", "/decisions/", "/outcomes/"] {
        assert!(has(part), "{part} is missing: {rights:#?}");
    }
    for (path, acls) in &rights {
        let [acl] = acls.as_slice() else { panic!("{path} has {acls:?}") };
        assert_eq!((acl.scheme(), acl.permission()), ("digest", zk::Permission::ALL), "{path}");
        assert!(acl.id().starts_with("owner:"), "{path} has {acls:?}");
    }
    let exposed = exposed_nodes(&place.of(Some("owner")), &place.namespace).await.unwrap();
    assert!(exposed.is_empty(), "{exposed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_made_before_there_was_a_user_are_named_refused_and_mended() {
    let place = Place::new();
    place.init(&place.of(None)).await;
    place.work(&place.of(None)).await.unwrap();
    // Without being asked for more, those with a user go on with them.
    place.work(&place.of(Some("owner"))).await.unwrap();
    let all = place.rights(&client_of("owner").await).await.len();
    let exposed = exposed_nodes(&place.of(Some("owner")), &place.namespace).await.unwrap();
    assert_eq!(exposed[0], place.path(""), "from the top down");
    assert!(exposed.len() < all, "those of the user are not among them");

    let refused = place.work(&place.strict("owner")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    let count = format!("anybody may change {} nodes", exposed.len());
    for said in [count.as_str(), &place.path("/layout"), "`onecommit init`"] {
        assert!(refused.to_string().contains(said), "{refused}");
    }

    assert_eq!(place.init(&place.strict("owner")).await, exposed.len());
    assert_eq!(place.init(&place.strict("owner")).await, 0, "nothing is left to be done");
    place.work(&place.strict("owner")).await.unwrap();
    for stranger in [place.of(Some("stranger")), place.of(None)] {
        let kept_out = place.work(&stranger).await.unwrap_err();
        assert_eq!(kept_out.kind(), ErrorKind::Configuration, "{kept_out}");
        assert!(kept_out.to_string().contains("ZooKeeper does not allow it"), "{kept_out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_that_anybody_may_change_is_enough_to_refuse() {
    let place = Place::new();
    place.init(&place.strict("owner")).await;
    place.work(&place.strict("owner")).await.unwrap();
    let client = client_of("owner").await;
    let deep = place.rights(&client).await.into_iter().map(|(path, _)| path);
    let one = deep.filter(|path| path.contains("/decisions/")).max_by_key(String::len).unwrap();
    let anybody = |right| [zk::Acl::new(right, zk::AuthId::anyone())];
    for right in
        [zk::Permission::WRITE, zk::Permission::CREATE, zk::Permission::DELETE, zk::Permission::ADMIN]
    {
        let mut acls = vec![zk::Acl::new(zk::Permission::ALL, zk::AuthId::authed())];
        acls.extend(anybody(right));
        client.set_acl(&one, &acls, None).await.unwrap();
        let refused = place.work(&place.strict("owner")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
        assert!(refused.to_string().contains(&one), "{refused}");
    }
    let mut acls = vec![zk::Acl::new(zk::Permission::ALL, zk::AuthId::authed())];
    acls.extend(anybody(zk::Permission::READ));
    client.set_acl(&one, &acls, None).await.unwrap();
    place.work(&place.strict("owner")).await.unwrap();
}
