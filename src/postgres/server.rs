//! What tells one database server, and one life of it, from another, in SQL.

/// The id that a cluster of databases is born with.
pub(crate) const SYSTEM: &str = "(select system_identifier::text from pg_control_system())";
/// The database's number in its cluster: the folder of its own catalog. A look into `pg_database` says the same
/// and takes twenty times as long.
pub(crate) const DATABASE: &str = "substring(pg_relation_filepath(1259) from '([0-9]+)/[0-9]+$')";
/// Where that catalog is, of which [`database_of`] reads the same: taken apart here it takes the server less.
pub(crate) const CATALOG: &str = "pg_relation_filepath(1259)";
/// Another one after every failover. An error in recovery: there is none yet.
/// (`pg_control_checkpoint()` still shows the old one after a promotion.)
pub(crate) const TIMELINE: &str = "left(pg_walfile_name(pg_current_wal_lsn()), 8)";

/// When it was started, spelled without a setting of the session.
pub(crate) const STARTED: &str =
    "to_char(pg_postmaster_start_time() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

/// The database whose catalog is at this path, `base/16384/1259`, or in whichever tablespace.
pub(crate) fn database_of(catalog: &str) -> Option<&str> {
    let (folder, _) = catalog.rsplit_once('/')?;
    let (_, database) = folder.rsplit_once('/')?;
    Some(database).filter(|digits| digits.parse::<u32>().is_ok())
}

/// Gives the server an id for this life where it has none. A crash empties the unlogged table, and nothing
/// else does: PostgreSQL recovers inside when one backend dies, with the same start time, and a pooler
/// hides even the lost connection.
pub(crate) fn fill_life(schema: &str) -> String {
    format!("insert into {schema}.server_life default values on conflict do nothing")
}

#[cfg(test)]
mod tests {
    use super::database_of;

    #[test]
    fn a_database_is_known_by_the_folder_of_its_catalog() {
        assert_eq!(database_of("base/16384/1259"), Some("16384"));
        assert_eq!(database_of("pg_tblspc/16400/PG_15_202209061/16384/1259"), Some("16384"));
        for wrong in ["", "1259", "16384/1259", "base/x/1259", "base//1259"] {
            assert_eq!(database_of(wrong), None, "{wrong}");
        }
    }
}
