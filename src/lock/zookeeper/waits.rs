//! Which transaction waits in which queue: an ephemeral note each, ordered by the number of the change that wrote it
//! last. Whoever has written one sees every note that was written before.

use std::collections::{BTreeMap, BTreeSet};

use zookeeper_client as zk;

use super::session::{Session, VERSION, expect_known_format};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::TransactionId;
use crate::lock::LockSession as _;
use crate::protocol::lock::{Purpose, Queue, Wait, transactions_ahead};
use crate::zookeeper::Effect;

/// Most transactions that are followed; a longer circle ends by the waits' limits.
const FOLLOWED_MAX: usize = 1_000;

impl Session {
    pub(super) async fn note_wait(&self, transaction: TransactionId, queue: &Queue) -> Result<()> {
        const OPERATION: &str = "note wait";
        let path = self.paths.wait(transaction);
        let failed = |error| self.connection.error(OPERATION, Effect::Possible, error).with("path", &path);
        let options = zk::CreateMode::Ephemeral.with_acls(self.connection.acls());
        let mut note = vec![VERSION];
        note.extend_from_slice(queue.name.as_str().as_bytes());
        failpoint!("zookeeper_lock.note_wait.before_commit")?;
        match self.connection.call(self.connection.client().create(&path, &note, &options)).await {
            Ok(_) => {}
            // Of an earlier wait: what counts is when it was written last.
            Err(zk::Error::NodeExists) => {
                let written =
                    self.connection.call(self.connection.client().set_data(&path, &note, None)).await;
                written.map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        failpoint!("zookeeper_lock.note_wait.after_commit")
    }

    /// The waits that one leads to, itself among them.
    pub(super) async fn waits_from(
        &self,
        transaction: TransactionId,
    ) -> Result<BTreeMap<TransactionId, Wait>> {
        let (mut waits, mut seen) = (BTreeMap::new(), BTreeSet::from([transaction]));
        let mut open = vec![transaction];
        while let Some(id) = open.pop() {
            let Some(wait) = self.wait_of(id).await? else { continue };
            open.extend(wait.ahead.iter().filter(|next| seen.insert(**next)));
            waits.insert(id, wait);
            if seen.len() > FOLLOWED_MAX {
                break;
            }
        }
        Ok(waits)
    }

    /// None where it does not wait.
    async fn wait_of(&self, transaction: TransactionId) -> Result<Option<Wait>> {
        const OPERATION: &str = "look at wait";
        let path = self.paths.wait(transaction);
        let found = self.connection.read(OPERATION, std::slice::from_ref(&path)).await?.pop().flatten();
        let Some(note) = found else { return Ok(None) };
        expect_known_format(&note)?;
        let name = note.data.get(1..).and_then(|name| std::str::from_utf8(name).ok()?.parse().ok());
        let name = name.ok_or_else(|| {
            Error::new(ErrorKind::Failed, OPERATION, "the note names no lock").with("path", path)
        })?;
        let entries = self.entries(&Queue { purpose: Purpose::Lock, name }).await?;
        let ahead = transactions_ahead(&entries, transaction);
        Ok(Some(Wait { began: note.written, ahead }))
    }

    pub(super) async fn forget_wait(&self, transaction: TransactionId) -> Result<()> {
        let path = self.paths.wait(transaction);
        failpoint!("zookeeper_lock.forget_wait.before_commit")?;
        self.connection.delete("forget wait", &path).await?;
        failpoint!("zookeeper_lock.forget_wait.after_commit")
    }
}
