//! The outbox in real PostgreSQL servers: under the conformance suite on the oldest, the usual and
//! the newest version, and what only this backend owes.

mod adopt;
mod examine;
mod fence;
mod publish;
mod setup;
mod truncate;

use std::time::Duration;

use async_trait::async_trait;
use onecommit::id::{Epoch, ShardIndex};
use onecommit::message::StoredMessage;
use onecommit::outbox::postgres::{Limits, Outbox as Publishing, PostgresSource};
use onecommit::outbox::{Outbox, OutboxSource};
use onecommit::{Message, MessageId};
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::conformance_outbox::{self as conformance, drain, installation};
use crate::conformance_set_aside;
use crate::patience::LIMIT;

const SHARD: ShardIndex = ShardIndex(0);
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
pub(crate) const OLDEST: &str = "ONECOMMIT_TEST_POSTGRES_13";
pub(crate) const USUAL: &str = "ONECOMMIT_TEST_POSTGRES";
pub(crate) const NEWEST: &str = "ONECOMMIT_TEST_POSTGRES_18";

pub(crate) fn server(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} has to be the url of a PostgreSQL database: run the tests under \
             `python -m tests.servers run --postgres-versions 13,18 -- cargo test`"
        )
    })
}

async fn connect(url: &str) -> Client {
    let (client, driver) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(driver);
    client
}

/// A schema of a test's own, in which `init` was never run, and a connection of the application.
struct Place {
    url: String,
    schema: String,
    client: Client,
}

impl Place {
    async fn new() -> Self {
        Place::named(USUAL, &unique()).await
    }

    async fn named(variable: &str, schema: &str) -> Self {
        let url = server(variable);
        Place { client: connect(&url).await, url, schema: schema.to_string() }
    }

    /// With the outbox's tables.
    async fn ready() -> Self {
        Place::ready_on(USUAL).await
    }

    async fn ready_on(variable: &str) -> Self {
        let place = Place::named(variable, &unique()).await;
        place.source().init(&installation()).await.unwrap();
        place
    }

    fn source(&self) -> PostgresSource {
        self.source_at(&self.url)
    }

    fn source_at(&self, url: &str) -> PostgresSource {
        PostgresSource {
            url: url.parse().unwrap(),
            schema: self.schema.clone(),
            request_limit: REQUEST_LIMIT,
            limits: Limits::default(),
        }
    }

    fn publishing(&self) -> Publishing {
        Publishing::in_schema(&self.schema)
    }

    /// A connection whose relay owns the shard and begins before everything.
    async fn relay(&self, epoch: Epoch) -> Box<dyn Outbox> {
        let mut outbox = self.source().connect().await.unwrap();
        outbox.claim(SHARD, epoch).await.unwrap();
        let origin = outbox.origin();
        outbox.add(SHARD, epoch, &origin, None).unwrap();
        outbox
    }

    async fn read_all(&self) -> Vec<StoredMessage> {
        let epoch = self.source().connect().await.unwrap().shard(SHARD).await.unwrap().epoch;
        let chunks = drain(&mut self.relay(epoch.next()).await).await;
        chunks.into_iter().flat_map(|chunk| chunk.messages).collect()
    }

    /// Text in which `{s}` stands for the schema, quoted.
    fn text(&self, text: &str) -> String {
        text.replace("{s}", &format!("\"{}\"", self.schema.replace('"', "\"\"")))
    }

    async fn sql(&self, text: &str) {
        self.client.batch_execute(&self.text(text)).await.unwrap();
    }

    async fn number(&self, text: &str) -> i64 {
        self.client.query_one(&self.text(text), &[]).await.unwrap().get(0)
    }

    /// Drops it; one whose test failed is left for a look.
    async fn drop(self) {
        self.sql("set lock_timeout = '60s'; drop schema {s} cascade").await;
    }
}

fn unique() -> String {
    format!("outbox_{}", Uuid::new_v4().simple())
}

struct Application {
    client: Mutex<Client>,
    publishing: Publishing,
}

#[async_trait]
impl conformance::Publisher for Application {
    async fn commit(&self, messages: &[Message]) -> Vec<MessageId> {
        let mut client = self.client.lock().await;
        let transaction = client.transaction().await.unwrap();
        let ids = self.publishing.publish_many(&transaction, messages).await.unwrap();
        transaction.commit().await.unwrap();
        ids
    }

    async fn roll_back(&self, messages: &[Message]) {
        let mut client = self.client.lock().await;
        let transaction = client.transaction().await.unwrap();
        self.publishing.publish_many(&transaction, messages).await.unwrap();
        transaction.rollback().await.unwrap();
    }
}

async fn conforms(variable: &str) {
    let places = Mutex::new(Vec::new());
    let fresh = async || {
        let place = Place::named(variable, &unique()).await;
        let client = Mutex::new(connect(&place.url).await);
        let application = Application { client, publishing: place.publishing() };
        let source = Box::new(place.source());
        places.lock().await.push(place);
        conformance::Place { source, publisher: Box::new(application) }
    };
    conformance::suite(&fresh).await;
    conformance_set_aside::suite(&fresh).await;
    for place in places.into_inner() {
        place.drop().await;
    }
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
