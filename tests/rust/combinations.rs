//! The whole relay, as the assembly floor builds it from a configuration, in each combination of an
//! outbox and a delivery: what is committed arrives exactly once and in the order of its key,
//! across stops and between relays.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use onecommit::config::{Config, DatabaseUrl};
use onecommit::outbox::{postgres, sqlite};
use onecommit::service::{self, ShardStatus};
use onecommit::{Message, MessageId, Result};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::patience::{self, LIMIT, answered};

const PAUSE: Duration = Duration::from_millis(50);
const KEYS: u64 = 7;
const TOPIC_PARTITIONS: u32 = 3;

#[derive(Clone, Copy)]
enum Outbox {
    Sqlite,
    Postgres { shards: u16 },
}

#[derive(Clone, Copy)]
enum Delivery {
    TopicLog,
    Kafka,
}

fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} names no server: run the tests under `python -m tests.servers run -- cargo test`")
    })
}

/// One installation, with the ledger of what was published through it.
struct Installation {
    config: Config,
    topic: String,
    /// By key, in the order of commit.
    committed: BTreeMap<String, Vec<MessageId>>,
    published: u64,
    _directory: TempDir,
}

impl Installation {
    async fn new(outbox: Outbox, delivery: Delivery) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let unique = Uuid::new_v4().simple().to_string();
        let mut text = format!("namespace = \"t-{}\"\nschema = \"combination_{unique}\"\n", &unique[..20]);
        text += &format!("data_dir = \"{}\"\n", directory.path().join("data").display());
        if matches!(delivery, Delivery::Kafka) {
            text += &format!("[kafka]\n\"bootstrap.servers\" = \"{}\"\n", server("ONECOMMIT_TEST_KAFKA"));
        }
        text += "[participants.orders]\noutbox = true\n";
        text += &match outbox {
            Outbox::Sqlite => format!("url = \"sqlite:///{}\"\n", directory.path().join("app.db").display()),
            Outbox::Postgres { shards } => {
                format!("url = \"{}\"\nshards = {shards}\n", server("ONECOMMIT_TEST_POSTGRES"))
            }
        };
        let config = Config::from_toml(&text, []).unwrap();
        let topic = format!("combination.{unique}");
        for made in [true, false] {
            let topics = std::slice::from_ref(&topic);
            let mut tries = 0;
            let report = answered(async || {
                tries += 1;
                service::init(&config, topics, Some(TOPIC_PARTITIONS), &|_| {}).await
            })
            .await;
            // What got no answer in time may have made something all the same.
            if !made || tries == 1 {
                assert_eq!((report.born, report.participants[0].made), (made, made));
                assert_eq!(report.topics, [(topic.clone(), made)]);
            }
        }
        Installation { config, topic, committed: BTreeMap::new(), published: 0, _directory: directory }
    }

    fn url(&self) -> &DatabaseUrl {
        &self.config.outboxes().next().unwrap().1.url
    }

    fn start(&self) -> Running {
        let (stop, stopping) = watch::channel(false);
        let config = self.config.clone();
        Running { stop, ended: tokio::spawn(async move { service::run_relays(&config, stopping).await }) }
    }

    /// Publishes `transactions` of one to five messages each; every third is rolled back.
    async fn publish(&mut self, transactions: u64) {
        for _ in 0..transactions {
            let number = self.published;
            self.published += 1;
            let messages: Vec<Message> = (0..number % 5 + 1).map(|at| self.message(number, at)).collect();
            let commits = number % 3 != 2;
            let ids = match self.url() {
                DatabaseUrl::Sqlite(path) => publish_to_sqlite(path.clone(), messages.clone(), commits).await,
                DatabaseUrl::Postgres(url) => {
                    publish_to_postgres(&url.to_string(), &self.config.schema, &messages, commits).await
                }
            };
            for (message, id) in messages.iter().zip(ids).filter(|_| commits) {
                self.committed.entry(key(message.key())).or_default().push(id);
            }
        }
    }

    fn message(&self, number: u64, at: u64) -> Message {
        let key = format!("key-{}", (number + at) % KEYS);
        Message::new(&self.topic, key, format!("{number}.{at}")).unwrap()
    }

    async fn shards(&self) -> Result<Vec<ShardStatus>> {
        let mut found = service::status(&self.config).await?.remove(0);
        found.errors.pop().map_or(Ok(found.shards), Err)
    }

    async fn until(&self, what: &str, holds: impl Fn(&[ShardStatus]) -> bool) -> Vec<ShardStatus> {
        patience::until(what, async || self.shards().await, |shards| holds(shards)).await
    }

    /// Waits until nothing is left to deliver, then compares all that arrived with the ledger.
    async fn check(&self) {
        let waits =
            |shard: &ShardStatus| shard.progress.as_ref().is_none_or(|(_, backlog)| backlog.messages > 0);
        self.until("all is delivered", |shards| !shards.iter().any(waits)).await;
        let (config, topic) = (self.config.clone(), self.topic.clone());
        let expected: usize = self.committed.values().map(Vec::len).sum();
        let arrived = tokio::task::spawn_blocking(move || read(&config, &topic, expected)).await.unwrap();
        for (key, ids) in &self.committed {
            assert_eq!(arrived.get(key), Some(ids), "{key}");
        }
        assert_eq!(arrived.len(), self.committed.len());
    }

    async fn drop(self) {
        if let DatabaseUrl::Postgres(url) = self.url() {
            let schema = &self.config.schema;
            let sql = format!("set lock_timeout = '60s'; drop schema {schema} cascade");
            connect(&url.to_string()).await.batch_execute(&sql).await.unwrap();
        }
    }
}

struct Running {
    stop: watch::Sender<bool>,
    ended: JoinHandle<Result<()>>,
}

impl Running {
    async fn stop(self) {
        self.stop.send_replace(true);
        tokio::time::timeout(LIMIT, self.ended).await.expect("the relay stops").unwrap().unwrap();
    }
}

fn key(bytes: Option<&[u8]>) -> String {
    String::from_utf8(bytes.unwrap().to_vec()).unwrap()
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, driver) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(driver);
    client
}

async fn publish_to_postgres(url: &str, schema: &str, messages: &[Message], commits: bool) -> Vec<MessageId> {
    let mut client = connect(url).await;
    let transaction = client.transaction().await.unwrap();
    let outbox = postgres::Outbox::in_schema(schema);
    let ids = outbox.publish_many(&transaction, messages).await.unwrap();
    if commits {
        transaction.commit().await.unwrap()
    } else {
        transaction.rollback().await.unwrap()
    }
    ids
}

async fn publish_to_sqlite(path: PathBuf, messages: Vec<Message>, commits: bool) -> Vec<MessageId> {
    let publish = move || {
        let mut connection = rusqlite::Connection::open(path).unwrap();
        connection.busy_timeout(LIMIT).unwrap();
        let transaction = connection.transaction().unwrap();
        let ids = sqlite::publish_many(&transaction, &messages).unwrap();
        if commits {
            transaction.commit().unwrap()
        } else {
            transaction.rollback().unwrap()
        }
        ids
    };
    tokio::task::spawn_blocking(publish).await.unwrap()
}

/// All that a consumer sees, by key and in its order, up to an end behind `expected` messages: Kafka
/// does not show a transaction in all partitions at the same instant.
fn read(config: &Config, topic: &str, expected: usize) -> BTreeMap<String, Vec<MessageId>> {
    let mut reader = service::open_reader(config, topic, None, true).unwrap();
    let mut arrived: BTreeMap<String, Vec<MessageId>> = BTreeMap::new();
    let (mut count, deadline) = (0, Instant::now() + LIMIT);
    loop {
        match reader.next(PAUSE).unwrap() {
            None if reader.at_end() && (count >= expected || Instant::now() > deadline) => return arrived,
            None => {}
            Some(message) => {
                let (_, id) = message.headers.last().unwrap();
                let id = String::from_utf8(id.clone().unwrap()).unwrap().parse().unwrap();
                arrived.entry(key(message.key.as_deref())).or_default().push(id);
                count += 1;
            }
        }
    }
}

async fn delivers_across_stops(outbox: Outbox, delivery: Delivery) {
    let mut place = Installation::new(outbox, delivery).await;
    place.publish(60).await;
    let relay = place.start();
    place.publish(30).await;
    place.check().await;
    relay.stop().await;
    place.until("leases are given up", |shards| shards.iter().all(|shard| shard.owner.is_none())).await;

    place.publish(30).await;
    let found = answered(async || place.shards().await).await;
    let waiting: u64 =
        found.iter().flat_map(|shard| &shard.progress).map(|(_, backlog)| backlog.messages).sum();
    assert_eq!(waiting, 60, "20 committed transactions with 1 to 5 messages");
    for _ in 0..2 {
        let relay = place.start();
        place.publish(30).await;
        // Stopped with something in flight, more likely than not.
        relay.stop().await;
    }
    let relay = place.start();
    place.publish(10).await;
    place.check().await;
    let well = |shard: &ShardStatus| shard.last_error.is_none() && shard.owner.is_some();
    place.until("every shard is well and has an owner", |shards| shards.iter().all(well)).await;
    relay.stop().await;
    place.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_to_the_topic_log() {
    delivers_across_stops(Outbox::Sqlite, Delivery::TopicLog).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_to_kafka() {
    delivers_across_stops(Outbox::Sqlite, Delivery::Kafka).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_to_the_topic_log() {
    delivers_across_stops(Outbox::Postgres { shards: 2 }, Delivery::TopicLog).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_to_kafka() {
    delivers_across_stops(Outbox::Postgres { shards: 2 }, Delivery::Kafka).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_share_the_shards_and_one_takes_over() {
    for delivery in [Delivery::TopicLog, Delivery::Kafka] {
        let mut place = Installation::new(Outbox::Postgres { shards: 4 }, delivery).await;
        let first = place.start();
        place.publish(20).await;
        let owners = |shards: &[ShardStatus]| {
            let mut owned = BTreeMap::new();
            for owner in shards.iter().filter_map(|shard| shard.owner) {
                *owned.entry(owner).or_insert(0) += 1;
            }
            owned
        };
        let of_one = |shards: &[ShardStatus]| owners(shards).into_values().eq([4]);
        let alone = place.until("one relay owns all", of_one).await[0].owner;
        let second = place.start();
        place.publish(20).await;
        place.until("both own two", |shards| owners(shards).into_values().eq([2, 2])).await;
        place.publish(40).await;
        place.check().await;

        place.publish(20).await;
        first.stop().await;
        place.publish(20).await;
        let of_another = |shards: &[ShardStatus]| of_one(shards) && shards[0].owner != alone;
        place.until("the other takes over", of_another).await;
        place.check().await;
        second.stop().await;
        place.drop().await;
    }
}
