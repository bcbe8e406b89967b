//! The history rows, in SQL. A row is written only in the instance that is meant, compared in the
//! statement that writes it.

use tokio_postgres::Row as Found;

use super::instance::{self, COLUMNS, IS_SAME, WIDTH, get};
use crate::error::{Error, ErrorKind, Result};
use crate::participant::{Instance, Marked};
use crate::protocol::history::Row;

/// An id that no coordinator has, as theirs are random.
const LOCKS: uuid::Uuid = uuid::Uuid::nil();

/// Makes a row, unless there is one.
pub(super) fn open(schema: &str) -> String {
    format!("insert into {schema}.coordinator (id) values ($1) on conflict do nothing returning id")
}

/// Reads the instance and, if it is there, the row.
pub(super) fn read(schema: &str) -> String {
    let instance = instance::instance(schema);
    format!(
        "with {instance} select {COLUMNS}, r.mark, r.closed
         from instance left join {schema}.coordinator r on r.id = $1"
    )
}

/// Writes the mark `$7` into the row `$6` that has one of `$8`, and reads the instance, the row as it was
/// before, and whether it was written.
pub(super) fn mark(schema: &str) -> String {
    let instance = instance::instance(schema);
    format!(
        "with {instance}, written as (
           update {schema}.coordinator r set mark = $7 from instance
           where r.id = $6 and r.mark = any($8) and not r.closed and {IS_SAME} returning r.id)
         select {COLUMNS}, r.mark, r.closed, exists (select from written)
         from instance left join {schema}.coordinator r on r.id = $6"
    )
}

/// Closes the row `$6`, or makes a closed one: the owner's late INSERT is in conflict with it.
pub(super) fn close(schema: &str) -> String {
    let instance = instance::instance(schema);
    format!(
        "with {instance}, closed as (
           insert into {schema}.coordinator as r (id, closed, closed_at)
           select $6, true, clock_timestamp() from instance where {IS_SAME}
           on conflict (id) do update
           set closed = true, closed_at = coalesce(r.closed_at, excluded.closed_at)
           returning r.id)
         select {COLUMNS}, exists (select from closed) from instance"
    )
}

/// Removes rows that were closed more than `$1` days ago.
pub(super) fn forget(schema: &str) -> String {
    format!(
        "delete from {schema}.coordinator where closed and now() - closed_at > make_interval(days => $1)
         returning id"
    )
}

/// Reads how high numbers of locks were: the mark of a row that is no coordinator's, and is never closed.
pub(super) fn lock_floor(schema: &str) -> String {
    format!("select mark from {schema}.coordinator where id = '{LOCKS}'")
}

/// Raises it to `$1`.
pub(super) fn raise_lock_floor(schema: &str) -> String {
    format!(
        "insert into {schema}.coordinator as r (id, mark) values ('{LOCKS}', $1)
         on conflict (id) do update set mark = greatest(r.mark, excluded.mark) returning id"
    )
}

/// Forgets it. For a person: the configuration takes no schema whose name would need its quotes.
pub(super) fn forget_lock_floor(schema: &str) -> String {
    format!("delete from {}.coordinator where id = '{LOCKS}'", schema.trim_matches('"'))
}

/// Reads the row behind the instance, None where there is none.
pub(super) fn decode(operation: &'static str, found: &Found) -> Result<Option<Row>> {
    let mark: Option<i64> = get(operation, found, WIDTH)?;
    let Some(mark) = mark else { return Ok(None) };
    let mark = u64::try_from(mark).map_err(|_| {
        let why = "a row is not what coordinators write into the table coordinator: undo what was changed by \
                   hand";
        Error::new(ErrorKind::Refused, operation, why).with("mark", mark)
    })?;
    Ok(Some(Row { mark, is_closed: get(operation, found, WIDTH + 1)? }))
}

/// What came of [`mark`], for the instance and the marks that were expected.
pub(super) fn decode_marked(
    operation: &'static str,
    found: &Found,
    instance: &Instance,
    expected: &[u64],
) -> Result<Marked> {
    let answering = instance::decode(operation, found)?;
    if answering != *instance {
        return Ok(Marked::OtherInstance(answering));
    }
    if get(operation, found, WIDTH + 2)? {
        return Ok(Marked::Written);
    }
    match decode(operation, found)? {
        // As it was when the statement began; the statement then waited for another's, which changed it.
        Some(row) if !row.is_closed && expected.contains(&row.mark) => {
            let why = "the history row was changed at the same time";
            Err(Error::new(ErrorKind::Unreachable, operation, why))
        }
        row => Ok(Marked::Lost(row)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_the_table_by_the_name_that_the_configuration_has() {
        let sql = "delete from shop.coordinator where id = '00000000-0000-0000-0000-000000000000'";
        assert_eq!(forget_lock_floor(&crate::postgres::quoted("shop")), sql);
    }
}
