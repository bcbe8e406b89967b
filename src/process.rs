//! Which process this is. A forked child has copies of what its parent has opened: sockets that are the parent's,
//! locks that nobody may ever let go, and none of the threads. So it uses nothing of that.
//!
//! It can't open the same anew, either. ZooKeeper's client has one thread in a process for all of its connections, which
//! no child can start again. And SQLite in a child takes the locks of its parent's connections for its own, and takes none:
//! the parent, or anybody else, removes the WAL under it when it closes, and with it what the child has decided.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Which process was the first to open something of that kind; 0 before that.
static OPENED_FIRST: AtomicU32 = AtomicU32::new(0);

const FORKED: &str = "this process was forked after `open`, and nothing can be opened in it, or used: open nothing before \
                      the fork, and in the child only (gunicorn: without preload_app, or in post_fork; \
                      multiprocessing: the start method spawn or forkserver)";

/// The process in which something was opened.
#[derive(Clone, Copy)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn this() -> Self {
        Process(std::process::id())
    }

    /// False in a forked child.
    pub(crate) fn is_this(self) -> bool {
        self.0 == std::process::id()
    }

    /// An error in a forked child. Waits for nothing.
    pub(crate) fn expect(self, operation: &'static str) -> Result<()> {
        if self.is_this() { Ok(()) } else { Err(forked(operation)) }
    }
}

/// What a forked child is told.
pub(crate) fn forked(operation: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, operation, FORKED)
}

/// An error where this is a child of a process that has opened something that can't be opened in both.
pub(crate) fn expect_can_open(operation: &'static str) -> Result<()> {
    let first = OPENED_FIRST.load(Ordering::SeqCst);
    if first == 0 || first == std::process::id() { Ok(()) } else { Err(forked(operation)) }
}

/// The same, before such a thing is opened here.
pub(crate) fn opens(operation: &'static str) -> Result<()> {
    // An error where something was opened before.
    let _ = OPENED_FIRST.compare_exchange(0, std::process::id(), Ordering::SeqCst, Ordering::SeqCst);
    expect_can_open(operation)
}
