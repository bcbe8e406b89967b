//! `onecommit init`.

use clap::Args;
use serde_json::json;

use super::interrupt::until_interrupted;
use super::live_line::Steps;
use super::output::Output;
use super::remove;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::outbox::postgres::{self, SCHEMA_VERSION};
use crate::service::{self, InitReport};

#[derive(Args)]
pub(super) struct InitArguments {
    /// Make this topic for messages, too; may be given several times.
    #[arg(long, value_name = "NAME")]
    topic: Vec<String>,
    /// Partitions of the topics made; without it the broker's default.
    #[arg(long, value_name = "N", requires = "topic", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// Only print the SQL for PostgreSQL, for people who run their own migrations.
    #[arg(long, conflicts_with = "topic")]
    print_sql: bool,
    /// With --print-sql: the version that is there already.
    #[arg(long, value_name = "N", requires = "print_sql", default_value_t = 0)]
    from: usize,
    /// Remove what init made, after asking: tables, progress topics, znodes. Topics for messages stay.
    #[arg(long, conflicts_with_all = ["topic", "print_sql"])]
    remove: bool,
    /// With --remove: do not ask; for scripts.
    #[arg(long, requires = "remove")]
    yes: bool,
    /// With --remove: also where messages wait that were not delivered. They are lost.
    #[arg(long, requires = "remove")]
    discard_undelivered: bool,
}

pub(super) fn run(config: &Config, arguments: &InitArguments, output: Output) -> Result<i32> {
    if arguments.print_sql {
        return print_sql(config, arguments.from, output);
    }
    if arguments.remove {
        return remove::run(config, arguments.yes, arguments.discard_undelivered, output);
    }
    let steps = Steps::new("starting");
    let begin = |step: &str| steps.begin(step);
    let made = service::init(config, &arguments.topic, arguments.partitions, &begin);
    let report = match until_interrupted(steps.during(output, made))? {
        Ok(report) => report,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if output.json {
        output.object(&as_json(&report))?
    } else {
        print(&report, output)?
    }
    Ok(0)
}

fn print_sql(config: &Config, from: usize, output: Output) -> Result<i32> {
    if from > SCHEMA_VERSION as usize {
        let why = format!("this release knows versions up to {SCHEMA_VERSION}");
        return Err(Error::new(ErrorKind::Invalid, "print SQL", why).with("from", from));
    }
    let sql = postgres::print_sql(&config.schema, from);
    if output.json {
        output.object(&json!({"from": from, "to": SCHEMA_VERSION, "sql": sql}))?;
    } else {
        output.line(sql.trim_end())?;
    }
    Ok(0)
}

fn as_json(report: &InitReport) -> serde_json::Value {
    let participants: Vec<_> = report
        .participants
        .iter()
        .map(|one| json!({"participant": one.participant.as_str(), "shards": one.shards, "made": one.made}))
        .collect();
    let topics: Vec<_> =
        report.topics.iter().map(|(topic, made)| json!({"topic": topic, "made": made})).collect();
    json!({
        "incarnation": report.incarnation.to_string(), "born": report.born,
        "participants": participants, "topics": topics, "guarded_nodes": report.guarded_nodes,
    })
}

fn print(report: &InitReport, output: Output) -> Result<()> {
    let word = |made| if made { "made" } else { "was there" };
    for one in &report.participants {
        let what = match one.shards {
            0 => format!("tables of {}", one.participant),
            1 => format!("outbox of {} (1 shard)", one.participant),
            shards => format!("outbox of {} ({shards} shards)", one.participant),
        };
        output.line(&format!("{what}: {}", word(one.made)))?;
    }
    for (topic, made) in &report.topics {
        output.line(&format!("topic {topic}: {}", word(*made)))?;
    }
    if report.guarded_nodes > 0 {
        let nodes = report.guarded_nodes;
        output.line(&format!("ZooKeeper: {nodes} nodes that anybody could change are this user's now"))?;
    }
    output.line(&format!(
        "incarnation {}: {}",
        report.incarnation,
        if report.born { "born" } else { "known" }
    ))
}
