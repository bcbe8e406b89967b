//! Removes delivered messages, by the last progress known to be committed, in short transactions:
//! an application's writers wait meanwhile.

use rusqlite::{Connection, OptionalExtension, params};

use super::init::SHARD;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{BarrierId, Epoch};
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{begin, commit};

const OPERATION: &str = "prune";

/// Removes at most `limit` messages with ids up to `last`. Barrier rows older than the one that the
/// progress names go with them: whoever finds an older progress later does not find its barrier,
/// and stops instead of passing over what is gone. Messages that are set aside stay.
pub(super) fn prune(
    connection: &mut Connection,
    epoch: Epoch,
    last: i64,
    barrier: BarrierId,
    limit: u32,
    has_set_aside: bool,
) -> Result<u64> {
    let failed = |error| from_sqlite(OPERATION, error);
    let transaction = begin(connection, OPERATION)?;
    let sql = "select 1 from onecommit_shard where shard = ?1 and epoch = ?2";
    let held = transaction.query_row(sql, params![SHARD.0, epoch.0], |_| Ok(())).optional();
    if held.map_err(failed)?.is_none() {
        let why = "another relay has taken over";
        return Err(Error::new(ErrorKind::Fenced, OPERATION, why).with("shards", SHARD).with("epoch", epoch));
    }
    let sql = "select epoch, counter from onecommit_barrier where id = ?1";
    let named = transaction.query_row(sql, [barrier.0.as_bytes().as_slice()], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    });
    let Some((named_epoch, named_counter)) = named.optional().map_err(failed)? else {
        let why = "the barrier that the committed progress names is not in the file: it was restored, \
                   or is another one than before; nothing was removed. Restore what was there; or `onecommit \
                   adopt` with the participant's name";
        return Err(Error::new(ErrorKind::Refused, OPERATION, why).with("barrier", barrier));
    };
    let stays = match has_set_aside {
        true => "and id not in (select id from onecommit_set_aside)",
        false => "",
    };
    let sql = format!(
        "delete from onecommit_outbox where id in
           (select id from onecommit_outbox where id <= ?1 {stays} order by id limit ?2)"
    );
    let gone = transaction.execute(&sql, params![last, limit]).map_err(failed)?;
    let sql = "delete from onecommit_barrier where shard = ?1 and (epoch, counter) < (?2, ?3)";
    transaction.execute(sql, params![SHARD.0, named_epoch, named_counter]).map_err(failed)?;
    let sql = "update onecommit_shard set pruned = 1 where shard = ?1 and not pruned";
    transaction.execute(sql, [SHARD.0]).map_err(failed)?;
    failpoint!("outbox.prune.before_commit")?;
    commit(transaction, OPERATION)?;
    failpoint!("outbox.prune.after_commit")?;
    Ok(gone as u64)
}
