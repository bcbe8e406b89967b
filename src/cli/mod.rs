//! The command line. Each command prints for people, or with `--json` one object (a line each
//! where it streams); what went wrong goes to standard error, and the exit code says what kind it
//! was.

mod adopt;
mod bytes;
mod confirm;
mod consume;
mod dead_letter;
mod demo;
mod doctor;
mod init;
mod interrupt;
mod live_line;
mod nodes;
mod output;
mod relay;
mod remove;
mod screen;
mod settings;
mod status;
mod surveyed;
mod transaction;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use self::output::{Output, exit_code, is_closed_pipe, report};
use crate::config::{Config, LogLevel};
use crate::error::Result;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// One commit for your databases and Kafka.
#[derive(Parser)]
#[command(name = "onecommit", version, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    /// The configuration file; without it ./onecommit.toml, or all defaults where that is not there.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON: one object, or one a line where it streams. Log lines and errors are JSON, too.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make what the configuration needs: tables, topics, znodes. Running it again changes nothing.
    Init(init::InitArguments),
    /// Carry committed messages to Kafka (or the topic log), until SIGTERM or Ctrl-C.
    Relay,
    /// Show each shard's owner, position, backlog and last error, and transactions that wait to be settled.
    Status(status::StatusArguments),
    /// See messages that can't be delivered, and have them retried or discarded.
    DeadLetter(dead_letter::DeadLetterArguments),
    /// See transactions over several databases that are not at their end, and how one has ended; settle what a
    /// dead program left, or give it up.
    Transaction(transaction::TransactionArguments),
    /// Show who is alive, what each holds, and what is left of the dead.
    Nodes(nodes::NodesArguments),
    /// See and change settings while everything runs: batch sizes, pauses, what happens with messages that can't
    /// be delivered, the log's level.
    Settings(settings::SettingsArguments),
    /// Look for what goes wrong in time: clocks, settings, rights, bloat, long transactions, topics.
    /// Says for each finding what to do; exits with 1 where something has to be corrected.
    Doctor,
    /// Take a restored, copied or upgraded database, or another Kafka or ZooKeeper, in the place of the
    /// one before: shows what it found and what would be delivered again, and asks.
    Adopt(adopt::AdoptArguments),
    /// Print the committed messages of a topic.
    Consume(consume::ConsumeArguments),
    /// Show what Onecommit does, with no server: writers, a relay that is killed again and again,
    /// a consumer, and the verdict; `demo bank` shows transactions over two PostgreSQL databases. Of a file
    /// given with --config only [relay] is used: the databases are the demo's own.
    Demo(demo::DemoArguments),
}

/// Runs a command line, its first word being the program's name; returns the exit code.
///
/// 0 done, 1 failed, 2 usage or configuration, 3 a server can't be reached, 4 refused in order to
/// protect data, 130 Ctrl-C.
///
/// ```
/// assert_eq!(onecommit::cli::main(["onecommit", "--version"]), 0);
/// assert_eq!(onecommit::cli::main(["onecommit", "relya"]), 2);
/// ```
pub fn main<I>(arguments: I) -> i32
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let program = std::env::current_exe().map(|path| vec![path.into_os_string()]).unwrap_or_default();
    main_as(&program, arguments)
}

/// The same, where this process is not the program itself: `program` and the words behind it start
/// this command line anew (Python: `sys.executable -m onecommit`).
pub fn main_as<I>(program: &[OsString], arguments: I) -> i32
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return error.exit_code();
        }
    };
    log_to_stderr(arguments.json);
    let output = Output { json: arguments.json };
    match run(program, arguments, output) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => exit_code(&error),
        Err(error) => {
            report(&error, output);
            exit_code(&error)
        }
    }
}

fn run(program: &[OsString], arguments: Arguments, output: Output) -> Result<i32> {
    let config = || Config::load(arguments.config.as_deref());
    match arguments.command {
        Command::Init(init) => init::run(&config()?, &init, output),
        Command::Relay => relay::run(&config()?),
        Command::DeadLetter(dead_letter) => dead_letter::run(&config()?, &dead_letter, output),
        Command::Status(status) => status::run(&config()?, &status, output),
        Command::Transaction(transaction) => transaction::run(&config()?, &transaction, output),
        Command::Nodes(nodes) => nodes::run(&config()?, &nodes, output),
        Command::Settings(settings) => settings::run(&config()?, &settings, output),
        Command::Doctor => doctor::run(&config()?, output),
        Command::Adopt(adopt) => adopt::run(&config()?, &adopt, output),
        Command::Consume(consume) => consume::run(&config()?, &consume, output),
        Command::Demo(demo) => {
            let given = arguments.config.as_deref().map(|file| Config::load(Some(file))).transpose()?;
            demo::run(program, given, &demo, output)
        }
    }
}

/// Log lines go to standard error, so that output stays what was asked for. `ONECOMMIT_LOG` takes
/// tracing's directives (`debug`, `onecommit=debug,librdkafka=debug`).
fn log_to_stderr(json: bool) {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(log_filter(None))
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(!json && std::io::stderr().is_terminal());
    // In a process that has a subscriber already, its own stays.
    let _ = if json {
        let lines = lines.json().flatten_event(true).with_span_list(false).with_filter_reloading();
        let handle = lines.reload_handle();
        LogLevel::on_change(Box::new(move |level| drop(handle.reload(log_filter(level)))));
        lines.try_init()
    } else {
        let lines = lines.with_filter_reloading();
        let handle = lines.reload_handle();
        LogLevel::on_change(Box::new(move |level| drop(handle.reload(log_filter(level)))));
        lines.try_init()
    };
}

/// What is logged unless somebody said otherwise. The thread of ZooKeeper's client tells of each session that
/// it is closed, and would do so behind the error with which a command ends: that one is the last line.
const INFO: &str = "info,zookeeper_client=warn";

/// None is the level that the process began with.
fn log_filter(level: Option<LogLevel>) -> EnvFilter {
    match level {
        Some(LogLevel::Info) => EnvFilter::new(INFO),
        Some(level) => EnvFilter::new(level.as_str()),
        None => EnvFilter::try_from_env("ONECOMMIT_LOG").unwrap_or_else(|_| EnvFilter::new(INFO)),
    }
}
