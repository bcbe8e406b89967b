//! Who is alive for a coordinator: its owner from its registration on, a recoverer from its takeover on.

use zookeeper_client as zk;

use super::nodes::Store;
use crate::decision_log::{Fence, Legacy};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::CoordinatorId;
use crate::protocol::decision::Record;
use crate::zookeeper::Effect;

/// The version of a fence that nobody has written since its coordinator was registered.
pub(super) const OWNERS: i32 = 0;

/// A coordinator whose `live` node is this session's.
pub(super) struct Held {
    /// The fence's version.
    pub(super) version: i32,
    pub(super) record: Vec<u8>,
}

impl Store {
    /// What there is of a coordinator that this session has registered or taken over.
    pub(super) async fn held(
        &self,
        operation: &'static str,
        coordinator: CoordinatorId,
    ) -> Result<Option<Held>> {
        let paths = &self.paths;
        let paths = [paths.live(coordinator), paths.fence(coordinator), paths.coordinator(coordinator)];
        let mut found = self.read(operation, &paths).await?.into_iter().flatten();
        let (Some(live), Some(fence), Some(record)) = (found.next(), found.next(), found.next()) else {
            return Ok(None);
        };
        let is_own = live.session == self.connection.session();
        Ok(is_own.then_some(Held { version: fence.version, record: record.data }))
    }

    pub(super) fn registration(
        &self,
        coordinator: CoordinatorId,
        record: &Record,
    ) -> Result<zk::MultiWriter<'_>, zk::Error> {
        let paths = &self.paths;
        let mut writer = self.connection.client().new_multi_writer();
        writer.add_create(&paths.coordinator(coordinator), &record.encode(), &self.persistent())?;
        writer.add_create(&paths.fence(coordinator), &[], &self.persistent())?;
        writer.add_create(&paths.decisions(coordinator), &[], &self.persistent())?;
        writer.add_create(&paths.live(coordinator), &[], &self.ephemeral())?;
        Ok(writer)
    }

    /// Raises the fence, as the one who is alive for this coordinator. The last part's answer is the
    /// fence's.
    fn takeover(&self, coordinator: CoordinatorId, is_held: bool) -> Result<zk::MultiWriter<'_>, zk::Error> {
        let paths = &self.paths;
        let mut writer = self.connection.client().new_multi_writer();
        if !is_held {
            writer.add_create(&paths.live(coordinator), &[], &self.ephemeral())?;
        }
        writer.add_set_data(&paths.fence(coordinator), &[], None)?;
        Ok(writer)
    }

    /// A fence that was written is never an owner's, so that whoever finds one by this record knows that a
    /// recoverer made it.
    pub(super) fn adoption(
        &self,
        coordinator: CoordinatorId,
        record: &Record,
    ) -> Result<zk::MultiWriter<'_>, zk::Error> {
        let paths = &self.paths;
        let mut writer = self.connection.client().new_multi_writer();
        writer.add_create(&paths.coordinator(coordinator), &record.encode(), &self.persistent())?;
        writer.add_create(&paths.live(coordinator), &[], &self.ephemeral())?;
        writer.add_create(&paths.fence(coordinator), &[], &self.persistent())?;
        writer.add_set_data(&paths.fence(coordinator), &[], None)?;
        Ok(writer)
    }

    /// None where the coordinator lives, or has nothing.
    pub(super) async fn fence_off(&self, coordinator: CoordinatorId) -> Result<Option<Fence>> {
        const OPERATION: &str = "take over";
        let failed = |error| self.error(OPERATION, Effect::Possible, error).with("coordinator", coordinator);
        let held = self.held(OPERATION, coordinator).await?;
        if held.as_ref().is_some_and(|held| held.version == OWNERS) {
            return Ok(None);
        }
        let writer = self.takeover(coordinator, held.is_some()).map_err(failed)?;
        failpoint!("zookeeper_log.take_over.before_commit")?;
        let number = match self.connection.commit(writer).await {
            Ok(answers) => raised(&answers).ok_or_else(|| failed(unexpected(&answers)))?,
            Err(zk::MultiWriteError::OperationFailed {
                source: zk::Error::NodeExists | zk::Error::NoNode,
                ..
            }) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        failpoint!("zookeeper_log.take_over.after_commit")?;
        Ok(Some(Fence { coordinator, number }))
    }

    /// Read without a `sync`: this session's own write of the fence comes behind every decision that was
    /// not fenced by it, and ZooKeeper shows a session no state from before its own writes. Another session
    /// might be shown one, so it has to write the fence again.
    pub(super) async fn legacy(&self, fence: Fence) -> Result<Legacy> {
        const OPERATION: &str = "read what a coordinator left";
        let contents = self.contents(OPERATION, fence.coordinator).await?;
        match contents.filter(|contents| contents.is_complete) {
            Some(contents) => Ok(Legacy { fence, record: contents.record, batches: contents.batches }),
            None => {
                let why = "something of it vanished behind the fence: it has to be taken over again";
                let error = Error::new(ErrorKind::Unclear, OPERATION, why);
                Err(error.with("path", self.paths.coordinator(fence.coordinator)))
            }
        }
    }
}

/// The fence's version behind a takeover.
pub(super) fn raised(answers: &[zk::MultiWriteResult]) -> Option<i64> {
    match answers.last() {
        Some(zk::MultiWriteResult::SetData { stat }) => Some(stat.version.into()),
        _ => None,
    }
}

pub(super) fn unexpected(answers: &[zk::MultiWriteResult]) -> zk::Error {
    zk::Error::UnexpectedError(format!("the fence's version expected, got {answers:?}"))
}
