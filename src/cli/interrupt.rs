//! Running a command until it is done, or until Ctrl-C or SIGTERM ends it.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use tokio::signal::unix::{SignalKind, signal};

use super::output::is_closed_pipe;
use crate::error::{Error, ErrorKind, Result};

/// Each shard's deliverer has a blocking thread for as long as it runs; there are at most 256 shards a
/// participant.
const BLOCKING_THREADS: usize = 4096;

/// Who asked the command to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    /// A person, with Ctrl-C.
    CtrlC,
    /// A supervisor, with SIGTERM.
    Terminate,
}

impl Interruption {
    /// The exit code of a command that runs until it is ended: SIGTERM is its ordinary end.
    pub(super) fn ends(self) -> i32 {
        match self {
            Interruption::CtrlC => INTERRUPTED,
            Interruption::Terminate => 0,
        }
    }

    /// The exit code of a command that was cut off: what it was to do is not done.
    pub(super) fn cuts_off(self) -> i32 {
        match self {
            Interruption::CtrlC => INTERRUPTED,
            Interruption::Terminate => 1,
        }
    }
}

/// The exit code after Ctrl-C.
const INTERRUPTED: i32 = 130;

/// The async runtime of a command. One thread drives all of it: whatever blocks has a thread of its
/// own, and a relay's reader and its connection wake each other for every few messages, which
/// between two threads costs more than the work.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|error| {
            Error::new(ErrorKind::Failed, "start", "the async runtime can't be started").caused_by(error)
        })
}

/// Runs a command that may be cut off at any moment: it changes nothing that is not whole.
pub(super) fn until_interrupted<T>(
    command: impl Future<Output = Result<T>>,
) -> Result<Result<T, Interruption>> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        tokio::select! {
            done = command => done.map(Ok),
            interruption = interrupted() => interruption.map(Err),
        }
    });
    // A blocking call of a client that waits for a server must not hold the exit up.
    runtime.shutdown_background();
    ended
}

/// Runs one that goes on until it is ended, by a person, a supervisor, or a reader that has enough; its exit code.
pub(super) fn until_ended(command: impl Future<Output = Result<Infallible>>) -> Result<i32> {
    match until_interrupted(command) {
        Ok(Err(interruption)) => Ok(interruption.ends()),
        Err(error) if is_closed_pipe(&error) => Ok(0),
        Err(error) => Err(error),
        Ok(Ok(never)) => match never {},
    }
}

/// Waits for Ctrl-C or SIGTERM.
pub(super) async fn interrupted() -> Result<Interruption> {
    let refused = |error: std::io::Error| {
        Error::new(ErrorKind::Failed, "start", "signals can't be received").caused_by(error)
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    tokio::select! {
        _ = terminate.recv() => Ok(Interruption::Terminate),
        _ = interrupt.recv() => Ok(Interruption::CtrlC),
    }
}

/// Holds the first Ctrl-C or SIGTERM, for commands that block.
pub(super) fn watch_interruption(runtime: &tokio::runtime::Runtime) -> Arc<OnceLock<Interruption>> {
    let seen = Arc::new(OnceLock::new());
    let set = Arc::clone(&seen);
    runtime.spawn(async move {
        if let Ok(interruption) = interrupted().await {
            let _ = set.set(interruption);
        }
    });
    seen
}
