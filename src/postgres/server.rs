//! What tells one database server, and one life of it, from another, in SQL.

/// The id that a cluster of databases is born with.
pub(crate) const SYSTEM: &str = "(select system_identifier::text from pg_control_system())";
/// The database's number in its cluster: the folder of its own catalog, whichever tablespace that is in. A
/// look into `pg_database` says the same and takes twenty times as long.
pub(crate) const DATABASE: &str = "substring(pg_relation_filepath(1259) from '([0-9]+)/[0-9]+$')";
/// Another one after every failover. An error in recovery: there is none yet.
/// (`pg_control_checkpoint()` still shows the old one after a promotion.)
pub(crate) const TIMELINE: &str = "left(pg_walfile_name(pg_current_wal_lsn()), 8)";

/// When it was started, spelled without a setting of the session.
pub(crate) const STARTED: &str =
    "to_char(pg_postmaster_start_time() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

/// Gives the server an id for this life where it has none. A crash empties the unlogged table, and nothing
/// else does: PostgreSQL recovers inside when one backend dies, with the same start time, and a pooler
/// hides even the lost connection.
pub(crate) fn fill_life(schema: &str) -> String {
    format!("insert into {schema}.server_life default values on conflict do nothing")
}
