//! What is delivered: the same keys, sizes and shards for the relay and for the bare producer.

use tokio_postgres::{Client, NoTls};

use crate::Result;

/// Bytes of each value.
pub(crate) const VALUE_BYTES: usize = 1000;
/// How many keys there are.
pub(crate) const KEYS: u64 = 10_000;
/// Messages of one transaction of the writers.
const TRANSACTION_MESSAGES: u64 = 100;

/// The n-th message's key.
pub(crate) fn key(n: u64) -> String {
    format!("key-{}", n % KEYS)
}

/// A database of its own, made anew.
pub(crate) struct Database {
    pub(crate) url: String,
    name: String,
    admin: String,
}

impl Database {
    /// Makes it; `number` tells it from the others of this run.
    pub(crate) async fn create(admin: &str, name: &str) -> Result<Self> {
        let client = connect(admin).await?;
        client.batch_execute(&format!("create database {name}")).await?;
        let (server, _) = admin.rsplit_once('/').ok_or("the server's url names no database")?;
        Ok(Database { url: format!("{server}/{name}"), name: name.to_string(), admin: admin.to_string() })
    }

    /// Commits the messages of a backlog, then lets the server write its pages: what it still owes
    /// to the disk belongs to the writers.
    pub(crate) async fn fill(&self, topic: &str, messages: u64) -> Result<()> {
        let client = connect(&self.url).await?;
        client.batch_execute("set synchronous_commit = off").await?;
        let block = format!(
            "do $$ begin
               for part in 0..{parts} loop
                 insert into onecommit.outbox (topic, key, value)
                   select '{topic}', convert_to('key-' || n % {KEYS}, 'UTF8'),
                     convert_to(left(repeat(md5(n::text), {VALUE_BYTES} / 32 + 1), {VALUE_BYTES}), 'UTF8')
                   from generate_series(part * {TRANSACTION_MESSAGES},
                     least((part + 1) * {TRANSACTION_MESSAGES}, {messages}) - 1) n;
                 commit;
               end loop;
             end $$",
            parts = messages.div_ceil(TRANSACTION_MESSAGES) - 1,
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

/// A connection whose driver runs in the background.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, driver) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(driver);
    Ok(client)
}
