//! What is said on the caller's own connection, which may be anybody's driver: the SQL, each text one
//! message of the simple query protocol, so that a pooler in transaction mode can't take it apart; and
//! the reading of its answer, the one row that each of them returns. An error instead of a row, and a
//! connection that is lost, are for whoever has the connection to judge.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::id::TransactionId;
use crate::participant::Isolation;
use crate::postgres::literal;
use crate::postgres::server::{CATALOG, STARTED, database_of};
use crate::protocol::branch::BranchName;
use crate::protocol::fate::Fate;
use crate::protocol::transaction::{Committed, Vote};

/// Asks what the branch did: [`asked`]. In a failed transaction it is an error, 25P02.
pub const ASK: &str =
    "select current_setting('onecommit.tx', true), pg_current_xact_id_if_assigned(), current_user";

/// Rolls the branch back. Without a row.
pub const ROLL_BACK: &str = "rollback";

/// A row in the text format.
pub type TextRow<'a> = &'a [Option<String>];

/// Where a branch has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Began {
    /// The database's number in its cluster, and when its server was started. Whoever knows an instance
    /// knows by these whether it is the same one: no two servers that have a database of one number were
    /// started in the same microsecond, and a server that is no standby gets another timeline by a start only.
    pub database: String,
    /// See `database`.
    pub started: String,
    /// Whether it is a standby, on which nothing can be prepared.
    pub is_in_recovery: bool,
    /// Whether this very message began the transaction: PostgreSQL only warns where one is open.
    pub is_new: bool,
}

/// What a branch did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// It has no transaction number: it wrote nothing.
    Read,
    /// It wrote.
    Wrote {
        /// The server's number of the transaction.
        xid: u64,
        /// Under this role, which alone, beside a superuser, may end it once it is prepared.
        role: String,
    },
    /// The transaction that was begun there is not open any more.
    EndedElsewhere,
}

/// Begins a branch: [`began`]. By its last statement, which tells where, a transaction of `repeatable
/// read` or above has its snapshot. The commit is made to wait for its flush: without, it was seen by
/// others and gone after a crash; one that waits for standbys, too, stays.
///
/// Every transaction pays for this in each database. So its answer is taken apart by the reader: by the server it
/// took half as long again.
pub fn begin(transaction: TransactionId, isolation: Isolation, lock_timeout: Duration) -> String {
    let id = literal(&transaction.to_string());
    // 0 would be no limit at all.
    let ms = lock_timeout.as_millis().clamp(1, i32::MAX as u128);
    format!(
        "begin isolation level {isolation}; select {CATALOG}, {STARTED}, pg_is_in_recovery(), \
         now() = statement_timestamp(), set_config('onecommit.tx', {id}, true), \
         set_config('lock_timeout', '{ms}', true), \
         case when current_setting('synchronous_commit') in ('off', 'local') \
         then set_config('synchronous_commit', 'on', true) end"
    )
}

/// Reads the answer to [`begin`].
pub fn began(row: TextRow<'_>) -> Result<Began> {
    let malformed = || malformed("begin branch", row);
    let [Some(catalog), Some(started), Some(recovery), Some(new), _id, _limit, _synchronous] = row else {
        return Err(malformed());
    };
    Ok(Began {
        database: database_of(catalog).ok_or_else(malformed)?.to_string(),
        started: started.clone(),
        is_in_recovery: recovery == "t",
        is_new: new == "t",
    })
}

/// Reads the answer to [`ASK`]. The setting is gone as soon as somebody has ended the transaction.
pub fn asked(transaction: TransactionId, row: TextRow<'_>) -> Result<Work> {
    let [found, xid, Some(role)] = row else { return Err(malformed("ask branch", row)) };
    if found.as_deref() != Some(&transaction.to_string()) {
        return Ok(Work::EndedElsewhere);
    }
    match xid.as_deref().map(str::parse) {
        None => Ok(Work::Read),
        Some(Ok(xid)) => Ok(Work::Wrote { xid, role: role.clone() }),
        Some(Err(_)) => Err(malformed("ask branch", row)),
    }
}

/// Prepares a branch: [`voted`].
pub fn prepare(name: &BranchName, xid: u64) -> String {
    let name = literal(&name.to_string());
    format!("prepare transaction {name}; select pg_current_wal_flush_lsn(), pg_xact_status('{xid}')")
}

/// Reads the vote. On a failed transaction PREPARE is answered without an error, and has rolled it back;
/// only the number's status tells.
pub fn voted(row: TextRow<'_>) -> Result<Vote> {
    const OPERATION: &str = "prepare branch";
    let [Some(lsn), status] = row else { return Err(malformed(OPERATION, row)) };
    let lsn = parse_lsn(lsn).ok_or_else(|| malformed(OPERATION, row))?;
    Ok(match fate(OPERATION, status.as_deref())? {
        Fate::InProgress => Vote::Prepared { lsn },
        Fate::RolledBack => Vote::RolledBack,
        Fate::Committed | Fate::Unknown => Vote::Unknown,
    })
}

/// Commits a branch, which decides: [`committed`].
pub fn commit(xid: u64) -> String {
    format!("commit; select pg_xact_status('{xid}')")
}

/// Reads what came of it. On a failed transaction COMMIT is answered without an error, too.
pub fn committed(row: TextRow<'_>) -> Result<Committed> {
    const OPERATION: &str = "commit branch";
    let [status] = row else { return Err(malformed(OPERATION, row)) };
    Ok(match fate(OPERATION, status.as_deref())? {
        Fate::Committed => Committed::Yes,
        Fate::RolledBack => Committed::No,
        Fate::InProgress | Fate::Unknown => Committed::Unknown,
    })
}

/// What `pg_xact_status` says.
pub(super) fn fate(operation: &'static str, status: Option<&str>) -> Result<Fate> {
    match status {
        Some("in progress") => Ok(Fate::InProgress),
        Some("committed") => Ok(Fate::Committed),
        Some("aborted") => Ok(Fate::RolledBack),
        None => Ok(Fate::Unknown),
        Some(other) => {
            let why = "PostgreSQL tells a transaction's status by a word that this release does not know";
            Err(Error::new(ErrorKind::Failed, operation, why).with("status", other))
        }
    }
}

/// A position in the log, `16/B374D848`.
pub(super) fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let half = |digits: &str| u32::from_str_radix(digits, 16).ok().map(u64::from);
    Some(half(high)? << 32 | half(low)?)
}

fn malformed(operation: &'static str, row: TextRow<'_>) -> Error {
    let why = "PostgreSQL's answer is not the one that this statement has";
    Error::new(ErrorKind::Failed, operation, why).with("answer", format!("{row:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::CoordinatorId;

    fn row(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|value| (*value != "-").then(|| value.to_string())).collect()
    }

    #[test]
    fn a_vote_counts_only_while_the_number_is_in_progress() {
        let voted = |status| voted(&row(&["16/B374D848", status])).unwrap();
        assert_eq!(voted("in progress"), Vote::Prepared { lsn: 0x16_B374_D848 });
        assert_eq!(voted("aborted"), Vote::RolledBack);
        assert_eq!(voted("committed"), Vote::Unknown, "somebody has ended it since");
        assert_eq!(voted("-"), Vote::Unknown);
    }

    #[test]
    fn a_commit_counts_only_by_the_numbers_status() {
        let committed = |status| committed(&row(&[status])).unwrap();
        assert_eq!(committed("committed"), Committed::Yes);
        assert_eq!(committed("aborted"), Committed::No);
        assert_eq!(committed("in progress"), Committed::Unknown);
        assert_eq!(committed("-"), Committed::Unknown);
    }

    #[test]
    fn only_the_transaction_that_was_begun_counts() {
        let transaction = TransactionId { coordinator: CoordinatorId::random(), number: 7 };
        let (ours, others) =
            (transaction.to_string(), TransactionId { number: 8, ..transaction }.to_string());
        let asked = |mark: &str, xid| asked(transaction, &row(&[mark, xid, "app"])).unwrap();
        assert_eq!(asked(&ours, "-"), Work::Read);
        assert_eq!(asked(&ours, "4294967299"), Work::Wrote { xid: 4294967299, role: "app".to_string() });
        for other in ["", "-", &others] {
            assert_eq!(asked(other, "9"), Work::EndedElsewhere);
        }
    }

    #[test]
    fn answers_that_can_not_be_are_errors() {
        let transaction = TransactionId { coordinator: CoordinatorId::random(), number: 7 };
        let ours = transaction.to_string();
        let began = |catalog| began(&row(&[catalog, "5", "f", "t", &ours, "30000ms", "-"]));
        assert_eq!(began("base/5/1259").unwrap().database, "5");
        for wrong in ["-", "5", "base/x/1259"] {
            assert!(began(wrong).is_err(), "{wrong}");
        }
        for wrong in [row(&[]), row(&["base/5/1259"]), row(&["base/5/1259", "5", "f", "t", "-"])] {
            assert!(super::began(&wrong).is_err());
        }
        for wrong in [row(&[]), row(&[&ours, "5", "-"]), row(&[&ours, "x", "app"])] {
            assert!(asked(transaction, &wrong).is_err());
        }
        for lsn in ["-", "", "16", "16/", "/B3", "16/B374D8480", "x/1", "-1/1"] {
            assert!(voted(&row(&[lsn, "in progress"])).is_err(), "{lsn}");
        }
        assert!(voted(&row(&["0/1", "prepared"])).is_err());
        assert!(committed(&row(&[])).is_err());
    }

    #[test]
    fn a_wait_for_a_lock_is_always_limited() {
        let transaction = TransactionId { coordinator: CoordinatorId::random(), number: 7 };
        let begin = |limit| begin(transaction, Isolation::Serializable, limit);
        assert!(begin(Duration::ZERO).contains("set_config('lock_timeout', '1', true)"));
        assert!(begin(Duration::MAX).contains("set_config('lock_timeout', '2147483647', true)"));
        assert!(begin(Duration::ZERO).starts_with("begin isolation level serializable;"));
    }
}
