//! A participant whose server fails over to a standby, or is restored from a backup, with transactions on
//! their way: on real servers.

use onecommit::ErrorKind;
use onecommit::coordinator::{Dialogue, Next, Node, Options};
use onecommit::id::TransactionId;
use onecommit::participant::Participant;
use onecommit::participant::postgres::PostgresParticipant;
use onecommit::protocol::decision::Outcome;
use tokio::runtime::Runtime;
use tokio_postgres::Client;

use super::recovery::{Died, die, drive_to, has_history, prepare_orphan};
use super::{LONG, Log, Place, SHORT, begin, connect, drive, move_money, names};
use crate::log_lines;
use crate::outbox_postgres::{USUAL, server};
use crate::patience::until;
use crate::postgres_servers::Servers;
use crate::zookeeper_server::Proxy;

const FIRST_TIMELINE: &str = "00000001";

/// `orders` has a server of its own, with a standby; `billing` is elsewhere.
struct Pair {
    servers: Servers,
    place: Place,
    standby: String,
}

impl Pair {
    fn new(runtime: &Runtime) -> Pair {
        log_lines::keep();
        let mut servers = Servers::new();
        let primary = servers.say("primary first");
        let place = runtime.block_on(Place::on(Log::File, SHORT, [&primary, &server(USUAL)]));
        let standby = servers.say("standby second first");
        Pair { servers, place, standby }
    }

    /// Every commit waits for the standby.
    async fn replicate_synchronously(&self) {
        let orders = connect(&self.place.urls[0]).await;
        for sql in ["alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"] {
            orders.batch_execute(sql).await.unwrap();
        }
        let synchronous = async || {
            let sql = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            Ok(orders.query_one(sql, &[]).await.unwrap().get::<_, i64>(0))
        };
        until("the standby is a synchronous one", synchronous, |standbys| *standbys == 1).await;
    }

    /// The primary dies, and its standby takes its place.
    async fn fail_over(&mut self) {
        self.servers.say("stop first immediate");
        self.servers.say("promote second");
        self.place.move_orders(&self.standby);
        assert_ne!(timeline(&self.place).await, FIRST_TIMELINE);
    }
}

async fn timeline(place: &Place) -> String {
    let sql = "select left(pg_walfile_name(pg_current_wal_lsn()), 8)";
    connect(&place.urls[0]).await.query_one(sql, &[]).await.unwrap().get(0)
}

/// Of a url its server.
fn address(url: &str) -> &str {
    url.split_once('@').unwrap().1.split('/').next().unwrap()
}

async fn prepared_in_orders(place: &Place) -> Vec<String> {
    let sql = "select gid from pg_prepared_xacts where database = current_database()";
    let rows = connect(&place.urls[0]).await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until nothing is left of a dead coordinator: what is torn or refused stays.
async fn forgotten(place: &Place, id: TransactionId) {
    let session = place.session().await;
    let registered = async || session.coordinators().await;
    until("its record is gone", registered, |all| all.iter().all(|one| one.coordinator != id.coordinator))
        .await;
}

async fn transact(node: &Node, clients: &[Client; 2]) -> TransactionId {
    let transaction = begin(node, clients).await.unwrap();
    let id = transaction.id();
    move_money(clients).await;
    assert!(transaction.commit().await.unwrap().is_applied);
    id
}

#[test]
fn a_branch_that_was_decided_before_a_failover_is_committed_on_the_promoted_standby() {
    let runtime = Runtime::new().unwrap();
    let mut pair = Pair::new(&runtime);
    runtime.block_on(pair.replicate_synchronously());
    let id = die(&pair.place, Died::Decided);
    runtime.block_on(async {
        pair.fail_over().await;
        assert_eq!(prepared_in_orders(&pair.place).await.len(), 1, "the standby has it");
        let node = pair.place.node();
        pair.place.settled().await;
        forgotten(&pair.place, id).await;
        assert_eq!(pair.place.totals().await, [90, 110]);
        let outcome = pair.place.session().await.outcome(id).await.unwrap();
        assert_eq!(outcome, Some(Outcome::Committed));
        node.close().await;
    });
}

/// Transactions that are applied, and whose coordinator dies with their decisions: the last one's id.
fn die_with_decisions(place: &Place, transactions: usize) -> TransactionId {
    let runtime = Runtime::new().unwrap();
    let (node, id) = runtime.block_on(async {
        let (node, clients) = (place.node_that_forgets_nothing(), place.clients().await);
        let mut last = None;
        for _ in 0..transactions {
            last = Some(transact(&node, &clients).await);
        }
        (node, last.unwrap())
    });
    runtime.shutdown_background();
    drop(node);
    id
}

fn settles_applied_ones(promotions: usize) {
    let runtime = Runtime::new().unwrap();
    let mut pair = Pair::new(&runtime);
    runtime.block_on(pair.replicate_synchronously());
    let id = die_with_decisions(&pair.place, 3);
    runtime.block_on(async {
        pair.fail_over().await;
        if promotions == 2 {
            let third = pair.servers.say("standby third second");
            pair.servers.say("catch_up third");
            pair.servers.say("stop second immediate");
            pair.servers.say("promote third");
            pair.place.move_orders(&third);
            assert_eq!(timeline(&pair.place).await, "00000003");
        }
        let session = pair.place.session().await;
        let (_, batches) = session.look(id.coordinator).await.unwrap().unwrap();
        assert_eq!(batches.len(), 3, "none was deleted");
        assert!(prepared_in_orders(&pair.place).await.is_empty(), "all were committed before");
        let node = pair.place.node();
        forgotten(&pair.place, id).await;
        assert_eq!(pair.place.totals().await, [70, 130]);
        node.close().await;
    });
}

#[test]
fn applied_transactions_are_no_alarm_after_a_clean_failover() {
    settles_applied_ones(1);
}

#[test]
fn applied_transactions_are_no_alarm_after_two_failovers_in_a_row() {
    settles_applied_ones(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_lives_through_a_clean_failover_goes_on() {
    let mut pair = tokio::task::spawn_blocking(|| Pair::new(&Runtime::new().unwrap())).await.unwrap();
    pair.replicate_synchronously().await;
    let direct = pair.place.urls[0].clone();
    let proxy = Proxy::start(address(&direct)).await;
    pair.place.urls[0] = direct.replace(address(&direct), &proxy.address);
    let (node, clients) = (pair.place.node(), pair.place.clients().await);
    transact(&node, &clients).await;
    // From here on no mark is written there, so that no decision is forgotten.
    let direct = connect(&direct).await;
    direct.batch_execute("begin; lock table onecommit.coordinator in exclusive mode").await.unwrap();
    let id = transact(&node, &clients).await;
    pair.servers.say("stop first immediate");
    pair.servers.say("promote second");
    let session = pair.place.session().await;
    let (_, batches) = session.look(id.coordinator).await.unwrap().unwrap();
    assert!(batches.values().flatten().any(|decision| decision.number == id.number), "it was not deleted");

    *proxy.server.lock().unwrap() = address(&pair.standby).to_string();
    proxy.cut().await;
    assert_ne!(timeline(&pair.place).await, FIRST_TIMELINE);
    let look = async || session.look(id.coordinator).await;
    until("what was applied is forgotten", look, |found| {
        found.as_ref().is_some_and(|(_, batches)| batches.is_empty())
    })
    .await;
    let clients = pair.place.clients().await;
    let next = transact(&node, &clients).await;
    assert_eq!(next.coordinator, id.coordinator, "the same coordinator");
    assert_eq!(pair.place.totals().await, [70, 130]);
    node.close().await;
}

#[test]
fn a_decided_branch_that_an_asynchronous_failover_has_lost_is_named_and_nothing_is_rolled_back() {
    let runtime = Runtime::new().unwrap();
    let mut pair = Pair::new(&runtime);
    let (first, lost) = {
        let runtime = Runtime::new().unwrap();
        let (node, dialogue, first) = runtime.block_on(async {
            let (node, clients) = (pair.place.node_that_forgets_nothing(), pair.place.clients().await);
            let first = transact(&node, &clients).await;
            pair.servers.say("catch_up second");
            pair.servers.say("cut_off second");
            let dialogue = drive_until_decided(&node, &clients).await;
            (node, dialogue, first)
        });
        runtime.shutdown_background();
        let lost = dialogue.id();
        drop((dialogue, node));
        (first, lost)
    };
    runtime.block_on(async {
        pair.fail_over().await;
        assert!(prepared_in_orders(&pair.place).await.is_empty(), "the PREPARE is lost");
        let node = pair.place.node();
        let line =
            log_lines::told(&["is torn", &format!(":{}:{}:orders", lost.coordinator, lost.number)]).await;
        assert!(
            !line.contains(&format!(":{}:{}:", first.coordinator, first.number)),
            "it has this one: {line}"
        );
        assert!(line.contains("do by hand what it did"), "{line}");
        pair.place.settled().await;
        assert_eq!(pair.place.totals().await, [90, 120], "committed wherever it is");
        let session = pair.place.session().await;
        let (_, batches) = session.look(lost.coordinator).await.unwrap().expect("its record is kept");
        assert_eq!(batches.len(), 2, "and what was decided");
        node.close().await;
    });
}

/// Both branches are prepared, it is decided, and nothing is applied.
async fn drive_until_decided(node: &Node, clients: &[Client; 2]) -> Dialogue {
    let mut dialogue = node.begin(&names(), Options::default()).unwrap();
    let begun = drive(&mut dialogue, clients, |_| false).await;
    assert!(matches!(begun, Next::Open), "{begun:?}");
    move_money(clients).await;
    dialogue.commit();
    assert!(matches!(drive_to(&mut dialogue, clients, Died::Decided).await, Next::Work));
    dialogue
}

/// A transaction that was prepared when `copied` ran, and then was applied, and its decision deleted,
/// before its coordinator died.
fn dies_behind(place: &Place, copied: impl FnOnce()) -> TransactionId {
    let runtime = Runtime::new().unwrap();
    let (node, id) = runtime.block_on(async {
        let (node, clients) = (place.node(), place.clients().await);
        has_history(place, &node, &clients).await;
        let mut dialogue = drive_until_decided(&node, &clients).await;
        assert_eq!(prepared_in_orders(place).await.len(), 1);
        copied();
        let ended = drive(&mut dialogue, &clients, |_| false).await;
        assert!(matches!(ended, Next::Ended(Ok(Some(finished))) if finished.is_applied));
        has_history(place, &node, &clients).await;
        (node, dialogue.id())
    });
    runtime.shutdown_background();
    drop(node);
    id
}

/// Its branch is prepared again in what `orders` leads to, and its decision is gone.
async fn is_left_to_a_person(place: &Place, id: TransactionId) {
    let branch = format!(":{}:{}:orders", id.coordinator, id.number);
    let prepared = prepared_in_orders(place).await;
    assert!(matches!(&prepared[..], [only] if only.ends_with(&branch)), "{prepared:?}");
    let session = place.session().await;
    let (_, batches) = session.look(id.coordinator).await.unwrap().unwrap();
    assert!(batches.is_empty(), "nothing says any more that it was decided");
    let node = place.node();
    let line = log_lines::told(&["has lost history", &branch]).await;
    assert!(line.contains("end them by hand") && line.contains("Nothing was touched"), "{line}");
    node.close().await;
    assert_eq!(prepared_in_orders(place).await.len(), 1);
    assert!(session.look(id.coordinator).await.unwrap().is_some(), "its record is kept");
}

#[test]
fn a_branch_that_is_prepared_again_by_an_asynchronous_failover_is_refused() {
    let runtime = Runtime::new().unwrap();
    let mut pair = Pair::new(&runtime);
    let place = pair.place.copy();
    let id = dies_behind(&place, || {
        pair.servers.say("catch_up second");
        pair.servers.say("cut_off second");
    });
    runtime.block_on(async {
        pair.fail_over().await;
        is_left_to_a_person(&pair.place, id).await;
    });
}

#[test]
fn a_branch_that_is_prepared_again_in_a_restored_base_backup_is_refused() {
    log_lines::keep();
    let runtime = Runtime::new().unwrap();
    let mut servers = Servers::new();
    let first = servers.say("primary first");
    let mut place = runtime.block_on(Place::on(Log::File, SHORT, [&first, &server(USUAL)]));
    let mut restored = String::new();
    let id = dies_behind(&place.copy(), || restored = servers.say("backup second first"));
    servers.say("stop first immediate");
    place.move_orders(&restored);
    runtime.block_on(async {
        assert_eq!(timeline(&place).await, FIRST_TIMELINE, "nothing but the marks tells that it is older");
        is_left_to_a_person(&place, id).await;
    });
}

#[test]
fn without_the_right_to_know_where_the_promotion_was_it_is_said_and_settled_once_it_is_given() {
    let runtime = Runtime::new().unwrap();
    let mut pair = Pair::new(&runtime);
    runtime.block_on(pair.replicate_synchronously());
    let id = die_with_decisions(&pair.place, 1);
    runtime.block_on(async {
        pair.fail_over().await;
        let admin = connect(&pair.place.urls[0]).await;
        let role = "create role recoverer login; grant usage on schema onecommit to recoverer; \
                    grant select, insert on onecommit.server_life to recoverer; \
                    grant select, insert, update, delete on onecommit.coordinator to recoverer";
        admin.batch_execute(role).await.unwrap();
        pair.place.urls[0] = pair.place.urls[0].replace("postgres@", "recoverer@");
        let node = pair.place.node();
        let branch = format!(":{}:{}:orders", id.coordinator, id.number);
        let line = log_lines::told(&["this user may not read", &branch]).await;
        assert!(line.contains("grant execute on function pg_read_file(text)"), "{line}");
        let session = pair.place.session().await;
        assert!(session.look(id.coordinator).await.unwrap().is_some());
        admin.batch_execute("grant execute on function pg_read_file(text) to recoverer").await.unwrap();
        forgotten(&pair.place, id).await;
        node.close().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_lists_no_branch_and_is_waited_for() {
    let mut pair = tokio::task::spawn_blocking(|| Pair::new(&Runtime::new().unwrap())).await.unwrap();
    prepare_orphan(&pair.place, 1).await;
    pair.servers.say("catch_up second");
    assert_eq!(prepared_in_orders(&pair.place).await.len(), 1);
    pair.place.move_orders(&pair.standby);
    assert!(prepared_in_orders(&pair.place).await.is_empty(), "PostgreSQL shows none of them");
    let url = pair.place.urls[0].parse().unwrap();
    let participant = PostgresParticipant::new(&url, "onecommit", 1, LONG);
    let error = participant.prepared().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.is_retriable() && error.to_string().contains("standby"), "{error}");
    pair.servers.say("stop first immediate");
    pair.servers.say("promote second");
    let listed = async || participant.prepared().await;
    until("it has it", listed, |(_, prepared)| prepared.len() == 1).await;
}
