//! The decision log port on a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::rows::Rows;
use crate::decision_log::lost::lost;
use crate::decision_log::{DecisionLog, Fence, Legacy, LogSession, Registered};
use crate::error::Result;
use crate::id::{CoordinatorId, Incarnation, TransactionId};
use crate::protocol::batch::{Answer, Request};
use crate::protocol::decision::{Decision, Outcome, Record};
use crate::sqlite::{DECISIONS_FILE, FileSession, removed};

const REMOVE: &str = "remove decision log";

/// The decision log in a folder of this machine: `decisions.db`, and the locks of who is alive in
/// `coordinators/`.
pub struct FileDecisionLog {
    file: PathBuf,
    locks: PathBuf,
    incarnation: Incarnation,
}

impl FileDecisionLog {
    /// What is missing is made when a session is opened, for this incarnation.
    pub fn new(data_dir: impl AsRef<Path>, incarnation: Incarnation) -> Self {
        let data_dir = data_dir.as_ref();
        let (file, locks) = (data_dir.join(DECISIONS_FILE), data_dir.join("coordinators"));
        FileDecisionLog { file, locks, incarnation }
    }

    /// Whether a folder has the file.
    pub fn is_in(data_dir: impl AsRef<Path>) -> bool {
        data_dir.as_ref().join(DECISIONS_FILE).exists()
    }

    /// Removes the file and the locks, whosever they are. A session that is still open decides nothing any
    /// more. Idempotent.
    pub fn remove(&self) -> Result<()> {
        // The file first: without its WAL it would be an older one, and a WAL without its file is nothing.
        for ending in ["", "-wal", "-shm"] {
            let mut path = self.file.clone().into_os_string();
            path.push(ending);
            removed(REMOVE, Path::new(&path), fs::remove_file(&path))?;
        }
        removed(REMOVE, &self.locks, fs::remove_dir_all(&self.locks))
    }
}

#[async_trait]
impl DecisionLog for FileDecisionLog {
    async fn open(&self) -> Result<Box<dyn LogSession>> {
        let (locks, incarnation) = (self.locks.clone(), self.incarnation);
        let open = move |file: &Path| Rows::open(file, &locks, incarnation);
        Ok(Box::new(FileSession::open(&self.file, "open decision log", open).await?))
    }
}

#[async_trait]
impl LogSession for FileSession<Rows> {
    async fn register(&self, coordinator: CoordinatorId, record: &Record) -> Result<Fence> {
        let record = record.clone();
        self.call("register coordinator", move |rows| rows.register(coordinator, &record)).await
    }

    async fn record(&self, fence: Fence, record: &Record) -> Result<()> {
        let record = record.clone();
        self.call("write coordinator's record", move |rows| rows.record(fence, &record)).await
    }

    async fn decide(&self, fence: Fence, request: &Request) -> Answer {
        let request = request.clone();
        let answer = self.call("decide", move |rows| rows.decide(fence, &request)).await;
        answer.unwrap_or_else(|error| lost(&error))
    }

    async fn coordinators(&self) -> Result<Vec<Registered>> {
        self.call("look at coordinators", Rows::coordinators).await
    }

    async fn is_taken_over(&self, coordinator: CoordinatorId) -> Result<bool> {
        self.call("look at fence", move |rows| rows.is_taken_over(coordinator)).await
    }

    async fn take_over(&self, coordinator: CoordinatorId) -> Result<Option<Legacy>> {
        self.call("take over", move |rows| rows.take_over(coordinator)).await
    }

    async fn adopt_orphan(&self, coordinator: CoordinatorId, record: &Record) -> Result<Option<Fence>> {
        let record = record.clone();
        self.call("adopt orphan", move |rows| rows.adopt_orphan(coordinator, &record)).await
    }

    async fn let_go(&self, coordinator: CoordinatorId) -> Result<()> {
        self.call("let go of coordinator", move |rows| {
            rows.let_go(coordinator);
            Ok(())
        })
        .await
    }

    async fn remove(
        &self,
        fence: Fence,
        batches: &[u64],
        outcomes: &[(TransactionId, Outcome)],
    ) -> Result<()> {
        let (batches, outcomes) = (batches.to_vec(), outcomes.to_vec());
        self.call("remove coordinator", move |rows| rows.remove(fence, &batches, &outcomes)).await
    }

    async fn keep_outcomes(&self, fence: Fence, outcomes: &[(TransactionId, Outcome)]) -> Result<()> {
        let outcomes = outcomes.to_vec();
        self.call("keep outcomes", move |rows| rows.keep_outcomes(fence, &outcomes)).await
    }

    async fn outcome(&self, transaction: TransactionId) -> Result<Option<Outcome>> {
        self.call("read outcome", move |rows| rows.outcome(transaction)).await
    }

    async fn look(
        &self,
        coordinator: CoordinatorId,
    ) -> Result<Option<(Record, BTreeMap<u64, Vec<Decision>>)>> {
        self.call("look at coordinator", move |rows| rows.look(coordinator)).await
    }

    async fn forget_outcomes(&self, days: u32, most: usize) -> Result<u64> {
        self.call("forget outcomes", move |rows| rows.forget_outcomes(days, most)).await
    }

    fn is_over(&self) -> bool {
        self.is_elsewhere()
    }
}
