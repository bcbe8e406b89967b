//! `onecommit consume`.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::bytes::{hex, lossy};
use super::interrupt::{runtime, watch_interruption};
use super::output::{Output, is_closed_pipe};
use crate::config::Config;
use crate::delivery::DeliveredMessage;
use crate::error::Result;
use crate::service::open_reader;

/// How long one look for a message waits: Ctrl-C is noticed between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// A group's position is stored after this many messages, and at the end.
const COMMIT_EVERY: u64 = 1000;

#[derive(Args)]
pub(super) struct ConsumeArguments {
    /// The topic to read.
    topic: String,
    /// Begin at the first message; without it, at the next one.
    #[arg(long)]
    from_beginning: bool,
    /// End after this many messages; without it, at Ctrl-C.
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Go on where this consumer group was, and store how far it got.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

pub(super) fn run(config: &Config, arguments: &ConsumeArguments, output: Output) -> Result<i32> {
    let runtime = runtime()?;
    let interrupted = watch_interruption(&runtime);
    let mut reader =
        open_reader(config, &arguments.topic, arguments.group.as_deref(), arguments.from_beginning)?;
    let mut count = 0;
    while arguments.max.is_none_or(|max| count < max) && interrupted.get().is_none() {
        let Some(message) = reader.next(LOOK)? else { continue };
        count += 1;
        let printed =
            if output.json { output.object(&as_json(&message)) } else { output.line(&for_people(&message)) };
        match printed {
            // Whoever read it has enough. What was not printed stays the group's to read.
            Err(error) if is_closed_pipe(&error) => return Ok(0),
            printed => printed?,
        }
        if count.is_multiple_of(COMMIT_EVERY) {
            reader.commit()?;
        }
    }
    reader.commit()?;
    runtime.shutdown_background();
    Ok(interrupted.get().map_or(0, |interruption| interruption.ends()))
}

/// Bytes that are UTF-8 are text in `key` and `value`; others are in `key_hex` and `value_hex`.
fn as_json(message: &DeliveredMessage) -> Value {
    let headers: Vec<Value> =
        message.headers.iter().map(|(name, value)| json!([name, value.as_deref().map(lossy)])).collect();
    let mut object = json!({
        "topic": message.topic, "partition": message.partition, "offset": message.offset,
        "timestamp_ms": message.timestamp_ms, "headers": headers,
    });
    for (name, part) in [("key", &message.key), ("value", &message.value)] {
        match part.as_deref().map(std::str::from_utf8) {
            None => object[name] = Value::Null,
            Some(Ok(text)) => object[name] = json!(text),
            Some(Err(_)) => object[format!("{name}_hex")] = json!(part.as_deref().map(hex)),
        }
    }
    object
}

fn for_people(message: &DeliveredMessage) -> String {
    let part = |part: &Option<Vec<u8>>| part.as_deref().map_or("-".to_string(), lossy);
    format!("{}:{} {} {}", message.partition, message.offset, part(&message.key), part(&message.value))
}
