//! The schema's numbered SQL files, in the binary.

use crate::postgres::quoted;

/// The schema's name unless configured otherwise.
pub(crate) const DEFAULT_SCHEMA: &str = "onecommit";

/// Schema changes in order: file n brings version n - 1 to version n.
const CHANGES: &[&str] = &[include_str!("0001.sql"), include_str!("0002.sql"), include_str!("0003.sql")];
/// The version of the tables that this release makes.
pub const SCHEMA_VERSION: i32 = CHANGES.len() as i32;

/// The SQL that brings an outbox from version `from` (0: nothing there) to this release's, for
/// people who run their own migrations. Running it is not all that `init` does: the rows that name
/// the installation are written by `onecommit init` alone, which then finds the tables.
///
/// ```
/// let sql = onecommit::outbox::postgres::print_sql("onecommit", 0);
/// assert!(sql.contains(r#"create table "onecommit".outbox"#));
/// ```
pub fn print_sql(schema: &str, from: usize) -> String {
    let changes: Vec<String> =
        CHANGES.iter().skip(from).map(|text| text.replace("{schema}", &quoted(schema))).collect();
    changes.join("\n")
}
