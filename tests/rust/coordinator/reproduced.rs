//! Failures that were reproduced on real servers before there was a coordinator, each of which a rule of its
//! answers. Those that no other module tests are tested here; where each one is tested:
//!
//! | what went wrong | test |
//! |---|---|
//! | Row locks crosswise in two databases were seen by neither. | `row_locks_crosswise_…` |
//! | A COMMIT with `synchronous_commit = off` was seen by others, and gone after a crash. | `what_was_told_committed_…` |
//! | A PREPARE with `local` returned at once while the synchronous standby was away. | `a_prepare_waits_…` |
//! | A branch was committed or rolled back inside the block. | `a_branch_that_is_ended_inside_…` |
//! | A branch could be ended by nobody but the role that prepared it. | `a_role_that_we_can_not_take_…` |
//! | A branch without a number held a lock of the transaction. | `a_branch_that_only_holds_a_lock_…` |
//! | PREPARE on a failed transaction was answered without an error. | `participant_postgres::branch::a_failed_transaction_votes_no` |
//! | A batch that was missing failed the whole request. | `conformance_decision_log::batches_are_deleted_with_the_request_or_not_at_all` |
//! | A crash handed the number of a transaction to a stranger. | `one_phase::a_number_that_a_crash_hands_to_a_stranger_proves_nothing` |
//! | The control file had the old timeline behind a promotion. | `participant_postgres::timelines::behind_a_promotion_…` |
//! | A PREPARE landed behind the ROLLBACK PREPARED that did not find it. | `a_prepare_that_lands_…` |
//! | Fenced in one session and read in another, a decision was missed. | A port's session takes over and reads in one call (`take_over`), and what was taken over ends with it: `crash::every_step_of_a_recovery_from_zookeeper` |
//! | A standby listed no prepared transaction at all. | `failover::a_standby_lists_no_branch_and_is_waited_for` |
//! | A failover or a restored copy showed branches again whose decision was gone. | `failover::a_branch_that_is_prepared_again_…` (two), `recovery::where_a_participant_has_lost_history_…` |
//! | A ZooKeeper that was restored had older records than the databases. | `where_the_decision_log_is_older_…` |
//! | Who rolled back what is in no record tore a transaction. | `recovery::of_branches_without_a_record_…` |
//! | 64 that wait for a prepared row used up the pool that would have freed them. | `what_64_wait_for_…` |
//! | `flock` lived on in a forked child, `fcntl` was lost by opening the file again. | `tests/e2e/test_bank.py`: `…_while_its_forked_child_lives`; `decision_log_file::who_has_lost_the_lock_…` |
//! | Write skew over two serializable databases committed: it does. | `tests/documents/test_transactions.py` |
//! | Two-phase commit through PgBouncer in transaction mode: it works. | `tests/e2e/test_pgbouncer.py` |

use std::time::Duration;

use onecommit::ErrorKind;
use onecommit::coordinator::{Failure, Next, Options};
use onecommit::protocol::history::Marks;
use onecommit::protocol::transaction::Protocol;
use tokio::runtime::Runtime;
use tokio_postgres::Client;

use super::recovery::{Died, die, drive_to};
use super::{Log, NAMES, Place, SHORT, begin, connect, drive, move_money, names, text};
use crate::log_lines;
use crate::outbox_postgres::{USUAL, server};
use crate::patience::{answered, until};
use crate::postgres_servers::Servers;

const WAITERS: i64 = 64;

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn row_locks_crosswise_end_by_the_lock_timeout_within_the_deadline() {
    let place = Place::new(Log::File).await;
    let (node, one, other) = (place.node(), place.clients().await, place.clients().await);
    let options = Options { deadline: Some(Duration::from_secs(5)), ..Options::default() };
    let branches = |clients| names().into_iter().zip(clients).collect::<Vec<_>>();
    // A machine that stands still for as long as the deadline has neither begin.
    let (first, second) = answered(async || {
        let first = node.transaction(&branches(&one), options.clone()).await?;
        Ok((first, node.transaction(&branches(&other), options.clone()).await?))
    })
    .await;
    let take = "update account set total = total - 10 where id = 1";
    one[0].batch_execute(take).await.unwrap();
    other[1].batch_execute(take).await.unwrap();
    let (here, there) = tokio::join!(one[1].batch_execute(take), other[0].batch_execute(take));
    let codes: Vec<_> = [&here, &there].into_iter().filter_map(|done| done.as_ref().err()?.code()).collect();
    assert!(!codes.is_empty() && codes.iter().all(|code| code.code() == "55P03"), "{here:?} {there:?}");
    for (transaction, failed) in [(first, here.is_err()), (second, there.is_err())] {
        let ended = transaction.commit().await;
        assert!(ended.is_err() || !failed, "{ended:?}");
    }
    place.settled().await;
    let totals = place.totals().await;
    assert_eq!(totals[0], totals[1], "all or nothing of each");
    node.close().await;
}

/// `orders` has a server of its own.
async fn with_own_server(servers: &mut Servers) -> Place {
    let own = servers.say("primary own");
    Place::on(Log::File, SHORT, [&own, &server(USUAL)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_committed_is_there_after_a_crash_whatever_synchronous_commit_was() {
    let mut servers = Servers::new();
    let place = with_own_server(&mut servers).await;
    let node = place.node();
    for (protocol, setting, total) in [(Protocol::OnePhase, "off", 90), (Protocol::TwoPhase, "off", 80)] {
        let clients = place.clients().await;
        let set = format!("set synchronous_commit = {setting}");
        for client in &clients {
            client.batch_execute(&set).await.unwrap();
        }
        servers.say("keep_unflushed own");
        let transaction = begin(&node, &clients).await.unwrap();
        clients[0].batch_execute("update account set total = total - 10 where id = 1").await.unwrap();
        if protocol == Protocol::TwoPhase {
            clients[1].batch_execute("update account set total = total + 10 where id = 1").await.unwrap();
        }
        assert_eq!(transaction.commit().await.unwrap().protocol, protocol);
        servers.say("crash own");
        assert_eq!(place.totals().await[0], total, "{protocol:?}");
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_waits_for_the_synchronous_standby_whatever_synchronous_commit_was() {
    let mut servers = Servers::new();
    let place = with_own_server(&mut servers).await;
    let (node, clients) = (place.node(), place.clients().await);
    // Now this coordinator is known there: nothing but the branch itself has to wait.
    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    transaction.commit().await.unwrap();
    let admin = connect(&place.urls[0]).await;
    let standbys = async |named: &str| {
        admin.batch_execute("set synchronous_commit = local").await.unwrap();
        let sql = format!("alter system set synchronous_standby_names = '{named}'");
        admin.batch_execute(&sql).await.unwrap();
        admin.batch_execute("select pg_reload_conf()").await.unwrap();
    };
    clients[0].batch_execute("set synchronous_commit = local").await.unwrap();
    standbys("one_that_is_away").await;
    let shows = "select count(*) from pg_settings where name = 'synchronous_standby_names' and setting <> ''";
    until("it is in force", async || Ok(count(&connect(&place.urls[0]).await, shows).await), |one| *one == 1)
        .await;
    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    let waits = async {
        let sql =
            "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query ilike 'prepare%'";
        until("the PREPARE waits", async || Ok(count(&admin, sql).await), |waiting| *waiting == 1).await;
        standbys("").await;
    };
    let (committed, ()) = tokio::join!(transaction.commit(), waits);
    committed.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_is_ended_inside_by_sql_is_named_and_the_others_are_rolled_back() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    for (ended, total) in
        [("commit", 110), ("rollback", 110), ("commit; begin", 120), ("rollback; begin", 120)]
    {
        let transaction = begin(&node, &clients).await.unwrap();
        move_money(&clients).await;
        clients[1].batch_execute(ended).await.unwrap();
        let refused = transaction.commit().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{ended}: {refused}");
        assert!(text(&refused).contains("billing") && text(&refused).contains("rolled back"), "{refused}");
        assert_eq!(place.totals().await, [100, total], "{ended}: what was committed inside stays");
    }
    assert_eq!(place.prepared().await, 0);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_we_can_not_take_is_refused_before_anything_is_prepared() {
    let place = Place::new(Log::File).await;
    let unique = place.namespace.to_string();
    let (login, role) = (format!("login_{unique}"), format!("role_{unique}"));
    let clients = place.clients().await;
    let roles = format!("create role {login} login; create role {role}");
    clients[0].batch_execute(&roles).await.unwrap();
    for client in &clients {
        let rights = format!(
            "grant usage on schema onecommit to {login}; grant all on all tables in schema onecommit to {login};
             grant all on account to {role}"
        );
        client.batch_execute(&rights).await.unwrap();
    }
    let mut as_login = place.copy();
    as_login.urls = as_login.urls.map(|url| url.replace("postgres@", &format!("{login}@")));
    let node = as_login.node();
    for client in &clients {
        client.batch_execute(&format!("set role {role}")).await.unwrap();
    }
    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    let refused = transaction.commit().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Configuration, "{refused}");
    assert!(text(&refused).contains("orders") && text(&refused).contains("grant it"), "{refused}");
    assert_eq!((place.totals().await, place.prepared().await), ([100, 100], 0));
    let registered = place.session().await.coordinators().await.unwrap();
    assert!(registered.is_empty(), "nothing was begun");

    for client in &clients {
        client.batch_execute("reset role").await.unwrap();
    }
    clients[0].batch_execute(&format!("grant {role} to {login}")).await.unwrap();
    for client in &clients {
        client.batch_execute(&format!("set role {role}")).await.unwrap();
    }
    let transaction = begin(&node, &clients).await.unwrap();
    move_money(&clients).await;
    transaction.commit().await.unwrap();
    assert_eq!(place.totals().await, [90, 110]);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_only_holds_a_lock_is_ended_behind_the_decision() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let mut dialogue = node.begin(&names(), Options::default()).unwrap();
    drive(&mut dialogue, &clients, |_| false).await;
    clients[0].batch_execute("update account set total = 70 where id = 1").await.unwrap();
    clients[1].batch_execute("select pg_advisory_xact_lock(42)").await.unwrap();
    dialogue.commit();
    let releases =
        |next: &Next| matches!(next, Next::Send(sent) if sent[0].branch == 1 && sent[0].sql == "commit");
    let next = drive(&mut dialogue, &clients, releases).await;
    assert!(releases(&next), "{next:?}");
    assert_eq!(place.totals().await, [70, 100], "it is decided");
    let free = "select count(*) where pg_try_advisory_lock(42)";
    let rival = connect(&place.urls[1]).await;
    assert_eq!(count(&rival, free).await, 0, "its lock is held until then");
    let ended = drive(&mut dialogue, &clients, |_| false).await;
    assert!(matches!(ended, Next::Ended(Ok(Some(_)))), "{ended:?}");
    assert_eq!(count(&rival, free).await, 1);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_that_lands_behind_its_rollback_is_rolled_back() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let mut dialogue = node.begin(&names(), Options::default()).unwrap();
    drive(&mut dialogue, &clients, |_| false).await;
    move_money(&clients).await;
    dialogue.commit();
    let prepares = |next: &Next| matches!(next, Next::Send(sent) if sent[0].sql.starts_with("prepare"));
    let next = drive(&mut dialogue, &clients, prepares).await;
    let Next::Send(messages) = next else { panic!("{next:?}") };
    // Both are on their way, and the caller stops waiting for them.
    let lost = || Failure { code: None, source: "the connection is lost".into() };
    dialogue.answered(messages.iter().map(|_| Err(lost())).collect()).await;
    let id = dialogue.id();
    drop(dialogue);
    let rival = connect(&place.urls[0]).await;
    let tried =
        format!("select count(*) from pg_stat_activity where query like 'rollback prepared%{id}:orders%'");
    until("it was tried, and not found", async || Ok(count(&rival, &tried).await), |tried| *tried > 0).await;
    for message in &messages {
        clients[message.branch].simple_query(&message.sql).await.unwrap();
    }
    place.settled().await;
    assert_eq!(place.totals().await, [100, 100]);
    node.close().await;
}

#[test]
fn where_the_decision_log_is_older_than_the_databases_nothing_is_rolled_back() {
    let runtime = Runtime::new().unwrap();
    let place = runtime.block_on(Place::new(Log::Zookeeper));
    log_lines::keep();
    let dead = die(&place, Died::Undecided);
    let id = dead.coordinator;
    runtime.block_on(async {
        // As a copy has it from before the last marks.
        let session = place.session().await;
        let legacy = answered(async || session.take_over(id).await).await.expect("it is dead");
        let mut record = legacy.record;
        for used in record.participants.values_mut() {
            used.marks = Marks { announced: 1, acknowledged: 0 };
        }
        session.record(legacy.fence, &record).await.unwrap();
        session.let_go(id).await.unwrap();
        let node = place.node();
        for participant in NAMES {
            let branch = format!(":{}:{}:{participant}", dead.coordinator, dead.number);
            let line = log_lines::told(&["the decision log was restored", &branch]).await;
            assert!(line.contains("end them by hand"), "{line}");
        }
        node.close().await;
        assert_eq!(place.prepared().await, 2, "both wait for a person");
        let (record, _) = session.look(id).await.unwrap().expect("its record is kept");
        assert!(record.participants.values().all(|used| !used.is_settled));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_64_wait_for_is_committed_all_the_same() {
    let place = Place::new(Log::File).await;
    let (node, clients) = (place.node(), place.clients().await);
    let mut dialogue = node.begin(&names(), Options::default()).unwrap();
    drive(&mut dialogue, &clients, |_| false).await;
    move_money(&clients).await;
    dialogue.commit();
    drive_to(&mut dialogue, &clients, Died::Decided).await;
    assert_eq!(place.prepared().await, 2, "decided, and not applied");
    let orders = "orders".parse::<onecommit::ParticipantName>().unwrap();
    let waiters = futures_util::future::join_all((0..WAITERS).map(async |_| {
        let client = connect(&place.urls[0]).await;
        let transaction = node.transaction(&[(orders.clone(), &client)], Options::default()).await.unwrap();
        client.batch_execute("update account set total = total - 1 where id = 1").await.unwrap();
        transaction.commit().await.unwrap();
    }));
    let apply = async {
        let rival = connect(&place.urls[0]).await;
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' \
                       and datname = current_database()";
        until("all wait", async || Ok(count(&rival, waiting).await), |waiting| *waiting == WAITERS).await;
        drive(&mut dialogue, &clients, |_| false).await
    };
    let (ended, _) = tokio::join!(apply, waiters);
    assert!(matches!(ended, Next::Ended(Ok(Some(finished))) if finished.is_applied), "{ended:?}");
    assert_eq!(place.totals().await, [90 - WAITERS as i32, 110]);
    node.close().await;
}
