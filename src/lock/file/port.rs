//! The lock port on a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::rows::Rows;
use crate::error::Result;
use crate::id::{Incarnation, TransactionId};
use crate::lock::{Entrant, LockSession, LockStore};
use crate::protocol::lock::{Entry, Owner, Queue, Wait};
use crate::sqlite::{DECISIONS_FILE, FileSession, removed};

/// Between two looks of one who waits: nobody tells another process.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The locks of a folder of this machine: in its `decisions.db`, and who is alive in `sessions/`.
pub struct FileLocks {
    file: PathBuf,
    sessions: PathBuf,
    incarnation: Incarnation,
}

impl FileLocks {
    /// What is missing is made when a session is opened, for this incarnation.
    pub fn new(data_dir: impl AsRef<Path>, incarnation: Incarnation) -> Self {
        let data_dir = data_dir.as_ref();
        let (file, sessions) = (data_dir.join(DECISIONS_FILE), data_dir.join("sessions"));
        FileLocks { file, sessions, incarnation }
    }

    /// Removes what says which sessions live; the queues go with the decision log. Idempotent.
    pub fn remove(&self) -> Result<()> {
        removed("remove locks", &self.sessions, fs::remove_dir_all(&self.sessions))
    }
}

#[async_trait]
impl LockStore for FileLocks {
    async fn open(&self) -> Result<Box<dyn LockSession>> {
        let (sessions, incarnation) = (self.sessions.clone(), self.incarnation);
        let open = move |file: &Path| Rows::open(file, &sessions, incarnation);
        Ok(Box::new(FileSession::open(&self.file, "open locks", open).await?))
    }
}

#[async_trait]
impl LockSession for FileSession<Rows> {
    async fn enter(&self, queue: &Queue, entrant: &Entrant) -> Result<()> {
        let (queue, entrant) = (queue.clone(), *entrant);
        self.call("enter queue", move |rows| rows.enter(&queue, &entrant)).await
    }

    async fn entries(&self, queue: &Queue) -> Result<Vec<Entry>> {
        let queue = queue.clone();
        self.call("look at queue", move |rows| rows.entries(&queue)).await
    }

    async fn is_there(&self, queue: &Queue, entry: &Entry) -> Result<bool> {
        Ok(self.entries(queue).await?.contains(entry))
    }

    async fn wait_for_end(&self, queue: &Queue, entry: &Entry, until: Instant) -> Result<()> {
        while Instant::now() < until && self.entries(queue).await?.contains(entry) {
            tokio::time::sleep_until(until.min(Instant::now() + LOOK_INTERVAL)).await;
        }
        Ok(())
    }

    async fn begin_wait(
        &self,
        transaction: TransactionId,
        queue: &Queue,
    ) -> Result<BTreeMap<TransactionId, Wait>> {
        let queue = queue.clone();
        self.call("note wait", move |rows| rows.begin_wait(transaction, &queue)).await
    }

    async fn leave(&self, queue: &Queue, owner: Owner) -> Result<()> {
        let queue = queue.clone();
        self.call("leave queue", move |rows| rows.leave(&queue, owner)).await
    }

    async fn end_waits(&self, transaction: TransactionId) -> Result<()> {
        self.call("forget wait", move |rows| rows.end_waits(transaction)).await
    }

    async fn discard_leftovers(&self) -> Result<u64> {
        self.call("look for entries of the dead", Rows::discard_leftovers).await
    }

    async fn position(&self) -> Result<i64> {
        self.call("look at the numbers of locks", |rows| rows.position()).await
    }

    fn is_over(&self) -> bool {
        self.is_elsewhere()
    }

    fn timeout(&self) -> Option<Duration> {
        None
    }
}
