//! A participant in real PostgreSQL servers: under the conformance suite on the oldest, the usual and
//! the newest version, and what only this backend owes.

mod branch;
mod connections;
mod history;
mod roles;
mod timelines;

use std::time::Duration;

use async_trait::async_trait;
use onecommit::outbox::postgres::print_sql;
use onecommit::participant::Participant;
use onecommit::participant::postgres::PostgresParticipant;
use onecommit::protocol::branch::BranchName;
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::conformance_participant::{self as conformance, listed};
use crate::outbox_postgres::{NEWEST, OLDEST, USUAL, server};
use crate::patience::LIMIT;

const REQUEST_LIMIT: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 3;
const SCHEMA: &str = "onecommit";

async fn connect(url: &str) -> Client {
    let (client, driver) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(driver);
    client
}

/// A database of a test's own, with the tables; prepared transactions belong to a whole database.
struct Place {
    url: String,
    database: String,
    server: Client,
    /// An application's connection.
    client: Client,
    participant: PostgresParticipant,
}

impl Place {
    async fn new() -> Place {
        Place::on(USUAL).await
    }

    async fn on(variable: &str) -> Place {
        Place::at(&server(variable)).await
    }

    async fn at(url: &str) -> Place {
        let server = connect(url).await;
        let database = format!("participant_{}", Uuid::new_v4().simple());
        server.batch_execute(&format!("create database {database}")).await.unwrap();
        let url = format!("{}/{database}", url.rsplit_once('/').unwrap().0);
        let client = connect(&url).await;
        client.batch_execute(&print_sql(SCHEMA, 0)).await.unwrap();
        client.batch_execute("create table entry (name text)").await.unwrap();
        let participant = participant_at(&url);
        Place { url, database, server, client, participant }
    }

    /// The same database on a server that has taken the place of this one's.
    async fn moved_to(&self, server: &str) -> Place {
        let (url, database) =
            (format!("{}/{}", server.rsplit_once('/').unwrap().0, self.database), self.database.clone());
        let (client, participant) = (connect(&url).await, participant_at(&url));
        Place { url, database, server: connect(server).await, client, participant }
    }

    /// Its server was started again.
    async fn again(&self) -> Place {
        let (server, _) = self.url.rsplit_once('/').unwrap();
        self.moved_to(&format!("{server}/postgres")).await
    }

    async fn sql(&self, text: &str) {
        self.client.batch_execute(text).await.unwrap();
    }

    async fn number(&self, text: &str) -> i64 {
        self.client.query_one(text, &[]).await.unwrap().get(0)
    }

    /// Begins a transaction that writes; its number.
    async fn begin_writing(&self, name: &str) -> u64 {
        self.sql(&format!("begin; insert into entry values ('{name}')")).await;
        let row = self.client.query_one("select pg_current_xact_id()::text", &[]).await.unwrap();
        row.get::<_, String>(0).parse().unwrap()
    }

    async fn prepare(&self, name: &str) -> u64 {
        let xid = self.begin_writing(name).await;
        self.sql(&format!("prepare transaction '{name}'")).await;
        xid
    }

    /// Until a request of a participant's waits for a lock.
    async fn someone_waits(&self) {
        let waits = "select count(*) from pg_stat_activity where application_name = 'onecommit coordinator'
                       and wait_event_type = 'Lock' and datname = current_database()";
        let blocked = async { while self.number(waits).await == 0 {} };
        tokio::time::timeout(LIMIT, blocked).await.expect("somebody waits");
    }

    async fn has(&self, name: &str) -> bool {
        self.number(&format!("select count(*) from entry where name = '{name}'")).await > 0
    }

    /// The same database by another user.
    fn url_as(&self, user: &str) -> String {
        let url = self.url.replace("postgres@", &format!("{user}@"));
        assert_ne!(url, self.url, "the server's address names the user postgres");
        url
    }

    /// Drops it; one whose test failed is left for a look.
    async fn drop(self) {
        let Place { database, server, client, .. } = self;
        drop(client);
        server.batch_execute(&format!("drop database {database} with (force)")).await.unwrap();
    }
}

fn participant_at(url: &str) -> PostgresParticipant {
    PostgresParticipant::new(&url.parse().unwrap(), SCHEMA, CONNECTIONS, REQUEST_LIMIT)
}

/// A place of which the suite knows only what it has to.
struct Application(Mutex<Place>, PostgresParticipant);

#[async_trait]
impl conformance::Place for Application {
    fn participant(&self) -> &dyn Participant {
        &self.1
    }

    async fn prepare(&self, name: &BranchName) -> u64 {
        self.0.lock().await.prepare(&name.to_string()).await
    }

    async fn write(&self, commits: bool) -> u64 {
        let place = self.0.lock().await;
        let xid = place.begin_writing("written").await;
        place.sql(if commits { "commit" } else { "rollback" }).await;
        xid
    }

    async fn has(&self, name: &BranchName) -> bool {
        self.0.lock().await.has(&name.to_string()).await
    }

    async fn begin_life(&self) {
        self.0.lock().await.sql("delete from onecommit.server_life").await;
    }

    async fn age_histories(&self) {
        let sql = "update onecommit.coordinator set closed_at = closed_at - interval '1 day' where closed";
        self.0.lock().await.sql(sql).await;
    }
}

async fn conforms(variable: &str) {
    let fresh = async || {
        let place = Place::on(variable).await;
        let participant = participant_at(&place.url);
        Box::new(Application(Mutex::new(place), participant)) as Box<dyn conformance::Place>
    };
    conformance::suite(fresh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_conforms() {
    conforms(USUAL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_postgresql_conforms() {
    conforms(OLDEST).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_postgresql_conforms() {
    conforms(NEWEST).await;
}

#[tokio::test]
async fn branches_of_others_are_not_listed() {
    let (place, other) = (Place::new().await, Place::new().await);
    let ours = conformance::branch(onecommit::id::CoordinatorId::random(), 1);
    let elsewhere = conformance::branch(onecommit::id::CoordinatorId::random(), 2);
    let strangers = [
        format!("somebody's own {}", Uuid::new_v4()),
        ours.to_string().to_uppercase(),
        format!("{ours}:home"),
        ours.to_string().replace("oc1", "oc2"),
    ];
    for name in &strangers {
        let quoted = name.replace('\'', "''");
        place.sql(&format!("begin; insert into entry values ('x'); prepare transaction '{quoted}'")).await;
    }
    other.prepare(&elsewhere.to_string()).await;
    assert!(listed(&place.participant).await.is_empty());
    place.prepare(&ours.to_string()).await;
    assert_eq!(listed(&place.participant).await, [ours.to_string()]);
    assert_eq!(listed(&other.participant).await, [elsewhere.to_string()]);
    for name in strangers.iter().chain([&ours.to_string()]) {
        place.sql(&format!("rollback prepared '{}'", name.replace('\'', "''"))).await;
    }
    other.sql(&format!("rollback prepared '{elsewhere}'")).await;
    place.drop().await;
    other.drop().await;
}
