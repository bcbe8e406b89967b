//! `cargo bench --bench relay`: the relay beside a bare transactional rdkafka producer, on real
//! servers, in one run with the order alternated; then the latency from commit to consumer, and how
//! long messages wait when a relay is killed.
//!
//! Every figure that matters is a ratio of two runs minutes apart on the same machine, or CPU
//! seconds: absolute rates of a shared machine mean little. Servers are those of
//! `ONECOMMIT_TEST_POSTGRES` and `ONECOMMIT_TEST_KAFKA`, or are started for the run.

mod backlog;
mod bare;
mod kafka;
mod latency;
mod ours;
mod process;
mod report;
mod steady;
mod takeover;

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use clap::Parser;

use crate::report::Report;

/// Whatever goes wrong ends the bench.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const POSTGRES: &str = "ONECOMMIT_TEST_POSTGRES";
const KAFKA: &str = "ONECOMMIT_TEST_KAFKA";

/// The relay beside a bare transactional producer.
#[derive(Parser, Clone)]
#[command(name = "relay")]
pub(crate) struct Options {
    /// Messages that wait in each round.
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
    /// Rounds; each has one run of either, in turned order.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Messages produced before anything is measured: a fresh broker is several times slower.
    #[arg(long, default_value_t = 3_000_000)]
    warm_up: u64,
    /// Seconds of the latency measurement at 1,000 messages a second; 0 leaves latency out.
    #[arg(long, default_value_t = 20)]
    latency_seconds: u64,
    /// First messages after idle time.
    #[arg(long, default_value_t = 20)]
    first_messages: usize,
    /// Relays killed with another one beside them, and as many that are started again.
    #[arg(long, default_value_t = 5)]
    kills: usize,
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
}

/// The servers measured on.
pub(crate) struct Servers {
    pub(crate) postgres: String,
    pub(crate) kafka: String,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let (Ok(postgres), Ok(kafka)) = (std::env::var(POSTGRES), std::env::var(KAFKA)) else {
        return start_servers();
    };
    let servers = Servers { postgres, kafka };
    if let Some(topic) = &options.bare {
        return bare::run(&servers, topic, options.messages);
    }
    let runtime = tokio::runtime::Runtime::new()?;
    warm_up(&servers, options.warm_up)?;
    let mut report = Report::default();
    for round in 0..options.rounds {
        let ours_first = round % 2 == 0;
        if ours_first {
            report.ours.push(runtime.block_on(ours::measure(&servers, &options))?);
        }
        report.bare.push(bare::measure(&servers, options.messages)?);
        if !ours_first {
            report.ours.push(runtime.block_on(ours::measure(&servers, &options))?);
        }
        report.print_round(round)?;
    }
    if options.latency_seconds > 0 {
        report.latency = Some(runtime.block_on(latency::measure(&servers, &options))?);
    }
    report.takeover = runtime.block_on(takeover::measure(&servers, &options))?;
    report.print(options.json)
}

/// Runs this program again with servers around it; returns only where that fails.
fn start_servers() -> Result<()> {
    let error = Command::new("python3")
        .args(["-m", "tests.servers", "run", "--only", "postgres,kafka", "--kafka-heap", "1g", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
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
