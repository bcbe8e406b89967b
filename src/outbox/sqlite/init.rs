//! `init`: makes the tables, or checks that those found are what this release reads.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::schema::{SCHEMA_VERSION, print_sql};
use crate::error::{Error, ErrorKind, Result};
use crate::failpoint;
use crate::id::{Incarnation, ShardIndex};
use crate::outbox::{Installation, SCHEMA_VERSION_OLDEST, check_version};
use crate::sqlite::failure::from_sqlite;
use crate::sqlite::{begin, commit, enter_wal, open_existing, open_or_create};

const OPERATION: &str = "init outbox";
/// The one shard: a single writer leaves nothing to share out.
pub(super) const SHARD: ShardIndex = ShardIndex(0);

/// What an outbox says of itself, its own id, and the version of its tables.
pub(super) struct Found {
    pub(super) installation: Installation,
    pub(super) id: Uuid,
    pub(super) version: i32,
}

/// Makes what is missing; returns what is written there now.
pub(super) fn init(path: &Path, busy: Duration, wanted: &Installation) -> Result<Installation> {
    if wanted.shards != 1 {
        let why = "an outbox in SQLite has one shard, because SQLite has one writer: leave `shards` out";
        return Err(Error::new(ErrorKind::Configuration, OPERATION, why)
            .with("participant", &wanted.participant)
            .with("shards", wanted.shards));
    }
    let mut connection = open_or_create(path, busy, OPERATION)?;
    enter_wal(&connection, path, busy, OPERATION)?;
    let transaction = begin(&mut connection, OPERATION)?;
    let version = version(&transaction)?;
    if version < SCHEMA_VERSION {
        transaction.execute_batch(&print_sql(version as usize)).map_err(failed)?;
    }
    let found = match read(&transaction)? {
        Some(found) => found.installation,
        None => {
            write(&transaction, wanted).map_err(failed)?;
            wanted.clone()
        }
    };
    failpoint!("init.outbox.before_commit")?;
    commit(transaction, OPERATION)?;
    failpoint!("init.outbox.after_commit")?;
    Ok(found)
}

/// What an earlier `init` wrote, None where there is nothing, not even the file.
pub(super) fn found(path: &Path, busy: Duration) -> Result<Option<Installation>> {
    if !path.try_exists().unwrap_or(true) {
        return Ok(None);
    }
    let connection = open_existing(path, busy, "read installation")?;
    if !has_table(&connection, "onecommit_installation")? {
        return Ok(None);
    }
    Ok(read(&connection)?.map(|found| found.installation))
}

/// Opens an outbox and checks what its reader relies on.
pub(super) fn open(path: &Path, busy: Duration) -> Result<(Connection, Found)> {
    const OPERATION: &str = "open outbox";
    let refuse = |kind, why| Error::new(kind, OPERATION, why).with("file", path.display());
    let not_there = "the outbox is not set up in this file: run `onecommit init`";
    if !path.try_exists().unwrap_or(true) {
        return Err(refuse(ErrorKind::Configuration, not_there));
    }
    let connection = open_existing(path, busy, OPERATION)?;
    let tables = has_table(&connection, "onecommit_installation");
    let tables = tables.map_err(|error| error.with("file", path.display()))?;
    let found = if tables { read(&connection)? } else { None };
    let found = found.ok_or_else(|| refuse(ErrorKind::Configuration, not_there))?;
    let pragma = "pragma journal_mode";
    let mode: String = connection.query_row(pragma, (), |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        let why = "the file has left WAL mode, and readers and writers would block each other: \
                   run `onecommit init` again, and remove what sets `journal_mode`";
        return Err(refuse(ErrorKind::Configuration, why).with("journal_mode", mode));
    }
    let sql = "select coalesce(sql, '') from sqlite_master where name = 'onecommit_outbox'";
    let sql: String = connection.query_row(sql, (), |row| row.get(0)).map_err(failed)?;
    if !sql.to_ascii_lowercase().contains("autoincrement") {
        let why = "the table onecommit_outbox was changed by hand: its id must be `integer primary key \
                   autoincrement`, otherwise ids come again and messages are never delivered";
        return Err(refuse(ErrorKind::Refused, why));
    }
    Ok((connection, found))
}

/// The version of the tables, 0 where there are none. Those that a person made, by an earlier
/// release's SQL perhaps, name none before `init` has written into them.
fn version(connection: &Connection) -> Result<i32> {
    if !has_table(connection, "onecommit_installation")? {
        return Ok(0);
    }
    match read(connection)? {
        Some(found) => Ok(found.version),
        None if has_table(connection, "onecommit_set_aside")? => Ok(SCHEMA_VERSION),
        None => Ok(SCHEMA_VERSION_OLDEST),
    }
}

fn has_table(connection: &Connection, table: &str) -> Result<bool> {
    let sql = "select exists (select 1 from sqlite_master where name = ?1)";
    connection.query_row(sql, [table], |row| row.get(0)).map_err(failed)
}

/// Reads the installation, through any connection.
pub(super) fn read(connection: &Connection) -> Result<Option<Found>> {
    const OPERATION: &str = "read installation";
    let failed = |error| from_sqlite(OPERATION, error);
    let sql = "select schema_version from onecommit_installation";
    let version: Option<i32> = connection.query_row(sql, (), |row| row.get(0)).optional().map_err(failed)?;
    let Some(version) = version else { return Ok(None) };
    check_version(version, SCHEMA_VERSION)?;
    let sql = "select outbox_id, incarnation, namespace, participant, shards, hash_version, delivery_id
               from onecommit_installation";
    let raw = connection.query_row(sql, (), |row| {
        let ids: (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let names: (String, String) = (row.get(2)?, row.get(3)?);
        let numbers: (i64, i64) = (row.get(4)?, row.get(5)?);
        Ok((ids, names, numbers, row.get::<_, String>(6)?))
    });
    let (ids, names, numbers, delivery_id) = raw.map_err(failed)?;
    let damaged = |what| {
        let why = "a value is not what `init` writes: undo what was changed by hand";
        Error::new(ErrorKind::Refused, OPERATION, why).with("column", what)
    };
    let no_name = |what| move |error: Error| damaged(what).caused_by(error);
    let outbox_id = Uuid::from_slice(&ids.0).map_err(|_| damaged("outbox_id"))?;
    let installation = Installation {
        incarnation: Incarnation(Uuid::from_slice(&ids.1).map_err(|_| damaged("incarnation"))?),
        namespace: names.0.parse().map_err(no_name("namespace"))?,
        participant: names.1.parse().map_err(no_name("participant"))?,
        shards: if numbers.0 == 1 { 1 } else { return Err(damaged("shards")) },
        hash_version: u8::try_from(numbers.1).map_err(|_| damaged("hash_version"))?,
        delivery_id,
    };
    Ok(Some(Found { installation, id: outbox_id, version }))
}

fn write(connection: &Connection, wanted: &Installation) -> rusqlite::Result<()> {
    let insert = "insert into onecommit_installation (schema_version, outbox_id, incarnation, namespace, \
                  participant, shards, hash_version, delivery_id) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    connection.execute(
        insert,
        params![
            SCHEMA_VERSION,
            Uuid::new_v4().as_bytes().as_slice(),
            wanted.incarnation.0.as_bytes().as_slice(),
            wanted.namespace.as_str(),
            wanted.participant.as_str(),
            wanted.shards,
            wanted.hash_version,
            wanted.delivery_id
        ],
    )?;
    connection.execute("insert or ignore into onecommit_shard (shard) values (?1)", [SHARD.0])?;
    Ok(())
}

fn failed(error: rusqlite::Error) -> Error {
    from_sqlite(OPERATION, error)
}
