//! Running a command until it is done, or until Ctrl-C or SIGTERM ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Error, ErrorKind, Result};

/// Each shard's deliverer has a blocking thread for as long as it runs; there are at most 256 shards a
/// participant.
const BLOCKING_THREADS: usize = 4096;

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

/// Runs a command that Ctrl-C may cut off at any moment: it changes nothing that is not whole.
pub(super) fn until_interrupted<T>(command: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        tokio::select! {
            done = command => done.map(Some),
            code = interrupted() => code.map(|_| None),
        }
    });
    // A blocking call of a client that waits for a server must not hold the exit up.
    runtime.shutdown_background();
    ended
}

/// Waits for Ctrl-C or SIGTERM; returns the exit code that a command which is never done ends with.
pub(super) async fn interrupted() -> Result<i32> {
    let refused = |error: std::io::Error| {
        Error::new(ErrorKind::Failed, "start", "signals can't be received").caused_by(error)
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    tokio::select! {
        _ = terminate.recv() => Ok(0),
        _ = interrupt.recv() => Ok(INTERRUPTED),
    }
}

/// A flag that turns true at Ctrl-C or SIGTERM, for commands that block.
pub(super) fn interrupted_flag(runtime: &tokio::runtime::Runtime) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    runtime.spawn(async move {
        if interrupted().await.is_ok() {
            set.store(true, Ordering::SeqCst);
        }
    });
    flag
}

/// The exit code after Ctrl-C.
pub(super) const INTERRUPTED: i32 = 130;
