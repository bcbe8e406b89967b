//! How transactions ended, and what is forgotten in time.

use rusqlite::{OptionalExtension as _, params};

use super::rows::Rows;
use super::sql::{bytes, expect_fence, fence_of, keep, stored};
use crate::decision_log::Fence;
use crate::error::{ErrorKind, Result};
use crate::failpoint;
use crate::id::{CoordinatorId, TransactionId};
use crate::protocol::decision::Outcome;
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{begin, commit};

const DAY_SECONDS: i64 = 24 * 3600;

impl Rows {
    pub(super) fn keep_outcomes(
        &mut self,
        fence: Fence,
        outcomes: &[(TransactionId, Outcome)],
    ) -> Result<()> {
        const OPERATION: &str = "keep outcomes";
        let transaction = begin(&mut self.connection, OPERATION)?;
        expect_fence(&transaction, fence, OPERATION)?;
        keep(&transaction, outcomes, OPERATION)?;
        failpoint!("file_log.keep_outcomes.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_log.keep_outcomes.after_commit")?;
        self.place.check(ErrorKind::Unclear, OPERATION)
    }

    pub(super) fn outcome(&mut self, transaction: TransactionId) -> Result<Option<Outcome>> {
        const OPERATION: &str = "read outcome";
        let sql = "select outcome = 'committed' from outcome where coordinator = ?1 and number = ?2";
        let row = params![bytes(&transaction.coordinator), stored(transaction.number)];
        let found = self.connection.query_row(sql, row, |row| row.get(0)).optional();
        let is_committed: Option<bool> = found.map_err(|error| from_sqlite(OPERATION, error))?;
        Ok(is_committed.map(|is| if is { Outcome::Committed } else { Outcome::RolledBack }))
    }

    pub(super) fn forget_outcomes(&mut self, days: u32, most: usize) -> Result<u64> {
        const OPERATION: &str = "forget outcomes";
        let failed = |error| from_sqlite(OPERATION, error);
        let transaction = begin(&mut self.connection, OPERATION)?;
        let old = "delete from outcome where kept_at <= unixepoch() - ?1";
        let mut forgotten = transaction.execute(old, [i64::from(days) * DAY_SECONDS]).map_err(failed)?;
        let over = "delete from outcome where id not in (select id from outcome order by id desc limit ?1)";
        forgotten += transaction.execute(over, [stored(most as u64)]).map_err(failed)?;
        failpoint!("file_log.forget_outcomes.before_commit")?;
        commit(transaction, OPERATION)?;
        failpoint!("file_log.forget_outcomes.after_commit")?;
        self.remove_leftovers()?;
        Ok(forgotten as u64)
    }

    /// Removes the locks of those who were killed before they had a record, or behind its removal.
    fn remove_leftovers(&mut self) -> Result<()> {
        const OPERATION: &str = "remove locks of the dead";
        for id in self.liveness.old()? {
            let coordinator = CoordinatorId(id);
            if fence_of(&self.connection, coordinator, OPERATION)?.is_none()
                && let Some(life) = self.liveness.claim(id)?
                // Held now, so that it stays as it is.
                && fence_of(&self.connection, coordinator, OPERATION)?.is_none()
            {
                life.remove();
            }
        }
        Ok(())
    }
}
