//! `init`: makes the tables, or checks that those found are what this release reads.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, Transaction};

use super::rows::get;
use super::schema::{SCHEMA_VERSION, print_sql};
use crate::config::PostgresUrl;
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{Incarnation, ShardIndex};
use crate::outbox::{Installation, SCHEMA_VERSION_OLDEST, SET_ASIDE_SINCE, check_version};
use crate::postgres::connect::connect;
use crate::postgres::failure::from_postgres;
use crate::postgres::quoted;
use crate::protocol::slot::HASH_VERSION;

const OPERATION: &str = "init outbox";
/// Only one `init` works on a database at a time; the number is ours alone.
const INIT_LOCK: i64 = 0x6f6e_6563_6f6d_6974;

/// What an outbox says of itself, and the version of its tables.
pub(super) struct Found {
    pub(super) installation: Installation,
    pub(super) version: i32,
}

/// Makes what is missing, and brings tables of an earlier release up to date; returns what is written
/// there now.
pub(super) async fn init(
    url: &PostgresUrl,
    schema: &str,
    wanted: &Installation,
    limit: Duration,
) -> Result<Installation> {
    let mut client = connect(url, "onecommit init", limit).await?;
    let transaction = client.transaction().await.map_err(failed)?;
    let lock = format!("select pg_advisory_xact_lock({INIT_LOCK})");
    transaction.batch_execute(&lock).await.map_err(failed)?;
    let version = version(&transaction, schema).await?;
    if version < SCHEMA_VERSION {
        let made = transaction.batch_execute(&print_sql(schema, version as usize)).await;
        made.map_err(|error| lacks_right(error, "make the tables", schema))?;
    }
    let found = match read(&transaction, schema).await? {
        // A participant without an outbox, until now.
        Some(found) if found.installation.shards == 0 && wanted.shards > 0 => {
            let given = give_outbox(&transaction, schema, wanted).await;
            given.map_err(|error| lacks_right(error, "write into the tables", schema))?;
            Installation {
                shards: wanted.shards,
                delivery_id: wanted.delivery_id.clone(),
                ..found.installation
            }
        }
        Some(found) => found.installation,
        None => {
            let written = write(&transaction, schema, wanted).await;
            written.map_err(|error| lacks_right(error, "write into the tables", schema))?;
            wanted.clone()
        }
    };
    failpoint!("init.outbox.before_commit")?;
    transaction.commit().await.map_err(failed)?;
    failpoint!("init.outbox.after_commit")?;
    Ok(found)
}

/// What an earlier `init` wrote, None where there is nothing.
pub(super) async fn found(url: &PostgresUrl, schema: &str, limit: Duration) -> Result<Option<Installation>> {
    let client = connect(url, "onecommit init", limit).await?;
    if !has_table(&*client, schema, "installation").await? {
        return Ok(None);
    }
    Ok(read(&*client, schema).await?.map(|found| found.installation))
}

/// The version of the tables, 0 where there are none. Those that a person made, by an earlier
/// release's `--print-sql` perhaps, name none before `init` has written into them.
async fn version(transaction: &Transaction<'_>, schema: &str) -> Result<i32> {
    if !has_table(transaction, schema, "installation").await? {
        return Ok(0);
    }
    match read(transaction, schema).await? {
        Some(found) => Ok(found.version),
        None if has_table(transaction, schema, "coordinator").await? => Ok(SCHEMA_VERSION),
        None if has_table(transaction, schema, "set_aside").await? => Ok(SET_ASIDE_SINCE),
        None => Ok(SCHEMA_VERSION_OLDEST),
    }
}

async fn has_table<C: tokio_postgres::GenericClient>(client: &C, schema: &str, table: &str) -> Result<bool> {
    let name = format!("{}.{table}", quoted(schema));
    let sql = "select to_regclass($1) is not null";
    let rows = client.query_typed(sql, &[(&name, Type::TEXT)]).await.map_err(failed)?;
    rows.first().map_or(Ok(false), |row| get(row, 0))
}

/// Reads the installation, through any connection.
pub(super) async fn read<C: tokio_postgres::GenericClient>(
    client: &C,
    schema: &str,
) -> Result<Option<Found>> {
    let sql = format!(
        "select schema_version, incarnation, namespace, participant, shards, hash_version, delivery_id
         from {}.installation",
        quoted(schema)
    );
    let rows = client.query_typed(&sql, &[]).await.map_err(failed)?;
    rows.first().map(decode).transpose()
}

fn decode(row: &Row) -> Result<Found> {
    let version: i32 = get(row, 0)?;
    check_version(version, SCHEMA_VERSION)?;
    let damaged = |what: &'static str| {
        let why = "a value is not what `init` writes: undo what was changed by hand";
        Error::new(ErrorKind::Refused, "read installation", why).with("column", what)
    };
    let no_name = |what| move |error: Error| damaged(what).caused_by(error);
    let installation = Installation {
        incarnation: Incarnation(get(row, 1)?),
        namespace: get::<String>(row, 2)?.parse().map_err(no_name("namespace"))?,
        participant: get::<String>(row, 3)?.parse().map_err(no_name("participant"))?,
        shards: u16::try_from(get::<i32>(row, 4)?).map_err(|_| damaged("shards"))?,
        hash_version: u8::try_from(get::<i32>(row, 5)?).map_err(|_| damaged("hash_version"))?,
        delivery_id: get(row, 6)?,
    };
    Ok(Found { installation, version })
}

async fn write(
    transaction: &Transaction<'_>,
    schema: &str,
    wanted: &Installation,
) -> std::result::Result<(), tokio_postgres::Error> {
    let schema = quoted(schema);
    let insert = format!(
        "insert into {schema}.installation (schema_version, incarnation, namespace, participant, \
         shards, hash_version, delivery_id) values ($1, $2, $3, $4, $5, $6, $7)"
    );
    let values: [(&(dyn ToSql + Sync), Type); 7] = [
        (&SCHEMA_VERSION, Type::INT4),
        (&wanted.incarnation.0, Type::UUID),
        (&wanted.namespace.as_str(), Type::TEXT),
        (&wanted.participant.as_str(), Type::TEXT),
        (&i32::from(wanted.shards), Type::INT4),
        (&i32::from(HASH_VERSION), Type::INT4),
        (&wanted.delivery_id, Type::TEXT),
    ];
    transaction.execute_typed(&insert, &values).await?;
    write_shards(transaction, &schema, wanted).await
}

async fn give_outbox(
    transaction: &Transaction<'_>,
    schema: &str,
    wanted: &Installation,
) -> std::result::Result<(), tokio_postgres::Error> {
    let schema = quoted(schema);
    let update = format!("update {schema}.installation set shards = $1, delivery_id = $2");
    let values: [(&(dyn ToSql + Sync), Type); 2] =
        [(&i32::from(wanted.shards), Type::INT4), (&wanted.delivery_id, Type::TEXT)];
    transaction.execute_typed(&update, &values).await?;
    write_shards(transaction, &schema, wanted).await
}

async fn write_shards(
    transaction: &Transaction<'_>,
    schema: &str,
    wanted: &Installation,
) -> std::result::Result<(), tokio_postgres::Error> {
    for shard in (0..wanted.shards).map(ShardIndex) {
        let rows = format!(
            "insert into {schema}.shard (shard) values ({shard}) on conflict do nothing;
             insert into {schema}.lease (shard) values ({shard}) on conflict do nothing"
        );
        transaction.batch_execute(&rows).await?;
    }
    Ok(())
}

/// A user without the right learns the way that needs none.
fn lacks_right(error: tokio_postgres::Error, what: &str, schema: &str) -> Error {
    if error.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return failed(error);
    }
    let why = format!(
        "this user may not {what}: run this as the database's owner; or let the owner run what \
         `onecommit init --print-sql` prints, then `grant usage on schema {schema}` and `grant all on all \
         tables in schema {schema}` to this user, and run this again"
    );
    Error::new(ErrorKind::Configuration, OPERATION, why).caused_by(error)
}

fn failed(error: tokio_postgres::Error) -> Error {
    from_postgres(OPERATION, error)
}
