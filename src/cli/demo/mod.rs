//! `onecommit demo`: shows, with no server, what Onecommit promises. Writers change a SQLite
//! database and publish in the same transactions, some of which they roll back; a relay is killed
//! with SIGKILL again and again while it has work in flight; a consumer reads the topic log. The
//! verdict compares what the consumer really read with what the database really holds.

mod bank;
mod consumer;
mod folder;
mod ledger;
mod process;
mod relay;
mod stage;
mod verdict;
mod writers;

use std::ffi::OsString;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::json;

use self::consumer::Consumer;
use self::relay::KilledRelay;
use self::stage::Stage;
use self::verdict::{Verdict, compare};
use self::writers::Writers;
use super::interrupt::{Interruption, runtime, watch_interruption};
use super::live_line::LiveLine;
use super::output::Output;
use crate::config::{Config, Relay};
use crate::error::{Error, ErrorKind, Result};

/// How long the last messages may take to arrive once nothing is killed any more.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// How long the whole demo may take.
const DEMO_LIMIT: Duration = Duration::from_secs(600);

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct DemoArguments {
    #[command(subcommand)]
    show: Option<Show>,
    /// How many messages are published at least.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    messages: u64,
    /// How often the relay is killed.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1000))]
    kills: u32,
}

#[derive(Subcommand)]
enum Show {
    /// Show transactions over two PostgreSQL databases: workers that move money and publish each transfer are
    /// killed again and again, the others settle what they leave, and the books are compared.
    Bank(bank::BankArguments),
    /// One of the bank's workers.
    #[command(hide = true)]
    BankWorker,
}

/// What was counted while the demo ran.
struct Counts {
    committed: u64,
    rolled_back: u64,
    kills: u32,
    seconds: f64,
}

/// `program` starts this command line anew: what is killed is a process of its own. Of the configuration
/// `given` only the relay's settings are taken.
pub(super) fn run(
    program: &[OsString],
    given: Option<Config>,
    arguments: &DemoArguments,
    output: Output,
) -> Result<i32> {
    match (&arguments.show, given) {
        (None, given) => show_relay(program, given.map(|config| config.relay), arguments, output),
        (Some(Show::Bank(bank)), given) => bank::run(program, given.map(|config| config.relay), bank, output),
        (Some(Show::BankWorker), given) => bank::work(&given.map_or_else(|| Config::load(None), Ok)?, output),
    }
}

fn show_relay(
    program: &[OsString],
    settings: Option<Relay>,
    arguments: &DemoArguments,
    output: Output,
) -> Result<i32> {
    let runtime = runtime()?;
    let interrupted = watch_interruption(&runtime);
    let stage = Stage::set(&runtime, settings)?;
    tell(output, "Writers change a database and publish messages in the same transactions; some roll back.")?;
    tell(
        output,
        "A relay carries the committed messages to a topic log. It is killed (SIGKILL) again and again.",
    )?;
    let began = Instant::now();
    let shown = play(program, arguments, output, &stage, &interrupted);
    if let Some(interruption) = interrupted.get() {
        return Ok(interruption.cuts_off());
    }
    let (verdict, mut counts) = shown?;
    counts.seconds = began.elapsed().as_secs_f64();
    print(&verdict, &counts, output)?;
    Ok(verdict.exit_code())
}

fn play(
    program: &[OsString],
    arguments: &DemoArguments,
    output: Output,
    stage: &Stage,
    interrupted: &OnceLock<Interruption>,
) -> Result<(Verdict, Counts)> {
    let began = Instant::now();
    let consumer = Consumer::start(stage)?;
    let writers = Writers::start(stage)?;
    let mut relay = KilledRelay::start(program, stage)?;
    let line = LiveLine::new(output);
    while relay.kills < arguments.kills || writers.published() < arguments.messages {
        if interrupted.get().is_some() || began.elapsed() > DEMO_LIMIT {
            return Err(Error::new(ErrorKind::Failed, "demo", "it did not end in time"));
        }
        writers.check()?;
        relay.step(arguments.kills)?;
        line.show(&format!(
            "{:>9} published, {:>9} delivered, {:>3} kills",
            writers.published(),
            consumer.count(),
            relay.kills
        ));
    }
    let (committed, rolled_back) = writers.stop()?;
    let expected = ledger::read(stage)?;
    let deadline = Instant::now() + DRAIN_LIMIT;
    while consumer.count() < expected.len() as u64 && Instant::now() < deadline && interrupted.get().is_none()
    {
        relay.check()?;
        line.show(&format!("{:>9} of {} delivered", consumer.count(), expected.len()));
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(line);
    let delivered = consumer.stop()?;
    let counts = Counts { committed, rolled_back, kills: relay.kills, seconds: 0.0 };
    Ok((compare(&expected, &delivered), counts))
}

fn tell(output: Output, text: &str) -> Result<()> {
    if output.json { Ok(()) } else { output.line(text) }
}

fn print(verdict: &Verdict, counts: &Counts, output: Output) -> Result<()> {
    if output.json {
        return output.object(&json!({
            "committed": counts.committed, "rolled_back": counts.rolled_back,
            "published": verdict.published, "delivered": verdict.delivered,
            "lost": verdict.lost, "duplicates": verdict.duplicates,
            "out_of_order": verdict.out_of_order, "phantom": verdict.phantom,
            "relay_kills": counts.kills, "seconds": (counts.seconds * 10.0).round() / 10.0,
        }));
    }
    output.line(&format!(
        "{} transactions committed, {} rolled back; the relay was killed {} times with work in flight.",
        counts.committed, counts.rolled_back, counts.kills
    ))?;
    output.line(&format!(
        "{} messages published, {} delivered: {} lost, {} twice, {} out of order, {} that never were.",
        verdict.published,
        verdict.delivered,
        verdict.lost,
        verdict.duplicates,
        verdict.out_of_order,
        verdict.phantom
    ))?;
    let word = if verdict.is_clean() { "Exactly once, in order" } else { "NOT exactly once" };
    output.line(&format!("{word} ({:.1} s).", counts.seconds))
}
