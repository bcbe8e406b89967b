//! The relay as people run it: the binary in a process of its own, over a database in which the
//! backlog is committed already.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::backlog::{Database, Table, connect};
use crate::process::Process;
use crate::run::{Run, check_count, wait_until_delivered};
use crate::steady::Writing;
use crate::{Options, Result, Servers, kafka};

/// After which a relay that gives no sign of life counts as dead.
const LEASE_TIMEOUT_MS: u64 = 2000;
/// Of a single request to PostgreSQL.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(60);
const PRUNE_LIMIT: Duration = Duration::from_secs(300);
const PRUNE_LOOK: Duration = Duration::from_millis(20);

/// A database, a topic, and the configuration that joins them.
pub(crate) struct Installed {
    pub(crate) database: Database,
    pub(crate) topic: String,
    folder: tempfile::TempDir,
}

impl Installed {
    /// Makes all of it, by `onecommit init`.
    pub(crate) async fn create(servers: &Servers, options: &Options) -> Result<Self> {
        Self::create_with(servers, options, &[]).await
    }

    /// The same with properties of the topic.
    pub(crate) async fn create_with(
        servers: &Servers,
        options: &Options,
        properties: &[(&str, &str)],
    ) -> Result<Self> {
        let database = Database::create(&servers.postgres).await?;
        let topic = format!("ours-{}", uuid::Uuid::new_v4());
        kafka::create_topic(&servers.kafka, &topic, kafka::PARTITIONS, properties)?;
        let folder = tempfile::tempdir()?;
        let mut text = format!(
            "data_dir = \"{}\"\n[kafka]\n\"bootstrap.servers\" = \"{}\"\n[participants.main]\nurl = \"{}\"\n\
             outbox = true\n[relay]\nlease_timeout_ms = {LEASE_TIMEOUT_MS}\n",
            folder.path().display(),
            servers.kafka,
            database.url
        );
        for setting in &options.relay {
            writeln!(text, "{setting}")?;
        }
        let installed = Installed { database, topic, folder };
        fs::write(installed.config(), text)?;
        let made = Command::new(env!("CARGO_BIN_EXE_onecommit"))
            .args(["init", "--json", "--config"])
            .arg(installed.config())
            .output()?;
        if !made.status.success() {
            return Err(format!("onecommit init: {}", String::from_utf8_lossy(&made.stderr)).into());
        }
        Ok(installed)
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("onecommit.toml")
    }

    /// Starts a relay.
    pub(crate) fn relay(&self) -> Result<Process> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onecommit"));
        command.args(["relay", "--config"]).arg(self.config());
        let log = std::env::var("ONECOMMIT_LOG").unwrap_or("warn".to_string());
        Process::start("relay", command.env("ONECOMMIT_LOG", log))
    }

    /// Where its writers write.
    pub(crate) fn writing(&self) -> Writing {
        Writing { url: self.database.url.clone(), table: Table::Outbox, topic: self.topic.clone() }
    }

    /// How many relays own the shards; 0 while a shard has none.
    pub(crate) fn owners(&self) -> Result<usize> {
        let program = env!("CARGO_BIN_EXE_onecommit");
        let asked =
            Command::new(program).args(["status", "--json", "--config"]).arg(self.config()).output()?;
        let status: serde_json::Value = serde_json::from_slice(&asked.stdout)?;
        let shards = status["participants"][0]["shards"].as_array().ok_or("status without shards")?;
        let owners: Option<BTreeSet<&str>> = shards.iter().map(|shard| shard["owner"].as_str()).collect();
        Ok(owners.map_or(0, |owners| owners.len()))
    }

    /// Removes what takes space.
    pub(crate) async fn remove(self, servers: &Servers) -> Result<()> {
        kafka::delete_topics(&servers.kafka, &[&self.topic])?;
        self.database.drop().await
    }
}

/// One run: the time until everything is delivered, and until everything is pruned as well.
pub(crate) async fn measure(servers: &Servers, options: &Options, messages: u64) -> Result<Run> {
    let installed = Installed::create(servers, options).await?;
    installed.database.fill(Table::Outbox, &installed.topic, messages).await?;
    let relay = installed.relay()?;
    let pruned = tokio::spawn(wait_until_pruned(installed.database.url.clone()));
    let done = wait_until_delivered(servers, &installed.topic, messages, relay)?;
    let pruned = pruned.await??;
    let peak_rss_mb = done.process.peak_rss_mb()?;
    done.process.stop()?;
    check_count(servers, &installed.topic, messages)?;
    installed.remove(servers).await?;
    Ok(Run {
        messages,
        delivered_s: (done.written.last - done.written.first).as_secs_f64(),
        cpu_s: done.cpu_s,
        peak_rss_mb,
        pruned_s: Some((pruned - done.written.first).as_secs_f64()),
    })
}

/// Rows go in the order of their ids: the last one is looked for from the end, which costs nothing
/// while it is there.
async fn wait_until_pruned(url: String) -> Result<Instant> {
    let client = connect(&url).await?;
    client.batch_execute("set enable_seqscan = off; set enable_sort = off").await?;
    let began = Instant::now();
    let sql = "select id from onecommit.outbox order by id desc limit 1";
    while began.elapsed() < PRUNE_LIMIT {
        if client.query_typed(sql, &[]).await?.is_empty() {
            return Ok(Instant::now());
        }
        tokio::time::sleep(PRUNE_LOOK).await;
    }
    Err("delivered messages were not pruned".into())
}
