//! A single writing branch whose COMMIT was not answered, and whose server crashed in between: what its
//! caller is told is true, or *in doubt*.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use onecommit::config::Config;
use onecommit::coordinator::{Dialogue, Failure, Finished, Message, Next, Node, Options};
use onecommit::protocol::transaction::Protocol;
use onecommit::{ErrorKind, Result, service};
use tokio::sync::watch;
use tokio_postgres::Client;

use super::crash::{Other, ended, says_hit};
use super::{Log, Place, SHORT, connect, drive, names};
use crate::outbox_postgres::{USUAL, server};
use crate::patience::{LIMIT, answered, until};
use crate::postgres_servers::Servers;

/// `orders` has a server of its own.
struct Crashing {
    servers: Servers,
    place: Place,
    node: Node,
    clients: [Client; 2],
}

impl Crashing {
    async fn new() -> Crashing {
        let mut servers = Servers::new();
        let own = servers.say("primary own");
        let place = Place::on(Log::File, SHORT, [&own, &server(USUAL)]).await;
        let (node, clients) = (place.node(), place.clients().await);
        Crashing { servers, place, node, clients }
    }

    /// A transaction that wrote to `orders` only, up to its COMMIT.
    async fn begin(&self, publishes: bool) -> (Dialogue, Message) {
        let mut dialogue = self.node.begin(&names(), Options::default()).unwrap();
        drive(&mut dialogue, &self.clients, |_| false).await;
        self.clients[0].batch_execute("update account set total = 70 where id = 1").await.unwrap();
        if publishes {
            let message = onecommit::Message::new("order.paid", b"42", b"70").unwrap();
            dialogue.publish(message, None).unwrap();
        }
        dialogue.commit();
        let is_commit = |next: &Next| matches!(next, Next::Send(sent) if sent[0].sql.starts_with("commit;"));
        let next = drive(&mut dialogue, &self.clients, is_commit).await;
        let Next::Send(mut messages) = next else { panic!("{next:?}") };
        (dialogue, messages.remove(0))
    }

    /// The caller hears nothing of it; what it is told in the end.
    async fn unanswered(&self, mut dialogue: Dialogue) -> Result<Finished> {
        dialogue.answered(vec![Err(Failure { code: None, source: "the answer was lost".into() })]).await;
        match drive(&mut dialogue, &self.clients, |_| false).await {
            Next::Ended(ended) => ended.map(Option::unwrap),
            next => panic!("{next:?}"),
        }
    }

    async fn total(&self) -> i32 {
        let sql = "select total from account where id = 1";
        connect(&self.place.urls[0]).await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_is_proved_by_its_message_when_the_server_has_crashed() {
    for publishes in [true, false] {
        let mut crashing = Crashing::new().await;
        let (dialogue, commit) = crashing.begin(publishes).await;
        crashing.clients[0].simple_query(&commit.sql).await.unwrap();
        crashing.servers.say("stop own immediate");
        crashing.servers.say("start own");
        let told = crashing.unanswered(dialogue).await;
        assert_eq!(crashing.total().await, 70);
        match publishes {
            true => assert_eq!(told.unwrap().protocol, Protocol::OnePhase),
            // PostgreSQL says of its number that it is committed; it would say so of a stranger's.
            false => assert_eq!(told.unwrap_err().kind(), ErrorKind::InDoubt),
        }
        crashing.node.close().await;
    }
}

/// The settings of a relay that keeps proofs for longer than the test takes.
fn relay_of(place: &Place) -> (PathBuf, Config) {
    let file = place.directory.join("onecommit.toml");
    std::fs::write(&file, place.configuration() + "[coordinator]\ndeadline_ms = 600000\n").unwrap();
    let config = Config::load(Some(&file)).unwrap();
    (file, config)
}

/// The relay prunes right behind the delivery; a caller that was cut off asks later.
#[tokio::test(flavor = "multi_thread")]
async fn its_message_stays_when_it_is_delivered_and_those_of_others_go() {
    let mut crashing = Crashing::new().await;
    let (file, config) = relay_of(&crashing.place);
    answered(async || service::init(&config, &[], Some(1), &|_| {}).await).await;
    let orders = connect(&crashing.place.urls[0]).await;
    let texts = async |sql: &str| {
        let rows = orders.query(sql, &[]).await.unwrap();
        Result::Ok(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>())
    };
    let topics = async || texts("select topic from onecommit.outbox").await;
    // Each prune leaves the one that the committed progress names.
    let barriers = async || texts("select id::text from onecommit.barrier").await;

    orders.batch_execute("select onecommit.publish('order.seen', '42', 'x')").await.unwrap();
    let (stop, stopping) = watch::channel(false);
    let relay = tokio::spawn({
        let config = config.clone();
        async move { service::run_relays(&config, stopping).await }
    });
    until("what proves nothing goes", topics, Vec::is_empty).await;
    let before = barriers().await.unwrap();
    let (dialogue, commit) = crashing.begin(true).await;
    crashing.clients[0].simple_query(&commit.sql).await.unwrap();
    until("it is delivered, and pruned", barriers, |now| now.len() == 1 && *now != before).await;
    assert_eq!(topics().await.unwrap(), ["order.paid"]);
    stop.send_replace(true);
    tokio::time::timeout(LIMIT, relay).await.expect("the relay stops").unwrap().unwrap();

    let log = crashing.place.directory.join("failpoints");
    let mut relay = Command::new(env!("CARGO_BIN_EXE_onecommit"));
    relay.arg("relay").arg("--config").arg(file);
    relay.env("ONECOMMIT_FAILPOINTS", "outbox.prune.after_commit=kill").env("ONECOMMIT_FAILPOINTS_LOG", &log);
    let died = ended(&mut Other(relay.spawn().unwrap())).await;
    assert_eq!((died.signal(), says_hit(&log)), (Some(9), true));
    assert_eq!(topics().await.unwrap(), ["order.paid"], "the next relay, which did not deliver it, keeps it");

    crashing.servers.say("stop own immediate");
    crashing.servers.say("start own");
    assert_eq!(crashing.unanswered(dialogue).await.unwrap().protocol, Protocol::OnePhase);
    crashing.node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_read_messages_it_is_in_doubt() {
    let mut crashing = Crashing::new().await;
    let rights = "create role reader login; grant usage on schema onecommit to reader; \
                  grant select, insert on onecommit.server_life to reader; \
                  grant select, insert, update, delete on onecommit.coordinator to reader";
    crashing.clients[0].batch_execute(rights).await.unwrap();
    let mut place = crashing.place.copy();
    place.urls[0] = place.urls[0].replace("postgres@", "reader@");
    std::mem::replace(&mut crashing.node, place.node()).close().await;
    let (dialogue, commit) = crashing.begin(true).await;
    crashing.clients[0].simple_query(&commit.sql).await.unwrap();
    crashing.servers.say("stop own immediate");
    crashing.servers.say("start own");
    let doubt = crashing.unanswered(dialogue).await.unwrap_err();
    assert_eq!(doubt.kind(), ErrorKind::InDoubt, "{doubt}");
    crashing.node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_a_crash_hands_to_a_stranger_proves_nothing() {
    for publishes in [true, false] {
        let mut crashing = Crashing::new().await;
        crashing.servers.say("keep_unflushed own");
        let (dialogue, _) = crashing.begin(publishes).await;
        let current = "select pg_current_xact_id_if_assigned()::text";
        let xid: String = crashing.clients[0].query_one(current, &[]).await.unwrap().get(0);
        crashing.servers.say("crash own");
        let stranger = connect(&crashing.place.urls[0]).await;
        // The node's own may be that stranger.
        let draw = "select pg_current_xact_id()::text::bigint";
        let ours: i64 = xid.parse().unwrap();
        while stranger.query_one(draw, &[]).await.unwrap().get::<_, i64>(0) < ours {}
        let status = format!("select pg_xact_status('{xid}')");
        let status = async || Ok(stranger.query_one(&status, &[]).await.unwrap().get::<_, String>(0));
        let status = until("the stranger has ended", status, |status| status != "in progress").await;
        assert_eq!(status, "committed", "of the stranger");
        let doubt = crashing.unanswered(dialogue).await.unwrap_err();
        assert_eq!(doubt.kind(), ErrorKind::InDoubt, "{doubt}");
        assert_eq!(crashing.total().await, 100, "it never happened");
        crashing.node.close().await;
    }
}
