//! The decision log port on ZooKeeper.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use zookeeper_client as zk;

use super::decide::is_fenced;
use super::nodes::Store;
use super::outcomes::fenced;
use super::takeover::{OWNERS, raised, unexpected};
use crate::decision_log::{DecisionLog, Fence, Legacy, LogSession, Registered};
use crate::error::Result;
use crate::failpoint;
use crate::id::{CoordinatorId, Incarnation, Namespace, TransactionId};
use crate::protocol::batch::{Answer, Request};
use crate::protocol::decision::{Decision, Outcome, Record};
use crate::zookeeper::{self, Connection, Effect, Paths, ZookeeperSettings};

/// The decision log of a namespace in ZooKeeper.
pub struct ZookeeperDecisionLog {
    settings: ZookeeperSettings,
    paths: Paths,
    incarnation: Incarnation,
}

impl ZookeeperDecisionLog {
    /// ZooKeeper must have been prepared by [`init`](crate::zookeeper::init) for this very incarnation.
    pub fn new(settings: ZookeeperSettings, namespace: &Namespace, incarnation: Incarnation) -> Result<Self> {
        let paths = Paths::new(&settings, namespace)?;
        Ok(ZookeeperDecisionLog { settings, paths, incarnation })
    }
}

#[async_trait]
impl DecisionLog for ZookeeperDecisionLog {
    async fn open(&self) -> Result<Box<dyn LogSession>> {
        let connection = Connection::open(&self.settings).await?;
        zookeeper::check(&connection, &self.paths, self.incarnation).await?;
        for folder in self.paths.decision_log() {
            connection.create_folders("open decision log", &folder).await?;
        }
        let store = Store { connection, paths: self.paths.clone() };
        Ok(Box::new(Session { store, incarnation: self.incarnation }))
    }
}

struct Session {
    store: Store,
    incarnation: Incarnation,
}

#[async_trait]
impl LogSession for Session {
    async fn register(&self, coordinator: CoordinatorId, record: &Record) -> Result<Fence> {
        const OPERATION: &str = "register coordinator";
        let failed =
            |error| self.store.error(OPERATION, Effect::Possible, error).with("coordinator", coordinator);
        let fence = Fence { coordinator, number: OWNERS.into() };
        let writer = self.store.registration(coordinator, record).map_err(failed)?;
        failpoint!("zookeeper_log.register.before_commit")?;
        match self.store.connection.commit(writer).await {
            Ok(_) => {}
            Err(zk::MultiWriteError::OperationFailed { source: zk::Error::NodeExists, .. }) => {
                // Its own, of which the answer was lost; what counts is what it writes now.
                let held = self.store.held(OPERATION, coordinator).await?;
                if held.is_none_or(|held| held.version != OWNERS) {
                    return Err(fenced(OPERATION, coordinator));
                }
                self.record(fence, record).await?;
            }
            Err(error) => return Err(failed(error.into())),
        }
        failpoint!("zookeeper_log.register.after_commit")?;
        Ok(fence)
    }

    async fn record(&self, fence: Fence, record: &Record) -> Result<()> {
        const OPERATION: &str = "write coordinator's record";
        let (store, coordinator) = (&self.store, fence.coordinator);
        let failed = |error| store.error(OPERATION, Effect::Possible, error).with("coordinator", coordinator);
        let mut writer = store.fenced_writer(fence).map_err(failed)?;
        let path = store.paths.coordinator(coordinator);
        writer.add_set_data(&path, &record.encode(), None).map_err(failed)?;
        failpoint!("zookeeper_log.record.before_commit")?;
        match store.connection.commit(writer).await {
            Ok(_) => {}
            Err(error) if is_fenced(&error) => return Err(fenced(OPERATION, coordinator)),
            Err(error) => return Err(failed(error.into())),
        }
        failpoint!("zookeeper_log.record.after_commit")
    }

    async fn decide(&self, fence: Fence, request: &Request) -> Answer {
        self.store.decide(fence, request).await
    }

    async fn coordinators(&self) -> Result<Vec<Registered>> {
        const OPERATION: &str = "look at coordinators";
        let (store, paths) = (&self.store, &self.store.paths);
        // Where everything was deleted under a living session, nothing must be taken for settled. This
        // also has what is read behind it be what the leader knows.
        zookeeper::check_layout(&store.connection, paths, self.incarnation).await?;
        let names = store.folder(OPERATION, &paths.all_coordinators()).await?;
        let live: BTreeSet<String> = store.folder(OPERATION, &paths.all_live()).await?.into_iter().collect();
        let registered = |name: &String| {
            let coordinator = name.parse().ok()?;
            Some(Registered { coordinator, is_live: live.contains(name) })
        };
        let mut registered: Vec<Registered> = names.iter().filter_map(registered).collect();
        registered.sort();
        Ok(registered)
    }

    async fn is_taken_over(&self, coordinator: CoordinatorId) -> Result<bool> {
        let path = self.store.paths.fence(coordinator);
        let fence = self.store.read("look at fence", &[path]).await?.pop().flatten();
        Ok(fence.is_some_and(|fence| fence.version != OWNERS))
    }

    async fn take_over(&self, coordinator: CoordinatorId) -> Result<Option<Legacy>> {
        let Some(fence) = self.store.fence_off(coordinator).await? else { return Ok(None) };
        let legacy = self.store.legacy(fence).await;
        if legacy.is_err() {
            // Whoever can read it need not wait for this session's end. What fails here ends with it.
            let _ = self.let_go(coordinator).await;
        }
        legacy.map(Some)
    }

    async fn adopt_orphan(&self, coordinator: CoordinatorId, record: &Record) -> Result<Option<Fence>> {
        const OPERATION: &str = "adopt orphan";
        let failed =
            |error| self.store.error(OPERATION, Effect::Possible, error).with("coordinator", coordinator);
        let writer = self.store.adoption(coordinator, record).map_err(failed)?;
        failpoint!("zookeeper_log.adopt_orphan.before_commit")?;
        let number = match self.store.connection.commit(writer).await {
            Ok(answers) => raised(&answers).ok_or_else(|| failed(unexpected(&answers)))?,
            Err(zk::MultiWriteError::OperationFailed { source: zk::Error::NodeExists, .. }) => {
                // Its own, of which the answer was lost.
                let held = self.store.held(OPERATION, coordinator).await?;
                let own = held.filter(|held| held.version > OWNERS && held.record == record.encode());
                return Ok(own.map(|held| Fence { coordinator, number: held.version.into() }));
            }
            Err(error) => return Err(failed(error.into())),
        };
        failpoint!("zookeeper_log.adopt_orphan.after_commit")?;
        Ok(Some(Fence { coordinator, number }))
    }

    async fn let_go(&self, coordinator: CoordinatorId) -> Result<()> {
        const OPERATION: &str = "let go of coordinator";
        let connection = &self.store.connection;
        // With its session it has lost everything already.
        if connection.is_over() {
            return Ok(());
        }
        let path = self.store.paths.live(coordinator);
        let failed = |effect, error| self.store.error(OPERATION, effect, error).with("path", &path);
        match connection.call(connection.client().check_stat(&path)).await {
            Ok(Some(stat)) if stat.ephemeral_owner == connection.session() => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(failed(Effect::None, error)),
        }
        failpoint!("zookeeper_log.let_go.before_commit")?;
        // While its session lasts nobody else can have put another node in this one's place.
        connection.delete(OPERATION, &path).await?;
        failpoint!("zookeeper_log.let_go.after_commit")
    }

    async fn remove(
        &self,
        fence: Fence,
        batches: &[u64],
        outcomes: &[(TransactionId, Outcome)],
    ) -> Result<()> {
        self.store.remove(fence, batches, outcomes).await
    }

    async fn keep_outcomes(&self, fence: Fence, outcomes: &[(TransactionId, Outcome)]) -> Result<()> {
        self.store.keep_outcomes(fence, outcomes).await
    }

    async fn outcome(&self, transaction: TransactionId) -> Result<Option<Outcome>> {
        self.store.outcome(transaction).await
    }

    async fn look(
        &self,
        coordinator: CoordinatorId,
    ) -> Result<Option<(Record, BTreeMap<u64, Vec<Decision>>)>> {
        const OPERATION: &str = "look at coordinator";
        self.store.sync(OPERATION).await?;
        let contents = self.store.contents(OPERATION, coordinator).await?;
        Ok(contents.map(|contents| (contents.record, contents.batches)))
    }

    async fn forget_outcomes(&self, days: u32, most: usize) -> Result<u64> {
        self.store.discard_leftovers().await?;
        self.store.forget_outcomes(days, most).await
    }

    fn is_over(&self) -> bool {
        self.store.connection.is_over()
    }
}
