//! How nodes are read, in pages that stay small, each as of one moment; and deleted.

use zookeeper_client as zk;

use super::connection::{Connection, Effect};
use crate::error::Result;

/// Nodes that are read at once: a batch or a node of outcomes has up to 256 KiB.
const PAGE: usize = 32;

/// A node as it was read.
pub(crate) struct Node {
    pub(crate) data: Vec<u8>,
    pub(crate) version: i32,
    /// The session that owns an ephemeral node; 0 for others.
    pub(crate) session: i64,
    /// When it was made, by the servers' clock, in milliseconds.
    pub(crate) created_ms: i64,
    /// The number of the change that made it. They only grow.
    pub(crate) created: i64,
    /// The number of the change that wrote it last.
    pub(crate) written: i64,
}

impl Connection {
    /// Reads nodes, in the order of their paths; None where one is not there.
    pub(crate) async fn read(&self, operation: &'static str, paths: &[String]) -> Result<Vec<Option<Node>>> {
        let failed = |error| self.error(operation, Effect::None, error);
        let mut found = Vec::with_capacity(paths.len());
        for page in paths.chunks(PAGE) {
            let mut reader = self.client().new_multi_reader();
            for path in page {
                reader.add_get_data(path).map_err(failed)?;
            }
            let answers = self.call(reader.commit()).await.map_err(failed)?;
            if answers.len() != page.len() {
                return Err(failed(zk::Error::UnexpectedError(format!("{} answers", answers.len()))));
            }
            for (path, answer) in page.iter().zip(answers) {
                found.push(node(answer).map_err(|error| failed(error).with("path", path))?);
            }
        }
        Ok(found)
    }

    /// Deletes a node; no error where it is not there.
    pub(crate) async fn delete(&self, operation: &'static str, path: &str) -> Result<()> {
        match self.call(self.client().delete(path, None)).await {
            Ok(()) | Err(zk::Error::NoNode) => Ok(()),
            Err(error) => Err(self.error(operation, Effect::Possible, error).with("path", path)),
        }
    }

    /// The names below a node; None where it is not there.
    pub(crate) async fn names(&self, operation: &'static str, path: &str) -> Result<Option<Vec<String>>> {
        match self.call(self.client().list_children(path)).await {
            Ok(names) => Ok(Some(names)),
            Err(zk::Error::NoNode) => Ok(None),
            Err(error) => Err(self.error(operation, Effect::None, error).with("path", path)),
        }
    }
}

fn node(answer: zk::MultiReadResult) -> Result<Option<Node>, zk::Error> {
    match answer {
        zk::MultiReadResult::Data { data, stat } => Ok(Some(Node {
            data,
            version: stat.version,
            session: stat.ephemeral_owner,
            created_ms: stat.ctime,
            created: stat.czxid,
            written: stat.mzxid,
        })),
        zk::MultiReadResult::Error { err: zk::Error::NoNode } => Ok(None),
        zk::MultiReadResult::Error { err } => Err(err),
        other => Err(zk::Error::UnexpectedError(format!("node data expected, got {other:?}"))),
    }
}
