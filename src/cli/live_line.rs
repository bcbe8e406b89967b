//! Progress for a person who waits: one line on a terminal that changes in place, and nothing where
//! standard error is a pipe or a file.

use std::convert::Infallible;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::output::Output;

/// What is done sooner needs no progress.
const QUIET_FOR: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(200);

/// The line. It goes with this value.
pub(super) struct LiveLine {
    shown: bool,
}

impl LiveLine {
    pub(super) fn new(output: Output) -> Self {
        LiveLine { shown: !output.json && std::io::stderr().is_terminal() }
    }

    pub(super) fn show(&self, text: &str) {
        if self.shown {
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r{text}\x1b[K").and_then(|()| out.flush());
        }
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        self.show("");
    }
}

/// Which step a command is in, for how long, shown while it runs.
pub(super) struct Steps {
    current: Mutex<String>,
}

impl Steps {
    pub(super) fn new(first: &str) -> Self {
        Steps { current: Mutex::new(first.to_string()) }
    }

    /// The next step begins.
    pub(super) fn begin(&self, step: &str) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = step.to_string();
    }

    /// Runs `command`, and shows the step that it is in.
    pub(super) async fn during<T>(&self, output: Output, command: impl Future<Output = T>) -> T {
        tokio::select! {
            done = command => done,
            never = self.show(LiveLine::new(output)) => match never {},
        }
    }

    async fn show(&self, line: LiveLine) -> Infallible {
        let began = Instant::now();
        loop {
            tokio::time::sleep(TICK).await;
            if began.elapsed() > QUIET_FOR {
                let step = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
                line.show(&format!("{step}: {} s", began.elapsed().as_secs()));
            }
        }
    }
}
