//! What the core logs, for Python's own `logging`: warnings, errors and what else is worth telling, under
//! the logger `onecommit`. Where the program has set up no logging, Python shows warnings and errors.
//!
//! A thread of its own hands the lines over, so that nothing in the core ever waits for the GIL. Promises
//! that a line which finds no room is counted and told of, and blocks nobody.

use std::fmt::{self, Write as _};
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::reload;

use super::interpreter;
use crate::config::LogLevel;

const LOGGER: &str = "onecommit";
/// As many lines may wait for Python.
const LINES_MAX: usize = 1000;

/// Where lines go, and of which process: a forked child has no thread that would take them.
static LINES: RwLock<Option<(u32, SyncSender<Line>)>> = RwLock::new(None);
static DROPPED: AtomicU64 = AtomicU64::new(0);

struct Line {
    /// One of Python's.
    level: u8,
    text: String,
}

/// From now on lines are handed over, once a process. Not where the program has a subscriber already, as the
/// command line does.
pub(super) fn start() -> std::io::Result<()> {
    let process = std::process::id();
    // Somebody else is starting it; or this is a child that was forked at that very moment.
    let Ok(mut lines) = LINES.try_write() else { return Ok(()) };
    if lines.as_ref().is_some_and(|(of, _)| *of == process) {
        return Ok(());
    }
    let (sender, received) = sync_channel(LINES_MAX);
    let (reloaded, handle) = reload::Layer::new(filter(None));
    let layer = ToPython.with_filter(reloaded);
    let is_first =
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).is_ok();
    if is_first {
        LogLevel::on_change(Box::new(move |level| drop(handle.reload(filter(level)))));
    }
    if is_first || lines.is_some() {
        std::thread::Builder::new().name("onecommit-log".to_string()).spawn(move || hand_over(&received))?;
        *lines = Some((process, sender));
    }
    Ok(())
}

/// None is the level that a program begins with; Python's own levels hold beside it.
fn filter(level: Option<LogLevel>) -> Targets {
    let level = match level {
        Some(LogLevel::Error) => Level::ERROR,
        Some(LogLevel::Warn) => Level::WARN,
        None | Some(LogLevel::Info) => Level::INFO,
        Some(LogLevel::Debug) => Level::DEBUG,
        Some(LogLevel::Trace) => Level::TRACE,
    };
    Targets::new().with_target("onecommit", level)
}

fn hand_over(received: &Receiver<Line>) {
    while let Ok(line) = received.recv() {
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let text = format!("{dropped} lines of Onecommit's log found no room, and are lost");
            log(&Line { level: 30, text });
        }
        log(&line);
    }
}

fn log(line: &Line) {
    // None while the interpreter ends.
    interpreter::speak(|py| {
        let logger = py.import("logging")?.call_method1("getLogger", (LOGGER,))?;
        // A handler that fails is the program's own, and tells of it by itself.
        logger.call_method1("log", (line.level, "%s", &line.text)).map(drop)
    });
}

struct ToPython;

impl<S: Subscriber> Layer<S> for ToPython {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            Level::INFO => 20,
            Level::DEBUG | Level::TRACE => 10,
        };
        let mut text = Text::default();
        event.record(&mut text);
        let line = Line { level, text: text.message + &text.fields };
        if let Ok(lines) = LINES.try_read()
            && let Some((_, lines)) = &*lines
            && let Err(TrySendError::Full(_)) = lines.try_send(line)
        {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The message, and then the fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Into memory it can't fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
