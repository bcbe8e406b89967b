//! The end of a coordinator. Its record, its fence and its batches go in one `multi`, however many
//! batches there are: what does not fit is deleted behind it. That is no tear: without a record nobody
//! reads them, and they can't be taken for all that there was. Whoever is cut off in between leaves a
//! folder without a record, which [`Store::discard_leftovers`] finds.

use std::collections::BTreeSet;

use zookeeper_client as zk;

use super::decide::is_fenced;
use super::nodes::Store;
use super::outcomes::{NewNode, fenced};
use crate::decision_log::Fence;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{CoordinatorId, TransactionId};
use crate::protocol::decision::{Outcome, Record};
use crate::zookeeper::Effect;

const OPERATION: &str = "remove coordinator";
/// Of one request, beside a node of outcomes. ZooKeeper takes 1 MiB (`jute.maxbuffer`).
const DELETES_BYTES: usize = 512 * 1024;
/// What a delete takes beside its path.
const DELETE_BYTES: usize = 32;

/// What goes in one request.
struct Removal<'a> {
    fence: Fence,
    batches: &'a [u64],
    /// None where there is no folder, or more in it than these.
    folder: Option<String>,
    is_live: bool,
    outcomes: Option<NewNode>,
}

impl Store {
    pub(super) async fn remove(
        &self,
        fence: Fence,
        batches: &[u64],
        outcomes: &[(TransactionId, Outcome)],
    ) -> Result<()> {
        let coordinator = fence.coordinator;
        self.sync(OPERATION).await?;
        let paths = [self.paths.coordinator(coordinator), self.paths.live(coordinator)];
        let mut found = self.read(OPERATION, &paths).await?.into_iter();
        let (record, live) = (found.next().flatten(), found.next().flatten());
        // Removed before, and the answer was lost.
        let Some(record) = record else { return Ok(()) };
        let left = self.batches(OPERATION, coordinator).await?;
        let has_folder = left.is_some();
        let left = left.unwrap_or_default();
        // An orphan decides nothing: what lies there was left by a removal that was cut off.
        if !Record::decode(&record.data).is_ok_and(|record| record.is_orphan) {
            expect_named(coordinator, &left, batches)?;
        }
        // Outcomes are facts, which may be told before: only the last of their nodes goes with the record.
        let mut nodes = self.unkept(outcomes).await?;
        let last = nodes.pop();
        for node in nodes {
            self.keep(fence, node).await?;
        }
        let (now, later) = left.split_at(left.len().min(self.deletes_per_request(coordinator)));
        let folder = (has_folder && later.is_empty()).then(|| self.paths.decisions(coordinator));
        self.remove_at_once(Removal { fence, batches: now, folder, is_live: live.is_some(), outcomes: last })
            .await?;
        if !later.is_empty() {
            self.discard(coordinator).await?;
        }
        Ok(())
    }

    async fn remove_at_once(&self, removal: Removal<'_>) -> Result<()> {
        let coordinator = removal.fence.coordinator;
        let failed = |error| self.error(OPERATION, Effect::Possible, error).with("coordinator", coordinator);
        let writer = self.removal(&removal).map_err(failed)?;
        failpoint!("zookeeper_log.remove.before_commit")?;
        match self.connection.commit(writer).await {
            Ok(_) => {}
            Err(error) if is_fenced(&error) => return Err(fenced(OPERATION, coordinator)),
            Err(zk::MultiWriteError::OperationFailed {
                source: source @ (zk::Error::NoNode | zk::Error::NodeExists | zk::Error::NotEmpty),
                ..
            }) => {
                let why = "it changed while it was being removed: nothing was done";
                let error = Error::new(ErrorKind::Unclear, OPERATION, why).caused_by(source);
                return Err(error.with("coordinator", coordinator));
            }
            Err(error) => return Err(failed(error.into())),
        }
        failpoint!("zookeeper_log.remove.after_commit")
    }

    fn removal(&self, removal: &Removal<'_>) -> Result<zk::MultiWriter<'_>, zk::Error> {
        let coordinator = removal.fence.coordinator;
        let mut writer = self.fenced_writer(removal.fence)?;
        for batch in removal.batches {
            writer.add_delete(&self.paths.batch(coordinator, *batch), None)?;
        }
        if let Some(folder) = &removal.folder {
            writer.add_delete(folder, None)?;
        }
        writer.add_delete(&self.paths.fence(coordinator), None)?;
        writer.add_delete(&self.paths.coordinator(coordinator), None)?;
        if removal.is_live {
            writer.add_delete(&self.paths.live(coordinator), None)?;
        }
        if let Some(node) = &removal.outcomes {
            writer.add_create(&node.path, &node.bytes, &self.persistent())?;
        }
        Ok(writer)
    }

    /// Deletes the folders of decisions that have no record. Their ids are never used again.
    pub(super) async fn discard_leftovers(&self) -> Result<()> {
        let with_folder = self.folder(OPERATION, &self.paths.all_decisions()).await?;
        // Read behind the folders: a coordinator is registered with both at once.
        let registered = self.folder(OPERATION, &self.paths.all_coordinators()).await?;
        let registered: BTreeSet<String> = registered.into_iter().collect();
        for name in with_folder.into_iter().filter(|name| !registered.contains(name)) {
            if let Ok(coordinator) = name.parse() {
                self.discard(coordinator).await?;
            }
        }
        Ok(())
    }

    /// Deletes the decisions of a coordinator that has no record any more.
    async fn discard(&self, coordinator: CoordinatorId) -> Result<()> {
        let folder = self.paths.decisions(coordinator);
        let failed = |error| self.error(OPERATION, Effect::Possible, error).with("path", &folder);
        while let Some(left) = self.batches(OPERATION, coordinator).await? {
            let now = &left[..left.len().min(self.deletes_per_request(coordinator))];
            let mut writer = self.connection.client().new_multi_writer();
            for batch in now {
                writer.add_delete(&self.paths.batch(coordinator, *batch), None).map_err(failed)?;
            }
            if now.len() == left.len() {
                writer.add_delete(&folder, None).map_err(failed)?;
            }
            failpoint!("zookeeper_log.discard.before_commit")?;
            match self.connection.commit(writer).await.map_err(zk::Error::from) {
                // Somebody else discards the same.
                Ok(_) | Err(zk::Error::NoNode) => {}
                Err(error) => return Err(failed(error)),
            }
            failpoint!("zookeeper_log.discard.after_commit")?;
        }
        Ok(())
    }

    fn deletes_per_request(&self, coordinator: CoordinatorId) -> usize {
        DELETES_BYTES / (self.paths.batch(coordinator, u64::MAX).len() + DELETE_BYTES)
    }
}

/// A batch that is not among those that may go was not settled by whoever asks.
fn expect_named(coordinator: CoordinatorId, left: &[u64], named: &[u64]) -> Result<()> {
    let named: BTreeSet<u64> = named.iter().copied().collect();
    let Some(batch) = left.iter().find(|batch| !named.contains(batch)) else { return Ok(()) };
    let why = "there is a batch of decisions that was not settled: take over again, and read it";
    let error = Error::new(ErrorKind::Failed, OPERATION, why).with("coordinator", coordinator);
    Err(error.with("batch", batch))
}
