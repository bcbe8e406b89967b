//! `onecommit dead-letter`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::bytes::{hex, lossy};
use super::confirm::confirm;
use super::interrupt::until_interrupted;
use super::live_line::Steps;
use super::output::Output;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{MessageId, ParticipantName};
use crate::message::StoredMessage;
use crate::outbox::{DeadLetter, Request, Selection};
use crate::service::{self, Answer, Owned};

const OPERATION: &str = "dead-letter";
/// So many are asked for at once.
const ASKED_MAX: u32 = 10_000;

#[derive(Args)]
pub(super) struct DeadLetterArguments {
    #[command(subcommand)]
    command: DeadLetterCommand,
}

#[derive(Subcommand)]
enum DeadLetterCommand {
    /// List messages that can't be delivered, with what waits behind them.
    List {
        #[command(flatten)]
        of: OfArguments,
        /// Only those of this topic.
        #[arg(long, value_name = "NAME")]
        topic: Option<String>,
        /// At most so many of each participant, the oldest first.
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one with its headers and its value.
    Show { message_id: MessageId },
    /// Try to deliver them once more, and after them what waits behind them.
    Retry(AskArguments),
    /// Give them up for good, and deliver what waits behind them.
    Discard {
        #[command(flatten)]
        ask: AskArguments,
        /// Don't ask.
        #[arg(long)]
        yes: bool,
    },
    /// Declare a topic dead: its messages become dead letters, those that wait for it and all to come.
    Topic {
        name: String,
        #[command(flatten)]
        of: OfArguments,
        /// Take it back: the topic's messages are delivered again. Its dead letters stay until they are
        /// retried.
        #[arg(long)]
        undo: bool,
    },
}

#[derive(Args)]
struct OfArguments {
    /// Only of this participant; without it, of all that have an outbox.
    #[arg(long, value_name = "NAME")]
    participant: Option<ParticipantName>,
}

#[derive(Args)]
#[group(id = "which", required = true, multiple = false, args = ["message_ids", "topic", "all"])]
struct AskArguments {
    /// These messages.
    #[arg(value_name = "MESSAGE_ID")]
    message_ids: Vec<MessageId>,
    /// All of this topic.
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// All of them.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    of: OfArguments,
    /// Wait so long until it is done; the shards' owners do it.
    #[arg(long, value_name = "N", default_value_t = 30)]
    wait_seconds: u64,
}

pub(super) fn run(config: &Config, arguments: &DeadLetterArguments, output: Output) -> Result<i32> {
    match &arguments.command {
        DeadLetterCommand::List { of, topic, limit } => list(config, of, topic.as_ref(), *limit, output),
        DeadLetterCommand::Show { message_id } => show(config, *message_id, output),
        DeadLetterCommand::Retry(asked) => ask(config, asked, Request::Retry, true, output),
        DeadLetterCommand::Discard { ask: asked, yes } => ask(config, asked, Request::Discard, *yes, output),
        DeadLetterCommand::Topic { name, of, undo } => declare(config, of, name, !undo, output),
    }
}

fn list(
    config: &Config,
    of: &OfArguments,
    topic: Option<&String>,
    limit: u32,
    output: Output,
) -> Result<i32> {
    let selection = topic.map_or(Selection::All, |topic| Selection::Topic(topic.clone()));
    let steps = Steps::new("asking the databases");
    let listed = service::dead_letters(config, of.participant.as_ref(), &selection, limit);
    let found = match until_interrupted(steps.during(output, listed))? {
        Ok(found) => found,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if output.json {
        let letters: Vec<Value> = found.iter().map(as_json).collect();
        output.object(&json!({"dead_letters": letters}))?;
        return Ok(0);
    }
    if found.is_empty() {
        output.line("no dead letters")?;
    }
    for letter in &found {
        output.line(&for_people(letter))?;
    }
    Ok(0)
}

fn show(config: &Config, message_id: MessageId, output: Output) -> Result<i32> {
    let steps = Steps::new("asking the databases");
    let found = match until_interrupted(steps.during(output, service::dead_letter(config, message_id)))? {
        Ok(found) => found,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    let (letter, message) = found.ok_or_else(|| {
        let why = "there is no dead letter with this message id";
        Error::new(ErrorKind::Invalid, OPERATION, why).with("message_id", message_id)
    })?;
    if output.json {
        let mut object = as_json(&letter);
        object["message"] = message.as_ref().map_or(Value::Null, message_as_json);
        output.object(&object)?;
        return Ok(0);
    }
    output.line(&for_people(&letter))?;
    let Some(stored) = message else {
        output.line("  its row was deleted by hand: there is nothing left to deliver")?;
        return Ok(0);
    };
    for (name, value) in stored.message.headers() {
        output.line(&format!("  header {name}: {}", value.as_deref().map_or("-".to_string(), lossy)))?;
    }
    output.line(&format!("  value: {}", stored.message.value().map_or("-".to_string(), lossy)))?;
    Ok(0)
}

fn ask(
    config: &Config,
    arguments: &AskArguments,
    request: Request,
    sure: bool,
    output: Output,
) -> Result<i32> {
    let selection = match &arguments.topic {
        Some(topic) => Selection::Topic(topic.clone()),
        None if arguments.all => Selection::All,
        None => Selection::Messages(arguments.message_ids.clone()),
    };
    let listed = service::dead_letters(config, arguments.of.participant.as_ref(), &selection, ASKED_MAX);
    let letters = match until_interrupted(listed)? {
        Ok(letters) => letters,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if let Selection::Messages(ids) = &selection
        && let Some(unknown) =
            ids.iter().find(|id| !letters.iter().any(|(_, letter)| letter.message_id == **id))
    {
        let why = "there is no dead letter with this message id; nothing was asked for";
        return Err(Error::new(ErrorKind::Invalid, OPERATION, why).with("message_id", unknown));
    }
    if !sure {
        let question = format!(
            "These {} messages will never be delivered. Type discard to discard them:",
            letters.len()
        );
        for letter in &letters {
            output.line(&for_people(letter))?;
        }
        if !letters.is_empty()
            && let Err(interruption) = until_interrupted(confirm(OPERATION, &question, "discard"))?
        {
            return Ok(interruption.cuts_off());
        }
    }
    let steps = Steps::new("waiting for the shards' owners");
    let limit = Duration::from_secs(arguments.wait_seconds);
    let asked = service::ask(config, letters, request, limit);
    let answer = match until_interrupted(steps.during(output, asked))? {
        Ok(answer) => answer,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    print_answer(&answer, request, output)?;
    Ok(i32::from(!answer.failed.is_empty() || !answer.pending.is_empty()))
}

fn print_answer(answer: &Answer, request: Request, output: Output) -> Result<()> {
    if output.json {
        let all = |letters: &[Owned]| letters.iter().map(as_json).collect::<Vec<_>>();
        return output.object(&json!({
            "done": all(&answer.done), "failed": all(&answer.failed), "pending": all(&answer.pending),
        }));
    }
    let done = match request {
        Request::Retry => "delivered",
        Request::Discard => "discarded",
    };
    output.line(&format!("{} {done}", answer.done.len()))?;
    for letter in &answer.failed {
        output.line(&format!("failed again: {}", for_people(letter)))?;
    }
    if !answer.pending.is_empty() {
        output.line(&format!(
            "{} asked for and not done yet: a relay does it as soon as it owns the shard and reaches Kafka",
            answer.pending.len()
        ))?;
    }
    Ok(())
}

fn declare(config: &Config, of: &OfArguments, topic: &str, dead: bool, output: Output) -> Result<i32> {
    let declared = service::declare_topic(config, of.participant.as_ref(), topic, dead);
    let changed = match until_interrupted(declared)? {
        Ok(changed) => changed,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    if output.json {
        let names: Vec<&str> = changed.iter().map(ParticipantName::as_str).collect();
        output.object(&json!({"topic": topic, "dead": dead, "changed": names}))?;
        return Ok(0);
    }
    let word = if dead { "dead" } else { "alive" };
    if changed.is_empty() {
        output.line(&format!("topic {topic} was {word} already"))?;
    }
    for name in &changed {
        output.line(&format!("{name}: topic {topic} is {word} from now on"))?;
    }
    Ok(0)
}

fn as_json((participant, letter): &Owned) -> Value {
    let request = letter.request.map(|request| match request {
        Request::Retry => "retry",
        Request::Discard => "discard",
    });
    let mut object = json!({
        "participant": participant.as_str(), "shard": letter.shard.0,
        "message_id": letter.message_id.to_string(), "topic": letter.topic, "reason": letter.reason,
        "request": request, "set_aside_at_ms": letter.set_aside_at_ms, "waiting_messages": letter.waiting,
    });
    put_bytes(&mut object, "key", letter.key.as_deref());
    object
}

fn message_as_json(stored: &StoredMessage) -> Value {
    let message = &stored.message;
    let headers: Vec<Value> =
        message.headers().iter().map(|(name, value)| json!([name, value.as_deref().map(lossy)])).collect();
    let mut object = json!({
        "partition": message.partition(), "timestamp_ms": stored.created_at_ms, "headers": headers,
        "bytes": message.size(),
    });
    put_bytes(&mut object, "value", message.value());
    object
}

/// Bytes that are UTF-8 are text; others are in `…_hex`.
fn put_bytes(object: &mut Value, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => object[name] = Value::Null,
        Some(Ok(text)) => object[name] = json!(text),
        Some(Err(_)) => object[format!("{name}_hex")] = json!(bytes.map(hex)),
    }
}

fn for_people((participant, letter): &Owned) -> String {
    let key = letter.key.as_deref().map_or("no key".to_string(), |key| format!("key {}", lossy(key)));
    let waiting = match letter.waiting {
        0 => String::new(),
        1 => "; 1 message waits behind it".to_string(),
        waiting => format!("; {waiting} messages wait behind it"),
    };
    let request = match letter.request {
        None => "",
        Some(Request::Retry) => "; a retry is asked for",
        Some(Request::Discard) => "; to be discarded",
    };
    let DeadLetter { message_id, topic, reason, .. } = letter;
    format!("{participant} {message_id} topic {topic}, {key}: {reason}{waiting}{request}")
}
