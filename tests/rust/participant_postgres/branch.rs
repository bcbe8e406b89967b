//! What is said on the caller's connection, said for real.

use std::time::Duration;

use onecommit::id::{CoordinatorId, TransactionId};
use onecommit::participant::postgres::branch::{
    ASK, ROLL_BACK, Work, asked, began, begin, commit, committed, prepare, voted,
};
use onecommit::participant::{End, Ended, Isolation, Participant};
use onecommit::protocol::branch::BranchName;
use onecommit::protocol::fate::Fate;
use onecommit::protocol::transaction::{Committed, Vote};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{NEWEST, OLDEST, Place, USUAL, connect};
use crate::conformance_participant::{branch, end, fate, listed};
use crate::patience::{answered, until};

const LOCK_TIMEOUT: Duration = Duration::from_millis(1500);
const WRITE: &str = "insert into entry values ('written')";
const FAILED: &str = "25P02";

type Said = Result<Vec<Option<String>>, tokio_postgres::Error>;

/// Sends one message; its one row.
async fn say(client: &Client, sql: &str) -> Said {
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let rows: Vec<_> =
        rows.map(|row| (0..row.len()).map(|at| row.get(at).map(str::to_string)).collect()).collect();
    let [row] = rows.try_into().expect("one row");
    Ok(row)
}

fn code(said: Said) -> String {
    said.unwrap_err().code().unwrap().code().to_string()
}

/// A branch that was begun on the application's connection.
struct Branch {
    place: Place,
    name: BranchName,
}

impl Branch {
    async fn begun() -> Self {
        Branch::on(USUAL, Isolation::ReadCommitted).await
    }

    async fn on(variable: &str, isolation: Isolation) -> Self {
        let place = Place::on(variable).await;
        let name = branch(CoordinatorId::random(), 1);
        let sql = begin(name.transaction, isolation, LOCK_TIMEOUT);
        let found = began(&say(&place.client, &sql).await.unwrap()).unwrap();
        let instance = answered(async || place.participant.instance().await).await;
        assert_eq!((found.database, found.started), (instance.database.database, instance.started));
        assert_eq!((found.is_in_recovery, found.is_new), (false, true));
        Branch { place, name }
    }

    async fn say(&self, sql: &str) -> Said {
        say(&self.place.client, sql).await
    }

    async fn sql(&self, sql: &str) {
        self.place.sql(sql).await;
    }

    async fn show(&self, setting: &str) -> String {
        self.say(&format!("show {setting}")).await.unwrap().pop().unwrap().unwrap()
    }

    async fn ask(&self) -> Work {
        asked(self.name.transaction, &self.say(ASK).await.unwrap()).unwrap()
    }

    /// Writes; the transaction's number.
    async fn write(&self) -> u64 {
        self.sql(WRITE).await;
        match self.ask().await {
            Work::Wrote { xid, role } => {
                assert_eq!(role, "postgres");
                xid
            }
            other => panic!("{other:?}"),
        }
    }

    /// Breaks the transaction: the server will only roll it back.
    async fn fail(&self) {
        self.say("select 1 / 0").await.unwrap_err();
        assert_eq!(code(self.say(ASK).await), FAILED);
    }

    /// Waits for it: PostgreSQL tells of an error before it has rolled back.
    async fn rolled_back(&self, xid: u64) {
        let fate = async || self.place.participant.fate(xid).await;
        until("it is rolled back", fate, |(_, fate)| *fate == Fate::RolledBack).await;
        assert!(listed(&self.place.participant).await.is_empty());
    }

    async fn entries(&self) -> i64 {
        connect(&self.place.url).await.query_one("select count(*) from entry", &[]).await.unwrap().get(0)
    }
}

async fn a_branch_is_prepared_and_committed(variable: &str) {
    for isolation in [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable] {
        let branch = Branch::on(variable, isolation).await;
        assert_eq!(branch.show("transaction_isolation").await, isolation.as_str());
        assert_eq!(branch.show("lock_timeout").await, "1500ms");
        assert_eq!(branch.ask().await, Work::Read);
        let xid = branch.write().await;
        let position = "select (pg_current_wal_flush_lsn() - '0/0')::bigint";
        let before = branch.place.number(position).await;
        let vote = voted(&branch.say(&prepare(&branch.name, xid)).await.unwrap()).unwrap();
        let behind = branch.place.number(position).await;
        let Vote::Prepared { lsn } = vote else { panic!("{vote:?}") };
        assert!(before < lsn as i64 && lsn as i64 <= behind, "{before} {lsn} {behind}");

        assert_eq!(branch.show("lock_timeout").await, "0", "nothing is left in the session");
        let participant = &branch.place.participant;
        assert_eq!(listed(participant).await, [branch.name.to_string()]);
        assert_eq!(fate(participant, xid).await, Fate::InProgress);
        assert_eq!(branch.entries().await, 0);
        assert_eq!(end(participant, &branch.name, End::Commit).await, Ended::Now);
        assert_eq!(fate(participant, xid).await, Fate::Committed);
        assert_eq!(branch.entries().await, 1);
        branch.place.drop().await;
    }
}

#[tokio::test]
async fn a_branch_is_prepared_and_committed_in_every_isolation() {
    a_branch_is_prepared_and_committed(USUAL).await;
}

#[tokio::test]
async fn the_oldest_postgresql_prepares_and_commits_a_branch() {
    a_branch_is_prepared_and_committed(OLDEST).await;
}

#[tokio::test]
async fn the_newest_postgresql_prepares_and_commits_a_branch() {
    a_branch_is_prepared_and_committed(NEWEST).await;
}

#[tokio::test]
async fn one_branch_commits_by_itself() {
    let branch = Branch::begun().await;
    let xid = branch.write().await;
    assert_eq!(committed(&branch.say(&commit(xid)).await.unwrap()).unwrap(), Committed::Yes);
    assert_eq!(branch.entries().await, 1);
    assert_eq!(fate(&branch.place.participant, xid).await, Fate::Committed);
    branch.place.drop().await;
}

#[tokio::test]
async fn a_failed_transaction_votes_no() {
    let branch = Branch::begun().await;
    let xid = branch.write().await;
    branch.fail().await;
    let answer = branch.say(&prepare(&branch.name, xid)).await.expect("PREPARE answers without an error");
    assert_eq!(voted(&answer).unwrap(), Vote::RolledBack);
    assert!(listed(&branch.place.participant).await.is_empty());
    assert_eq!(branch.entries().await, 0);
    branch.place.drop().await;
}

#[tokio::test]
async fn a_failed_transaction_is_not_committed() {
    let branch = Branch::begun().await;
    let xid = branch.write().await;
    branch.fail().await;
    let answer = branch.say(&commit(xid)).await.expect("COMMIT answers without an error");
    assert_eq!(committed(&answer).unwrap(), Committed::No);
    assert_eq!(branch.entries().await, 0);
    branch.place.drop().await;
}

#[tokio::test]
async fn a_commit_that_fails_at_the_last_is_an_error_and_final() {
    let branch = Branch::begun().await;
    branch.sql("create table one (n int unique deferrable initially deferred)").await;
    branch.sql("insert into one values (1), (1)").await;
    let xid = branch.write().await;
    assert_eq!(code(branch.say(&commit(xid)).await), "23505");
    branch.rolled_back(xid).await;
    assert_eq!(branch.entries().await, 0);
    branch.place.drop().await;
}

#[tokio::test]
async fn a_branch_that_was_rolled_back_is_gone() {
    let branch = Branch::begun().await;
    let xid = branch.write().await;
    branch.sql(ROLL_BACK).await;
    assert_eq!(fate(&branch.place.participant, xid).await, Fate::RolledBack);
    assert_eq!(branch.ask().await, Work::EndedElsewhere);
    branch.place.drop().await;
}

#[tokio::test]
async fn a_transaction_that_was_ended_inside_is_noticed() {
    let ends = ["commit", "rollback", "commit; begin", "rollback; begin", "commit and chain"];
    for ended in ends.into_iter().chain(["prepare transaction 'mine'"]) {
        let branch = Branch::begun().await;
        branch.sql(&format!("{WRITE}; {ended}")).await;
        branch.sql(WRITE).await;
        assert_eq!(branch.ask().await, Work::EndedElsewhere, "{ended}");
        branch.sql("rollback").await;
        if ended.starts_with("prepare") {
            branch.sql("rollback prepared 'mine'").await;
        }
        branch.place.drop().await;
    }
    let branch = Branch::begun().await;
    let other = TransactionId { number: 2, ..branch.name.transaction };
    branch.sql("rollback").await;
    branch.say(&begin(other, Isolation::ReadCommitted, LOCK_TIMEOUT)).await.unwrap();
    assert_eq!(branch.ask().await, Work::EndedElsewhere, "another transaction of ours");
    branch.sql("rollback").await;
    branch.place.drop().await;
}

#[tokio::test]
async fn savepoints_and_roles_are_the_callers_own() {
    let branch = Branch::begun().await;
    branch.sql("savepoint a; insert into entry values ('undone'); rollback to a").await;
    assert!(matches!(branch.ask().await, Work::Wrote { .. }), "it has a number");
    branch.sql("savepoint b; set local role pg_read_all_data").await;
    let Work::Wrote { xid, role } = branch.ask().await else { panic!("it has a number") };
    assert_eq!(role, "pg_read_all_data");
    branch.sql("rollback to b").await;
    assert_eq!(branch.write().await, xid);
    assert_eq!(committed(&branch.say(&commit(xid)).await.unwrap()).unwrap(), Committed::Yes);
    assert_eq!(branch.entries().await, 1);
    branch.place.drop().await;
}

#[tokio::test]
async fn a_branch_that_only_reads_has_no_number() {
    let branch = Branch::begun().await;
    branch
        .sql("select * from entry; select pg_advisory_xact_lock(1); lock table entry in exclusive mode")
        .await;
    assert_eq!(branch.ask().await, Work::Read);
    branch.sql("rollback").await;
    branch.place.drop().await;
}

#[tokio::test]
async fn a_commit_waits_for_its_flush_and_is_never_made_to_wait_for_less() {
    let branch = Branch::begun().await;
    branch.sql("rollback").await;
    let raised = [("off", "on"), ("local", "on")];
    let kept = ["remote_write", "on", "remote_apply"].map(|setting| (setting, setting));
    for (setting, wanted) in raised.into_iter().chain(kept) {
        branch.sql(&format!("set synchronous_commit = {setting}")).await;
        let sql = begin(branch.name.transaction, Isolation::ReadCommitted, LOCK_TIMEOUT);
        branch.say(&sql).await.unwrap();
        assert_eq!(branch.show("synchronous_commit").await, wanted, "{setting}");
        branch.sql("rollback").await;
        assert_eq!(branch.show("synchronous_commit").await, setting, "the session keeps its own");
    }
    branch.place.drop().await;
}

#[tokio::test]
async fn what_can_not_be_prepared_is_an_error_and_rolled_back() {
    let cases = [
        ("create temp table mine (n int)", "0A000", "temporary objects"),
        ("listen somebody", "0A000", "LISTEN, UNLISTEN, or NOTIFY"),
        ("notify somebody", "0A000", "LISTEN, UNLISTEN, or NOTIFY"),
        ("declare held cursor with hold for select 1", "0A000", "WITH HOLD"),
        ("select pg_export_snapshot()", "0A000", "exported snapshots"),
    ];
    for (done, wanted, said) in cases {
        let branch = Branch::begun().await;
        branch.sql(done).await;
        let xid = branch.write().await;
        let error = branch.say(&prepare(&branch.name, xid)).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), wanted, "{done}: {error}");
        assert!(error.message().contains(said), "{done}: {error}");
        branch.rolled_back(xid).await;
        branch.place.drop().await;
    }
}

#[tokio::test]
async fn a_name_that_is_taken_is_an_error() {
    let branch = Branch::begun().await;
    let xid = branch.write().await;
    let other = connect(&branch.place.url).await;
    let taken = format!("begin; {WRITE}; prepare transaction '{}'", branch.name);
    other.batch_execute(&taken).await.unwrap();
    assert_eq!(code(branch.say(&prepare(&branch.name, xid)).await), "42710");
    assert_eq!(end(&branch.place.participant, &branch.name, End::RollBack).await, Ended::Now);
    branch.place.drop().await;
}
