//! `onecommit demo bank`: shows what transactions over several databases promise. Workers move money
//! between two PostgreSQL databases and publish each transfer, in one transaction; they are killed with
//! SIGKILL again and again, and whoever lives settles what they leave; a relay delivers into the topic log.
//! In the end all books are compared: both databases, what was delivered, and what the workers were told.

mod books;
mod databases;
mod server;
mod worker;
mod workers;

use std::ffi::OsString;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use self::books::{Books, Verdict, compare};
use self::databases::{Databases, MONEY, TOPIC};
use self::server::Server;
pub(super) use self::worker::run as work;
use self::workers::{Told, Workers};
use super::process;
use crate::cli::interrupt::{Interruption, runtime, watch_interruption};
use crate::cli::live_line::LiveLine;
use crate::cli::output::Output;
use crate::config::Relay;
use crate::delivery::topic_log::TopicLogReader;
use crate::error::{Error, ErrorKind, Result};
use crate::id::TransactionId;

const OPERATION: &str = "demo bank";
/// How long what is left may take to be settled and delivered once nobody is killed any more.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// How long the whole demo may take.
const DEMO_LIMIT: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Args)]
pub(super) struct BankArguments {
    /// A database of a PostgreSQL server, as postgresql://USER@HOST/postgres, on which two databases are made
    /// and removed. Without it the demo makes a server of its own, by the server programs of this machine.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// How many transfers are committed at least.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    transfers: u64,
    /// How often a worker is killed with a transaction half done.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1000))]
    kills: u32,
}

/// What was counted while it ran.
struct Counts {
    books: Books,
    kills: u32,
    /// How long something that was left half done has waited for others.
    slowest: Duration,
}

/// Runs the show. `settings` are those of the relay, where they were given.
pub(super) fn run(
    program: &[OsString],
    settings: Option<Relay>,
    arguments: &BankArguments,
    output: Output,
) -> Result<i32> {
    let runtime = runtime()?;
    let interrupted = watch_interruption(&runtime);
    let began = Instant::now();
    let server = Server::find(&runtime, arguments.postgres.as_deref())?;
    let databases = Databases::make(&runtime, &server, settings)?;
    if !output.json {
        output.line(&format!("Workers move money between two databases, on {server},"))?;
        output.line("and publish each transfer: all three in one transaction.")?;
        output.line("They are killed (SIGKILL) again and again; those that live settle what the dead have left half done.")?;
    }
    let shown = play(program, arguments, output, &databases, &interrupted);
    if let Some(interruption) = interrupted.get() {
        return Ok(interruption.cuts_off());
    }
    let counts = shown?;
    let verdict = compare(&counts.books);
    print(verdict, &counts, began.elapsed(), output)?;
    Ok(verdict.exit_code())
}

fn play(
    program: &[OsString],
    arguments: &BankArguments,
    output: Output,
    databases: &Databases<'_>,
    interrupted: &OnceLock<Interruption>,
) -> Result<Counts> {
    let began = Instant::now();
    let mut relay = RunningRelay::start(program, databases)?;
    let mut workers = Workers::start(program, databases)?;
    let line = LiveLine::new(output);
    while workers.kills < arguments.kills || workers.committed() < arguments.transfers {
        if interrupted.get().is_some() || began.elapsed() > DEMO_LIMIT {
            return Err(late());
        }
        relay.check()?;
        workers.step(arguments.kills)?;
        line.show(&format!("{:>9} transfers, {:>3} kills", workers.committed(), workers.kills));
        std::thread::sleep(PAUSE);
    }
    drop(line);
    finish(databases, workers, relay, interrupted)
}

/// Waits until everything is settled and delivered, and takes all books.
fn finish(
    databases: &Databases<'_>,
    mut workers: Workers<'_>,
    mut relay: RunningRelay<'_>,
    interrupted: &OnceLock<Interruption>,
) -> Result<Counts> {
    let told = workers.stop(DRAIN_LIMIT)?;
    let deadline = Instant::now() + DRAIN_LIMIT;
    let mut wait = || relay.wait(deadline, interrupted);
    while !workers.watch()? {
        wait()?;
    }
    let [north, south] = databases.entries()?;
    let mut reader = TopicLogReader::open(&databases.topic_log(), TOPIC, None, true)?;
    let mut delivered = Vec::new();
    while delivered.len() < south.len() {
        wait()?;
        read(&mut reader, &mut delivered)?;
    }
    drop(relay);
    // Nothing comes behind them.
    read(&mut reader, &mut delivered)?;
    let (money_before, money) = ([MONEY, MONEY], databases.totals()?);
    let Told { committed: told_committed, rolled_back: told_rolled_back } = told;
    let left = std::mem::take(&mut workers.unfinished);
    let books =
        Books { north, south, money_before, money, delivered, left, told_committed, told_rolled_back };
    Ok(Counts { books, kills: workers.kills, slowest: workers.slowest })
}

/// Reads what is delivered by now.
fn read(reader: &mut TopicLogReader, delivered: &mut Vec<(TransactionId, i64)>) -> Result<()> {
    while let Some(message) = reader.next(Duration::ZERO)? {
        let value: Value = serde_json::from_slice(&message.value.unwrap_or_default()).unwrap_or_default();
        let transfer = value["transfer"].as_str().unwrap_or_default().parse()?;
        delivered.push((transfer, value["amount"].as_i64().unwrap_or_default()));
    }
    Ok(())
}

/// The relay, as a process of its own.
struct RunningRelay<'a> {
    child: Child,
    databases: &'a Databases<'a>,
}

impl<'a> RunningRelay<'a> {
    fn start(program: &[OsString], databases: &'a Databases<'a>) -> Result<Self> {
        let (log, config_file) = (databases.log("relay"), &databases.config_file);
        let child = process::start(program, config_file, &["relay"], &log, Stdio::null(), Stdio::null())?;
        Ok(RunningRelay { child, databases })
    }

    fn check(&mut self) -> Result<()> {
        process::check(&mut self.child, "relay", &self.databases.log("relay"))
    }

    /// Waits a moment for what it does.
    fn wait(&mut self, deadline: Instant, interrupted: &OnceLock<Interruption>) -> Result<()> {
        if interrupted.get().is_some() || Instant::now() > deadline {
            return Err(late());
        }
        std::thread::sleep(PAUSE);
        self.check()
    }
}

impl Drop for RunningRelay<'_> {
    fn drop(&mut self) {
        let _ = process::kill(&mut self.child);
    }
}

fn late() -> Error {
    Error::new(ErrorKind::Failed, OPERATION, "it did not end in time")
}

fn print(verdict: Verdict, counts: &Counts, took: Duration, output: Output) -> Result<()> {
    let Counts { books, kills, slowest } = counts;
    let [left_committed, left_rolled_back] = books.settled();
    let (committed, rolled_back) = (books.south.len(), books.told_rolled_back.len());
    let seconds = |time: Duration| (time.as_secs_f64() * 10.0).round() / 10.0;
    if output.json {
        return output.object(&json!({
            "committed": committed, "rolled_back": rolled_back, "worker_kills": kills,
            "left_committed": left_committed, "left_rolled_back": left_rolled_back,
            "slowest_settled_seconds": seconds(*slowest), "money_before": books.money_before, "money": books.money,
            "delivered": books.delivered.len(), "torn": verdict.torn, "wrong_sums": verdict.wrong_sums,
            "lost": verdict.lost, "duplicates": verdict.duplicates, "phantom": verdict.phantom,
            "told_wrong": verdict.told_wrong, "seconds": seconds(took),
        }));
    }
    output.line(&format!(
        "{committed} transfers committed, {rolled_back} rolled back; a worker was killed \
         {kills} times with a transaction half done."
    ))?;
    output.line(&format!(
        "Of what they left {left_committed} were committed and {left_rolled_back} rolled back by others, the last \
         after {:.1} s.",
        slowest.as_secs_f64()
    ))?;
    let (before, now) = (books.money_before, books.money);
    output.line(&format!(
        "Money: {} + {} before, {} + {} now: {} then and {} now.",
        before[0],
        before[1],
        now[0],
        now[1],
        before.iter().sum::<i64>(),
        now.iter().sum::<i64>()
    ))?;
    output.line(&format!(
        "Ledgers: {} and {} entries, {} messages: {} torn, {} lost, {} twice, {} that never were, {} told wrongly.",
        books.north.len(),
        books.south.len(),
        books.delivered.len(),
        verdict.torn,
        verdict.lost,
        verdict.duplicates,
        verdict.phantom,
        verdict.told_wrong
    ))?;
    let word = if verdict.is_clean() { "All or nothing, exactly once" } else { "NOT all or nothing" };
    output.line(&format!("{word} ({:.1} s).", took.as_secs_f64()))
}
