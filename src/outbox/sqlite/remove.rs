//! Removes what `init` made in an application's file.

use std::path::Path;
use std::time::Duration;

use crate::error::Result;
use crate::failpoint;
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{begin, commit, open_existing};

const OPERATION: &str = "remove outbox";
/// All tables of the numbered SQL files.
const TABLES: &[&str] = &[
    "onecommit_outbox",
    "onecommit_installation",
    "onecommit_shard",
    "onecommit_barrier",
    "onecommit_set_aside",
    "onecommit_held_topic",
    "onecommit_dead_topic",
];

/// Removes the tables; the file is the application's, and stays. Idempotent.
pub(super) fn remove(path: &Path, busy: Duration) -> Result<()> {
    if !path.try_exists().unwrap_or(true) {
        return Ok(());
    }
    let mut connection = open_existing(path, busy, OPERATION)?;
    let transaction = begin(&mut connection, OPERATION)?;
    for table in TABLES {
        let dropped = transaction.execute_batch(&format!("drop table if exists {table}"));
        dropped.map_err(|error| from_sqlite(OPERATION, error))?;
    }
    failpoint!("outbox.remove.before_commit")?;
    commit(transaction, OPERATION)?;
    failpoint!("outbox.remove.after_commit")
}

#[cfg(test)]
mod tests {
    use super::super::schema::print_sql;
    use super::*;

    #[test]
    fn everything_that_is_made_is_removed() {
        let sql = print_sql(0);
        let made = sql.lines().filter_map(|line| line.trim_start().strip_prefix("create table "));
        let made: Vec<&str> = made.map(|rest| rest.split([' ', '(']).next().unwrap()).collect();
        assert_eq!(made, TABLES);
    }
}
