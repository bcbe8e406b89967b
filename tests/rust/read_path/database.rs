//! A fresh database on the server that the environment names.

use std::time::Duration;

use onecommit::outbox::OutboxSource;
use onecommit::outbox::postgres::{Limits, PostgresSource};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::conformance_outbox::installation;

/// A database of a test's own.
pub struct Database {
    /// A connection to it.
    pub client: Client,
    pub name: String,
    pub url: String,
    admin: Client,
}

impl Database {
    pub async fn create() -> Self {
        let server = std::env::var("ONECOMMIT_TEST_POSTGRES").expect(
            "ONECOMMIT_TEST_POSTGRES names no PostgreSQL server: run the tests by \
             `python -m tests.servers run -- cargo test`",
        );
        let admin = connect(&server).await;
        let name = format!("test_{}", Uuid::new_v4().simple());
        admin.batch_execute(&format!("create database {name}")).await.expect("create database");
        let (server, _) = server.rsplit_once('/').expect("a database in ONECOMMIT_TEST_POSTGRES");
        let url = format!("{server}/{name}");
        Database { client: connect(&url).await, name, url, admin }
    }

    pub fn source(&self) -> PostgresSource {
        self.source_with(Limits::default())
    }

    pub fn source_with(&self, limits: Limits) -> PostgresSource {
        let (url, schema) = (self.url.parse().unwrap(), "onecommit".to_string());
        PostgresSource { url, schema, request_limit: Duration::from_secs(60), limits }
    }

    /// Makes the outbox's tables.
    pub async fn init(&self, shards: u16) {
        let mut wanted = installation();
        wanted.shards = shards;
        self.source().init(&wanted).await.expect("init");
    }

    /// The one number that a query returns.
    pub async fn count(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.expect("count").get(0)
    }

    /// Drops it; one whose test failed is left for a look.
    pub async fn drop(self) {
        let sql = format!("drop database {} with (force)", self.name);
        self.admin.batch_execute(&sql).await.expect("drop database");
    }
}

pub async fn connect(url: &str) -> Client {
    let (client, driver) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(driver);
    client
}
