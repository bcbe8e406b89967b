//! One session's nodes, and what is found of a coordinator.

use std::collections::BTreeMap;

use zookeeper_client as zk;

use crate::error::{Error, ErrorKind, Result};
use crate::id::CoordinatorId;
use crate::protocol::decision::{Decision, Record, decode_batch};
use crate::zookeeper::{Connection, Effect, Node, Paths};

/// A session, and where things are.
pub(super) struct Store {
    pub(super) connection: Connection,
    pub(super) paths: Paths,
}

/// What there is of a coordinator.
pub(super) struct Contents {
    pub(super) record: Record,
    pub(super) batches: BTreeMap<u64, Vec<Decision>>,
    /// Nothing vanished while it was read.
    pub(super) is_complete: bool,
}

impl Store {
    pub(super) fn error(&self, operation: &'static str, effect: Effect, error: zk::Error) -> Error {
        self.connection.error(operation, effect, error)
    }

    pub(super) fn persistent(&self) -> zk::CreateOptions<'static> {
        zk::CreateMode::Persistent.with_acls(self.connection.acls())
    }

    pub(super) fn ephemeral(&self) -> zk::CreateOptions<'static> {
        zk::CreateMode::Ephemeral.with_acls(self.connection.acls())
    }

    /// Has what is read next be what the leader knows now: a server that was cut off from it answers with
    /// what it last knew.
    pub(super) async fn sync(&self, operation: &'static str) -> Result<()> {
        let synced = self.connection.call(self.connection.client().sync(&self.paths.layout())).await;
        synced.map_err(|error| self.error(operation, Effect::None, error))
    }

    /// Reads nodes, in the order of their paths; None where one is not there.
    pub(super) async fn read(&self, operation: &'static str, paths: &[String]) -> Result<Vec<Option<Node>>> {
        self.connection.read(operation, paths).await
    }

    /// The names below a node; None where it is not there.
    pub(super) async fn names(&self, operation: &'static str, path: &str) -> Result<Option<Vec<String>>> {
        self.connection.names(operation, path).await
    }

    /// The names below one of the folders that were made when the session was opened.
    pub(super) async fn folder(&self, operation: &'static str, path: &str) -> Result<Vec<String>> {
        let names = self.names(operation, path).await?;
        let gone = || self.error(operation, Effect::None, zk::Error::NoNode).with("path", path);
        names.ok_or_else(gone)
    }

    /// The numbers of a coordinator's batches; None where it has no folder of them. A name that is no
    /// number stops whoever reads: what is in there may have been decided.
    pub(super) async fn batches(
        &self,
        operation: &'static str,
        coordinator: CoordinatorId,
    ) -> Result<Option<Vec<u64>>> {
        let folder = self.paths.decisions(coordinator);
        let Some(names) = self.names(operation, &folder).await? else { return Ok(None) };
        let number = |name: String| match name.parse() {
            Ok(number) if format!("{number:020}") == name => Ok(number),
            _ => Err(foreign(operation).with("path", format!("{folder}/{name}"))),
        };
        names.into_iter().map(number).collect::<Result<Vec<u64>>>().map(Some)
    }

    /// Reads a coordinator's record and batches; None where it has no record.
    pub(super) async fn contents(
        &self,
        operation: &'static str,
        coordinator: CoordinatorId,
    ) -> Result<Option<Contents>> {
        let Some(record) = self.record(operation, coordinator).await? else { return Ok(None) };
        let numbers = self.batches(operation, coordinator).await?;
        // An orphan has none.
        let is_folder_gone = numbers.is_none() && !record.is_orphan;
        let numbers = numbers.unwrap_or_default();
        let batches = self.decisions(operation, coordinator, &numbers).await?;
        // They were read one behind the other, while whoever settles it may remove it: the record goes first. Where
        // an orphan's is in its place, that was made behind the removal.
        let now = self.record(operation, coordinator).await?;
        if now.is_none_or(|now| now.is_orphan != record.is_orphan) {
            return Ok(None);
        }
        // Who took it for empty would roll back what was decided.
        if is_folder_gone {
            let why = "the folder of this coordinator's decisions is gone: find out who deleted it, and restore it; \
                       nothing of this coordinator is settled before that";
            let error = Error::new(ErrorKind::Refused, operation, why);
            return Err(error.with("path", self.paths.decisions(coordinator)));
        }
        let is_complete = batches.len() == numbers.len();
        Ok(Some(Contents { record, batches, is_complete }))
    }

    async fn record(&self, operation: &'static str, coordinator: CoordinatorId) -> Result<Option<Record>> {
        let path = self.paths.coordinator(coordinator);
        let found = self.read(operation, std::slice::from_ref(&path)).await?.pop().flatten();
        let decode = |found: Node| Record::decode(&found.data).map_err(|error| error.with("path", &path));
        found.map(decode).transpose()
    }

    /// Those of these batches that are there.
    async fn decisions(
        &self,
        operation: &'static str,
        coordinator: CoordinatorId,
        numbers: &[u64],
    ) -> Result<BTreeMap<u64, Vec<Decision>>> {
        let paths: Vec<String> = numbers.iter().map(|batch| self.paths.batch(coordinator, *batch)).collect();
        let mut batches = BTreeMap::new();
        for ((batch, path), found) in numbers.iter().zip(&paths).zip(self.read(operation, &paths).await?) {
            let Some(found) = found else { continue };
            batches.insert(*batch, decode_batch(&found.data).map_err(|error| error.with("path", path))?);
        }
        Ok(batches)
    }
}

/// For what somebody else has written where only our own things are.
pub(super) fn foreign(operation: &'static str) -> Error {
    let why = "a node holds something that Onecommit did not write: find out who did, and delete it";
    Error::new(ErrorKind::Refused, operation, why)
}
