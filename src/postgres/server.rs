//! What tells one database server, and one life of it, from another, in SQL.

/// The id that a cluster of databases is born with.
pub(crate) const SYSTEM: &str = "(select system_identifier::text from pg_control_system())";
/// The database's number in its cluster.
pub(crate) const DATABASE: &str = "(select oid::text from pg_database where datname = current_database())";
/// Another one after every failover. An error in recovery: there is none yet.
/// (`pg_control_checkpoint()` still shows the old one after a promotion.)
pub(crate) const TIMELINE: &str = "left(pg_walfile_name(pg_current_wal_lsn()), 8)";

/// Gives the server an id for this life where it has none. A crash empties the unlogged table, and nothing
/// else does: PostgreSQL recovers inside when one backend dies, with the same start time, and a pooler
/// hides even the lost connection.
pub(crate) fn fill_life(schema: &str) -> String {
    format!("insert into {schema}.server_life default values on conflict do nothing")
}
