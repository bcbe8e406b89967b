//! The relay as people run it: the binary in a process of its own, over a database in which the
//! backlog is committed already.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::backlog::{Database, connect};
use crate::report::Run;
use crate::{Options, Result, Servers, kafka, process};

const STOP_LIMIT: Duration = Duration::from_secs(20);
const PRUNE_LIMIT: Duration = Duration::from_secs(120);
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
        let name = format!("bench_{}", uuid::Uuid::new_v4().simple());
        let database = Database::create(&servers.postgres, &name).await?;
        let topic = format!("ours-{}", uuid::Uuid::new_v4());
        let folder = tempfile::tempdir()?;
        let mut text = format!(
            "data_dir = \"{}\"\n[kafka]\n\"bootstrap.servers\" = \"{}\"\n[participants.main]\nurl = \"{}\"\n\
             outbox = true\n[relay]\n",
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
            .args(["init", "--topic", &installed.topic, "--partitions", &kafka::PARTITIONS.to_string()])
            .arg("--json")
            .arg("--config")
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
    pub(crate) fn relay(&self) -> Result<Relay> {
        Relay::start(&self.config())
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

/// A relay's process; killed when dropped.
pub(crate) struct Relay {
    child: Child,
}

impl Relay {
    fn start(config: &Path) -> Result<Self> {
        let program = env!("CARGO_BIN_EXE_onecommit");
        let child = Command::new(program)
            .arg("relay")
            .arg("--config")
            .arg(config)
            .env("ONECOMMIT_LOG", std::env::var("ONECOMMIT_LOG").unwrap_or("warn".to_string()))
            .spawn()?;
        Ok(Relay { child })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails where it has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("the relay ended by itself: {status}").into()),
        }
    }

    /// Stops it as people do; it has to end with code 0.
    pub(crate) fn stop(mut self) -> Result<()> {
        Command::new("kill").arg(self.pid().to_string()).status()?;
        let began = Instant::now();
        while began.elapsed() < STOP_LIMIT {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the relay ended with {status}").into()),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        Err("the relay did not stop".into())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One run: the time until everything is delivered, and until everything is pruned as well.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Run> {
    let messages = options.messages;
    let installed = Installed::create(servers, options).await?;
    installed.database.fill(&installed.topic, messages).await?;
    let mut relay = installed.relay()?;
    let pid = relay.pid();
    let pruned = tokio::spawn(wait_until_pruned(installed.database.url.clone()));
    let mut cpu_s = 0.0;
    let (address, topic) = (servers.kafka.clone(), installed.topic.clone());
    let (relay, written) = tokio::task::spawn_blocking(move || {
        let written = kafka::wait_until_written(
            &address,
            &topic,
            messages,
            || relay.check_alive(),
            || {
                cpu_s = process::cpu_seconds(pid)?;
                Ok(())
            },
        );
        (relay, written.map(|written| (written, cpu_s)))
    })
    .await?;
    let (written, cpu_s) = written?;
    let pruned = pruned.await??;
    let peak_rss_mb = process::peak_rss_mb(pid)?;
    relay.stop()?;
    let counted = kafka::count_committed(&servers.kafka, &installed.topic)?;
    if counted != messages {
        return Err(format!("the relay delivered {counted} of {messages} messages").into());
    }
    installed.remove(servers).await?;
    Ok(Run {
        messages,
        delivered_s: (written.last - written.first).as_secs_f64(),
        cpu_s,
        peak_rss_mb,
        pruned_s: Some((pruned - written.first).as_secs_f64()),
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
