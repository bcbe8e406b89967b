//! The schema's numbered SQL files, in the binary.

/// Schema changes in order: file n brings version n - 1 to version n.
const CHANGES: &[&str] = &[include_str!("0001.sql"), include_str!("0002.sql")];
/// The version of the tables that this release makes.
pub const SCHEMA_VERSION: i32 = CHANGES.len() as i32;

/// The SQL that brings an outbox from version `from` (0: nothing there) to this release's, for
/// people who run their own migrations. Running it is not all that `init` does: WAL mode and the
/// row that names the installation come from `onecommit init`, which then finds the tables.
///
/// ```
/// assert!(onecommit::outbox::sqlite::print_sql(0).contains("create table onecommit_outbox"));
/// ```
pub fn print_sql(from: usize) -> String {
    CHANGES.iter().skip(from).copied().collect::<Vec<_>>().join("\n")
}
