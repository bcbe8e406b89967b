//! What is delivered: the same keys and sizes for the relay, the poller and the bare producer.

use tokio_postgres::{Client, NoTls};

use crate::Result;

/// Bytes of each value, unless a measurement says otherwise.
pub(crate) const VALUE_BYTES: usize = 1000;
/// How many keys there are.
pub(crate) const KEYS: u64 = 10_000;
/// Messages of one transaction of the writers.
const TRANSACTION_MESSAGES: u64 = 100;

/// The n-th message's key.
pub(crate) fn key(n: u64) -> String {
    format!("key-{}", n % KEYS)
}

/// Where messages wait.
#[derive(Clone, Copy)]
pub(crate) enum Table {
    /// The relay's.
    Outbox,
    /// The poller's.
    Plain,
}

impl Table {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Table::Outbox => "onecommit.outbox",
            Table::Plain => "public.outbox",
        }
    }
}

/// A database of its own, made anew.
pub(crate) struct Database {
    pub(crate) url: String,
    name: String,
    admin: String,
}

impl Database {
    /// Makes it.
    pub(crate) async fn create(admin: &str) -> Result<Self> {
        let name = format!("bench_{}", uuid::Uuid::new_v4().simple());
        let client = connect(admin).await?;
        client.batch_execute(&format!("create database {name}")).await?;
        let (server, _) = admin.rsplit_once('/').ok_or("the server's url names no database")?;
        Ok(Database { url: format!("{server}/{name}"), name, admin: admin.to_string() })
    }

    /// A connection to it.
    pub(crate) async fn client(&self) -> Result<Client> {
        connect(&self.url).await
    }

    /// Commits the messages of a backlog; see [`Database::fill_sized`].
    pub(crate) async fn fill(&self, table: Table, topic: &str, messages: u64) -> Result<()> {
        self.fill_sized(table, topic, messages, VALUE_BYTES).await
    }

    /// Commits the messages of a backlog, then lets the server write its pages: what it still owes
    /// to the disk belongs to the writers.
    pub(crate) async fn fill_sized(
        &self,
        table: Table,
        topic: &str,
        messages: u64,
        value_bytes: usize,
    ) -> Result<()> {
        let client = self.client().await?;
        client.batch_execute("set synchronous_commit = off").await?;
        let block = format!(
            "do $$ begin
               for part in 0..{parts} loop
                 {insert};
                 commit;
               end loop;
             end $$",
            parts = messages.div_ceil(TRANSACTION_MESSAGES) - 1,
            insert = insert_sql(
                table,
                topic,
                value_bytes,
                &format!(
                    "generate_series(part * {TRANSACTION_MESSAGES}, \
                     least((part + 1) * {TRANSACTION_MESSAGES}, {messages}) - 1)"
                ),
            ),
        );
        client.batch_execute(&block).await?;
        client.batch_execute("checkpoint").await?;
        Ok(())
    }

    /// Drops it, whoever is connected.
    pub(crate) async fn drop(self) -> Result<()> {
        let client = connect(&self.admin).await?;
        client.batch_execute(&format!("drop database {} with (force)", self.name)).await?;
        Ok(())
    }
}

/// Inserts one message for each number of a series.
pub(crate) fn insert_sql(table: Table, topic: &str, value_bytes: usize, series: &str) -> String {
    format!(
        "insert into {table} (topic, key, value)
           select '{topic}', convert_to('key-' || n % {KEYS}, 'UTF8'),
             convert_to(left(repeat(md5(n::text), {value_bytes} / 32 + 1), {value_bytes}), 'UTF8')
           from {series} n",
        table = table.name(),
    )
}

/// A connection whose driver runs in the background.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, driver) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(driver);
    Ok(client)
}
