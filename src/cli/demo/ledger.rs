//! What the database really holds: the ledger that every transaction writes beside publishing.

use uuid::Uuid;

use super::stage::{Stage, failed_sql};
use super::verdict::Keyed;
use crate::error::Result;
use crate::id::MessageId;

/// All committed messages, in the order of commit.
pub(super) fn read(stage: &Stage) -> Result<Vec<Keyed>> {
    let connection = stage.database()?;
    let read = || -> rusqlite::Result<Vec<Keyed>> {
        let mut rows = connection.prepare("select key, message_id from ledger order by place")?;
        let keyed = rows.query_map([], |row| {
            let id: [u8; 16] = row.get(1)?;
            Ok((row.get(0)?, MessageId(Uuid::from_bytes(id))))
        })?;
        keyed.collect()
    };
    read().map_err(failed_sql)
}
