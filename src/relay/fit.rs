//! Whether a shard's progress and the database belong together. Relays that take a shard and
//! `onecommit adopt` decide it by this one function, so that they can't disagree.

use crate::error::{Error, ErrorKind, Result};
use crate::id::ShardIndex;
use crate::outbox::{Installation, Outbox, ShardRow};
use crate::protocol::progress::{DatabaseIdentity, Progress};
use crate::protocol::slot::HASH_VERSION;

const OPERATION: &str = "take shard";

/// The progress speaks of this database, and this database holds what it vouches for; `Refused` where
/// it does not.
pub(crate) async fn check_progress(
    installation: &Installation,
    outbox: &mut dyn Outbox,
    shard: ShardIndex,
    row: &ShardRow,
    database: &DatabaseIdentity,
    progress: Option<&Progress>,
) -> Result<()> {
    let adopt = format!("`onecommit adopt {}`", installation.participant);
    let Some(progress) = progress else {
        if row.born {
            let why = format!(
                "this shard has delivered before, but its progress is gone from the delivery: the progress \
                 topic was deleted or emptied. Restore it, or go on without it: {adopt}"
            );
            return Err(refuse(why));
        }
        return Ok(());
    };
    if !progress.database.is_same(database) {
        let why = format!(
            "the progress was written for another database: this one is a copy or a new one. Give the right \
             address, or take this one in its place: {adopt}"
        );
        return Err(refuse(why).with("expected", &progress.database).with("found", database));
    }
    if progress.shards != installation.shards || progress.hash != HASH_VERSION {
        let why = format!(
            "the progress was written with another number of shards or another hash: the number of shards was \
             changed by hand. Undo the change; or go on without this progress: {adopt}"
        );
        return Err(refuse(why).with("progress", progress.shards).with("outbox", installation.shards));
    }
    match progress.barrier() {
        None if row.pruned => {
            let why = format!(
                "the progress is older than what was removed as delivered: the progress topic was restored \
                 from an old copy. Restore the newer one, or go on without it: {adopt}"
            );
            Err(refuse(why))
        }
        None => Ok(()),
        Some(barrier) if outbox.has_barrier(shard, barrier).await? => Ok(()),
        Some(barrier) => {
            let why = format!(
                "the database lacks the barrier row that the progress names: it was restored, rolled back or \
                 failed over with loss, and may hand out again what was delivered. Restore what was there, or \
                 take the database as it is: {adopt}"
            );
            Err(refuse(why).with("barrier", barrier))
        }
    }
}

fn refuse(why: String) -> Error {
    Error::new(ErrorKind::Refused, OPERATION, why)
}
