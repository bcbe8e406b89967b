//! The SQL that a transaction says on the caller's connections, read as far as the world needs it. What is
//! not known stops the run: the product says something new, and the world has to learn it.

use onecommit::id::TransactionId;
use onecommit::participant::postgres::branch::ASK;
use onecommit::protocol::branch::BranchName;

/// One message of the product's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    Begin(TransactionId),
    /// With how many messages before it, which are written in this transaction only; None where they are
    /// written in any, or in one of their own.
    Ask(u32, Option<TransactionId>),
    Prepare(BranchName, u64),
    Commit(u64),
    CommitReader,
    RollBack,
}

impl Statement {
    pub fn read(sql: &str) -> Self {
        Statement::find(sql).unwrap_or_else(|| panic!("the world does not know: {sql}"))
    }

    fn find(sql: &str) -> Option<Self> {
        Some(match sql {
            "commit" => Statement::CommitReader,
            "rollback" => Statement::RollBack,
            _ if sql.starts_with("begin ") => {
                Statement::Begin(quoted(sql.split_once("set_config('onecommit.tx', ")?.1)?.parse().ok()?)
            }
            _ if sql.starts_with("prepare transaction ") => {
                Statement::Prepare(BranchName::parse(quoted(sql)?)?, number(sql)?)
            }
            _ if sql.starts_with("commit; ") => Statement::Commit(number(sql)?),
            _ if sql == ASK => Statement::Ask(0, None),
            _ => {
                let insert = sql.strip_suffix(ASK)?.strip_suffix("; ")?.strip_prefix("insert into ")?;
                let only_in = insert.split_once(" where current_setting('onecommit.tx', true) = ");
                let only_in = only_in.and_then(|(_, id)| quoted(id)?.parse().ok());
                Statement::Ask(insert.matches("E'paid'").count() as u32, only_in)
            }
        })
    }
}

fn quoted(sql: &str) -> Option<&str> {
    sql.split('\'').nth(1)
}

/// The one of which the status is asked.
fn number(sql: &str) -> Option<u64> {
    quoted(sql.split_once("pg_xact_status(")?.1)?.parse().ok()
}
