//! The poller that people write by hand (`benches/poller.py`), in a process of its own over a plain
//! table with the same messages.

use crate::backlog::{Database, Table};
use crate::process::{Process, python};
use crate::run::{Run, check_count, wait_until_delivered};
use crate::steady::Writing;
use crate::{Result, Servers, kafka};

const TABLE: &str = "create table outbox (
    id bigserial primary key, topic text not null, key bytea, value bytea
  )";

/// A database with the plain table, and a topic.
pub(crate) struct Plain {
    pub(crate) database: Database,
    pub(crate) topic: String,
}

impl Plain {
    /// Makes both.
    pub(crate) async fn create(servers: &Servers) -> Result<Self> {
        let database = Database::create(&servers.postgres).await?;
        database.client().await?.batch_execute(TABLE).await?;
        let topic = format!("poller-{}", uuid::Uuid::new_v4());
        kafka::create_topic(&servers.kafka, &topic, kafka::PARTITIONS, &[])?;
        Ok(Plain { database, topic })
    }

    /// Where its writers write.
    pub(crate) fn writing(&self) -> Writing {
        Writing { url: self.database.url.clone(), table: Table::Plain, topic: self.topic.clone() }
    }

    /// Starts a poller.
    pub(crate) fn poller(&self, servers: &Servers) -> Result<Process> {
        Process::start("poller", python().arg("benches/poller.py").args([&self.database.url, &servers.kafka]))
    }

    /// Removes what takes space.
    pub(crate) async fn remove(self, servers: &Servers) -> Result<()> {
        kafka::delete_topics(&servers.kafka, &[&self.topic])?;
        self.database.drop().await
    }
}

/// One run: the time until everything is delivered. Its rows go with the batches.
pub(crate) async fn measure(servers: &Servers, messages: u64) -> Result<Run> {
    let plain = Plain::create(servers).await?;
    plain.database.fill(Table::Plain, &plain.topic, messages).await?;
    let poller = plain.poller(servers)?;
    let done = wait_until_delivered(servers, &plain.topic, messages, poller)?;
    let peak_rss_mb = done.process.peak_rss_mb()?;
    drop(done.process);
    check_count(servers, &plain.topic, messages)?;
    plain.remove(servers).await?;
    let delivered_s = (done.written.last - done.written.first).as_secs_f64();
    Ok(Run { messages, delivered_s, cpu_s: done.cpu_s, peak_rss_mb, pruned_s: None })
}
