//! `cargo bench --bench relay`: the relay beside a bare transactional rdkafka producer and beside a
//! poller as it is written by hand, on real servers, in one run; docs/performance.md says how.
//!
//! Every figure that matters is a ratio of two runs minutes apart on the same machine, or CPU
//! seconds: absolute rates of a shared machine mean little. Servers are those of
//! `ONECOMMIT_TEST_POSTGRES` and `ONECOMMIT_TEST_KAFKA`, or are started for the run.

mod backlog;
mod bare;
mod bloat;
mod figure;
mod kafka;
mod latency;
mod memory;
mod ours;
mod poller;
mod process;
mod publishing;
mod python_transfers;
mod reading;
mod run;
mod settling;
mod sizes;
mod steady;
mod takeover;
mod throughput;
mod transfers;
mod versions;

use std::os::unix::process::CommandExt as _;

use clap::{Parser, ValueEnum};

use crate::figure::{Figure, as_json, markdown};

/// Whatever goes wrong ends the bench.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const POSTGRES: &str = "ONECOMMIT_TEST_POSTGRES";
const KAFKA: &str = "ONECOMMIT_TEST_KAFKA";
const ZOOKEEPER: &str = "ONECOMMIT_TEST_ZOOKEEPER";
/// A second PostgreSQL of the same version, and three ZooKeepers.
const OTHER_POSTGRES: &str = "ONECOMMIT_TEST_POSTGRES_15";
const ENSEMBLE: &str = "ONECOMMIT_TEST_ZOOKEEPER_ENSEMBLE";

/// A part that can be measured alone.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A backlog: the relay, the bare producer and the poller in turns.
    Throughput,
    /// Backlogs of several sizes, and dead rows.
    Sizes,
    /// Many messages through a steady backlog: how large the table gets.
    Bloat,
    /// Messages of several sizes: the relay's memory.
    Memory,
    /// Publishing beside an INSERT written by hand.
    Publish,
    /// 1,000 messages a second, then idle time.
    Latency,
    /// Relays that are killed.
    Takeover,
    /// Two databases in one commit.
    Transfers,
    /// The same from Python, beside SQLAlchemy's two-phase sessions.
    PythonTransfers,
    /// A coordinator that is killed with transactions in doubt.
    Settling,
}

/// The relay beside a bare transactional producer and a poller.
#[derive(Parser, Clone)]
#[command(name = "relay")]
pub(crate) struct Options {
    /// Only these parts, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PARTS")]
    only: Vec<Part>,
    /// Messages that wait in each round.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// Rounds of each measurement, in turned order.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Sizes of backlogs; those above a million rows are measured once.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 1_000_000, 10_000_000], value_name = "ROWS")]
    sizes: Vec<u64>,
    /// Dead rows under a held snapshot, and as many messages behind them.
    #[arg(long, default_value_t = 1_000_000)]
    dead_rows: u64,
    /// Messages that go through the steady backlog.
    #[arg(long, default_value_t = 20_000_000)]
    steady_messages: u64,
    /// Messages of the steady backlog.
    #[arg(long, default_value_t = 100_000)]
    steady_backlog: u64,
    /// Megabytes of messages of each size over which memory is measured.
    #[arg(long, default_value_t = 300)]
    memory_mb: u64,
    /// Seconds of each run of publishing.
    #[arg(long, default_value_t = 4)]
    publish_seconds: u64,
    /// Seconds of each run of transfers.
    #[arg(long, default_value_t = 4)]
    transfer_seconds: u64,
    /// How many transfer at the same time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256], value_name = "CLIENTS")]
    transfer_clients: Vec<usize>,
    /// Messages produced before anything is measured: a fresh broker is several times slower.
    #[arg(long, default_value_t = 3_000_000)]
    warm_up: u64,
    /// Seconds of the latency measurement at 1,000 messages a second.
    #[arg(long, default_value_t = 20)]
    latency_seconds: u64,
    /// Seconds without a message, before each first one.
    #[arg(long, default_value_t = 60)]
    idle_seconds: u64,
    /// First messages after idle time.
    #[arg(long, default_value_t = 7)]
    idle_rounds: usize,
    /// Also keys of the relay's `[relay]` table, as in `batch_bytes=8388608`; several times.
    #[arg(long, value_name = "KEY=VALUE")]
    relay: Vec<String>,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
    /// The bare producer's own process: its topic.
    #[arg(long, hide = true)]
    bare: Option<String>,
    /// The process of a coordinator that is to be killed: what it works with.
    #[arg(long, hide = true)]
    doomed: Option<String>,
}

/// The servers measured on.
pub(crate) struct Servers {
    pub(crate) postgres: String,
    pub(crate) other_postgres: String,
    pub(crate) kafka: String,
    pub(crate) zookeeper: String,
    pub(crate) ensemble: String,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let named = [POSTGRES, OTHER_POSTGRES, KAFKA, ZOOKEEPER, ENSEMBLE].map(std::env::var);
    let [Ok(postgres), Ok(other_postgres), Ok(kafka), Ok(zookeeper), Ok(ensemble)] = named else {
        return start_servers();
    };
    let servers = Servers { postgres, other_postgres, kafka, zookeeper, ensemble };
    if let Some(topic) = &options.bare {
        return bare::run(&servers, topic, options.messages);
    }
    let runtime = tokio::runtime::Runtime::new()?;
    if let Some(place) = &options.doomed {
        return runtime.block_on(settling::doomed(&servers, place));
    }
    let versions = runtime.block_on(versions::versions(&servers))?;
    warm_up(&servers, options.warm_up)?;
    let figures = runtime.block_on(measure(&servers, &options))?;
    if options.json {
        println!("{}", serde_json::json!({"versions": versions, "figures": as_json(&figures)}));
    } else {
        println!("{versions}\n\n{}", markdown(&figures));
    }
    Ok(())
}

/// All parts, or those asked for. Each one's figures are shown as soon as they are there.
async fn measure(servers: &Servers, options: &Options) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for part in Part::value_variants() {
        if !options.only.is_empty() && !options.only.contains(part) {
            continue;
        }
        let found = match part {
            Part::Throughput => throughput::measure(servers, options).await?,
            Part::Sizes => sizes::measure(servers, options).await?,
            Part::Bloat => bloat::measure(servers, options).await?,
            Part::Memory => memory::measure(servers, options).await?,
            Part::Publish => publishing::measure(servers, options).await?,
            Part::Latency => latency::measure(servers, options).await?,
            Part::Takeover => takeover::measure(servers, options).await?,
            Part::Transfers => transfers::measure(servers, options).await?,
            Part::PythonTransfers => python_transfers::measure(servers, options).await?,
            Part::Settling => settling::measure(servers, options).await?,
        };
        eprintln!("{}", markdown(&found));
        figures.extend(found);
    }
    Ok(figures)
}

/// Runs this program again with servers around it; returns only where that fails. The broker gives
/// the space of deleted topics back at once: its disk holds one run.
fn start_servers() -> Result<()> {
    let servers = "-m tests.servers run --only postgres,kafka,zookeeper --postgres-versions 15 \
        --zookeeper-members 3 --kafka-heap 1g \
        --kafka-property log.segment.delete.delay.ms=1000 \
        --kafka-property log.retention.check.interval.ms=5000 --";
    let error = process::python()
        .args(servers.split_whitespace())
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(error.into())
}

/// In parts, so that the broker's disk does not have to hold all of it.
fn warm_up(servers: &Servers, messages: u64) -> Result<()> {
    const PART: u64 = 500_000;
    let mut left = messages;
    while left > 0 {
        let part = left.min(PART);
        let run = bare::measure(servers, part)?;
        eprintln!("warm-up: {:.0} messages/s", part as f64 / run.delivered_s);
        left -= part;
    }
    Ok(())
}
