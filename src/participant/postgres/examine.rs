//! What a person wants to know of a database that takes part before a transaction fails on it: read once,
//! judged elsewhere. Nothing is changed.

use tokio_postgres::Row as Found;
use tokio_postgres::types::Type;

use super::instance::{get, only};
use super::port::PostgresParticipant;
use crate::error::Result;
use crate::postgres::connect::Parameter;

const OPERATION: &str = "examine participant";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParticipantFacts {
    /// How many transactions are prepared on the server, and how many can be.
    pub prepared: (i64, i64),
    /// Most connections.
    pub connections_max: i64,
    /// `synchronous_standby_names`.
    pub synchronous_standbys: String,
    /// Standbys that are connected.
    pub standbys: i64,
    /// This login.
    pub role: String,
    /// Rights that coordinators need and that are missing: `UPDATE on onecommit.coordinator`.
    pub missing_rights: Vec<String>,
}

/// What coordinators and recovery do with each table.
const RIGHTS: [(&str, &[&str]); 3] = [
    ("installation", &["SELECT"]),
    ("server_life", &["SELECT", "INSERT"]),
    ("coordinator", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
];

impl PostgresParticipant {
    /// Looks at it.
    pub async fn examine(&self) -> Result<ParticipantFacts> {
        let (mut objects, mut rights) = (Vec::new(), Vec::new());
        for (table, needed) in RIGHTS {
            objects.extend(needed.iter().map(|_| format!("{}.{table}", self.schema)));
            rights.extend(needed.iter().map(|right| (*right).to_string()));
        }
        let parameters: [Parameter<'_>; 2] = [(&objects, Type::TEXT_ARRAY), (&rights, Type::TEXT_ARRAY)];
        // Every session that streams is listed, also to a role that may not see what it does.
        let sql = "select (select count(*) from pg_prepared_xacts),
                     current_setting('max_prepared_transactions')::bigint,
                     current_setting('max_connections')::bigint,
                     current_setting('synchronous_standby_names'),
                     (select count(*) from pg_stat_replication), current_user::text,
                     array(select r || ' on ' || o from unnest($1, $2) as needed(o, r)
                           where to_regclass(o) is not null and not has_table_privilege(o, r))";
        self.read(OPERATION, sql, &parameters, |rows| facts(&only(OPERATION, rows)?)).await
    }
}

fn facts(row: &Found) -> Result<ParticipantFacts> {
    Ok(ParticipantFacts {
        prepared: (get(OPERATION, row, 0)?, get(OPERATION, row, 1)?),
        connections_max: get(OPERATION, row, 2)?,
        synchronous_standbys: get(OPERATION, row, 3)?,
        standbys: get(OPERATION, row, 4)?,
        role: get(OPERATION, row, 5)?,
        missing_rights: get(OPERATION, row, 6)?,
    })
}
