//! Which life of which database answers, read and compared in the very statement that relies on it: an
//! open connection proves nothing, behind a pooler it may lead to another server each time.

use tokio_postgres::Row as Found;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::participant::Instance;
use crate::postgres::connect::Parameter;
use crate::postgres::failure::from_postgres;
use crate::postgres::server::{DATABASE, STARTED, SYSTEM, TIMELINE};
use crate::protocol::progress::DatabaseIdentity;

/// The columns of [`instance`], by which [`decode`] begins.
pub(super) const COLUMNS: &str =
    "instance.system, instance.database, instance.timeline, instance.started, instance.life";
/// How many those are.
pub(super) const WIDTH: usize = 5;
/// Holds where it is the instance of [`parameters`].
pub(super) const IS_SAME: &str = "instance.system = $1 and instance.database = $2 \
    and instance.timeline = $3 and instance.started = $4 and instance.life = $5";

/// The row of the instance that answers, to be named in `with`.
pub(super) fn instance(schema: &str) -> String {
    format!(
        "instance as (select {SYSTEM} as system, {DATABASE} as database, {TIMELINE} as timeline, \
         {STARTED} as started, (select id from {schema}.server_life) as life)"
    )
}

/// `$1` to `$5`.
pub(super) fn parameters(expected: &Instance) -> [Parameter<'_>; WIDTH] {
    let Instance { database, started, life } = expected;
    [
        (&database.system, Type::TEXT),
        (&database.database, Type::TEXT),
        (&database.timeline, Type::TEXT),
        (started, Type::TEXT),
        (life, Type::UUID),
    ]
}

/// Reads the instance from a row that begins with it.
pub(super) fn decode(operation: &'static str, row: &Found) -> Result<Instance> {
    let text = |index| get::<String>(operation, row, index);
    let database = DatabaseIdentity { system: text(0)?, database: text(1)?, timeline: Some(text(2)?) };
    // The next connection gives the new life its id.
    let life: Uuid = get::<Option<Uuid>>(operation, row, 4)?
        .ok_or_else(|| Error::new(ErrorKind::Unreachable, operation, "PostgreSQL crashed and came back"))?;
    Ok(Instance { database, started: text(3)?, life })
}

/// A column of a row.
pub(super) fn get<'a, T: FromSql<'a>>(operation: &'static str, row: &'a Found, index: usize) -> Result<T> {
    row.try_get(index).map_err(|error| from_postgres(operation, error))
}

/// The one row of a statement that always has one.
pub(super) fn only(operation: &'static str, rows: Vec<Found>) -> Result<Found> {
    let none = || Error::new(ErrorKind::Failed, operation, "PostgreSQL answered without a row");
    rows.into_iter().next().ok_or_else(none)
}
