//! Removes what `init` made in a database, and nothing else that stands in the schema.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::rows::get;
use crate::config::PostgresUrl;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::postgres::connect::{connect, limits};
use crate::postgres::failure::from_postgres;
use crate::postgres::quoted;

const OPERATION: &str = "remove outbox";
/// All tables and functions of the numbered SQL files.
const TABLES: &[&str] = &[
    "outbox",
    "installation",
    "shard",
    "barrier",
    "lease",
    "relay",
    "server_life",
    "set_aside",
    "held_topic",
    "dead_topic",
    "coordinator",
];
const FUNCTIONS: &[&str] = &["publish", "publish_bytes"];

/// Removes the tables and functions, and the schema where nothing else is in it. What somebody has
/// built on them, such as a view, stands against it. Idempotent.
pub(super) async fn remove(url: &PostgresUrl, schema: &str, limit: Duration) -> Result<()> {
    let mut client = connect(url, "onecommit init", limit).await?;
    let transaction = client.transaction().await.map_err(failed)?;
    transaction.batch_execute(&limits(limit)).await.map_err(failed)?;
    let name = quoted(schema);
    let sql = "select exists (select from pg_namespace where nspname = $1)";
    let rows = transaction.query_typed(sql, &[(&schema, Type::TEXT)]).await.map_err(failed)?;
    if !rows.first().map_or(Ok(false), |row| get::<bool>(row, 0))? {
        return Ok(());
    }
    let qualified =
        |names: &[&str]| -> Vec<String> { names.iter().map(|one| format!("{name}.{one}")).collect() };
    let drop = format!("drop table if exists {}", qualified(TABLES).join(", "));
    transaction.batch_execute(&drop).await.map_err(failed)?;
    for function in qualified(FUNCTIONS) {
        let exists = "select to_regproc($1) is not null";
        let rows = transaction.query_typed(exists, &[(&function, Type::TEXT)]).await.map_err(failed)?;
        if rows.first().map_or(Ok(false), |row| get::<bool>(row, 0))? {
            transaction.batch_execute(&format!("drop function {function}")).await.map_err(failed)?;
        }
    }
    let sql = "select not exists (select from pg_class where relnamespace = $1::text::regnamespace)
                 and not exists (select from pg_proc where pronamespace = $1::text::regnamespace)";
    let rows = transaction.query_typed(sql, &[(&name, Type::TEXT)]).await.map_err(failed)?;
    if rows.first().map_or(Ok(false), |row| get::<bool>(row, 0))? {
        transaction.batch_execute(&format!("drop schema {name}")).await.map_err(failed)?;
    }
    failpoint!("outbox.remove.before_commit")?;
    transaction.commit().await.map_err(failed)?;
    failpoint!("outbox.remove.after_commit")
}

fn failed(error: tokio_postgres::Error) -> Error {
    // Dependent objects; the driver's text names them.
    if error.code().is_some_and(|code| code.code() == "2BP01") {
        let why =
            "something else in the database is built on Onecommit's tables or functions: remove that first";
        return Error::new(ErrorKind::Configuration, OPERATION, why).caused_by(error);
    }
    from_postgres(OPERATION, error)
}

#[cfg(test)]
mod tests {
    use super::super::schema::print_sql;
    use super::*;

    #[test]
    fn everything_that_is_made_is_removed() {
        let sql = print_sql("onecommit", 0);
        for line in sql.lines().map(str::trim_start) {
            for (start, names) in [
                ("create table ", TABLES),
                ("create unlogged table ", TABLES),
                ("create function ", FUNCTIONS),
                ("create or replace function ", FUNCTIONS),
            ] {
                let Some(rest) = line.strip_prefix(start) else { continue };
                let name = rest.trim_start_matches("\"onecommit\".").split(['(', ' ']).next().unwrap();
                assert!(names.contains(&name), "{name} is made, and not removed");
            }
        }
        let made = sql.matches("create table ").count() + sql.matches("create unlogged table ").count();
        assert_eq!(made, TABLES.len());
    }
}
