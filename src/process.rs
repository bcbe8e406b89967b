//! Which process this is. A forked child has copies of what its parent has opened: sockets that are the parent's,
//! locks that nobody may ever let go, and none of the threads. So it uses nothing of that.
//!
//! It can't open the same anew, either. ZooKeeper's client has one thread in a process for all of its connections, which
//! no child can start again. And SQLite in a child takes the locks of its parent's connections for its own, and takes none:
//! the parent, or anybody else, removes the WAL under it when it closes, and with it what the child has decided.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Which process was the first to open something of that kind; 0 before that.
static OPENED_FIRST: AtomicU32 = AtomicU32::new(0);
/// Who is opening such a thing.
static OPENING: Count = Count::new();

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

/// How many of something are under way in this process. A forked child begins with none: what its parent was about to
/// do ends there alone, and no lock of it is taken along.
pub(crate) struct Count(
    /// The process, and behind it the number.
    AtomicU64,
);

impl Count {
    pub(crate) const fn new() -> Self {
        Count(AtomicU64::new(0))
    }

    /// One more, until what it gives is dropped.
    pub(crate) fn enter(&self) -> Counted<'_> {
        self.change(|number| number + 1);
        Counted(self, Process::this())
    }

    #[cfg(any(feature = "python", test))]
    pub(crate) fn number(&self) -> u32 {
        let (process, number) = split(self.0.load(Ordering::SeqCst));
        if process.is_this() { number } else { 0 }
    }

    /// Whether the process that this one was forked from was in the middle of it.
    fn is_anothers(&self) -> bool {
        let (process, number) = split(self.0.load(Ordering::SeqCst));
        !process.is_this() && number > 0
    }

    fn change(&self, change: impl Fn(u32) -> u32) {
        let this = std::process::id();
        let changed = |state| {
            let (process, number) = split(state);
            let number = if process.is_this() { number } else { 0 };
            Some(u64::from(this) << 32 | u64::from(change(number)))
        };
        // It is never an error.
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, changed);
    }
}

fn split(state: u64) -> (Process, u32) {
    let [process, number] =
        [state >> 32, state & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(0));
    (Process(process), number)
}

/// One of a [`Count`].
pub(crate) struct Counted<'a>(&'a Count, Process);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if self.1.is_this() {
            self.0.change(|number| number.saturating_sub(1));
        }
    }
}

/// What a forked child is told.
pub(crate) fn forked(operation: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, operation, FORKED)
}

/// What gives it is being opened until it is dropped. An error where this is a child of a process that has opened
/// something that can't be opened in both, or was about to: a library's lock may be held for ever.
pub(crate) fn opening(operation: &'static str) -> Result<Counted<'static>> {
    expect_can_open(operation)?;
    Ok(OPENING.enter())
}

fn expect_can_open(operation: &'static str) -> Result<()> {
    let first = OPENED_FIRST.load(Ordering::SeqCst);
    let is_own = first == 0 || first == std::process::id();
    if is_own && !OPENING.is_anothers() { Ok(()) } else { Err(forked(operation)) }
}

/// The same, before such a thing is opened here.
pub(crate) fn opens(operation: &'static str) -> Result<()> {
    // An error where something was opened before.
    let _ = OPENED_FIRST.compare_exchange(0, std::process::id(), Ordering::SeqCst, Ordering::SeqCst);
    expect_can_open(operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_counted_until_it_is_over() {
        let count = Count::new();
        let first = count.enter();
        drop((first, count.enter()));
        let _last = count.enter();
        assert_eq!((count.number(), count.is_anothers()), (1, false));
    }

    #[test]
    fn a_forked_child_begins_with_none() {
        let parent = u64::from(std::process::id()) + 1;
        let count = Count(AtomicU64::new(parent << 32 | 2));
        assert_eq!((count.number(), count.is_anothers()), (0, true));
        let own = count.enter();
        assert_eq!((count.number(), count.is_anothers()), (1, false));
        drop(own);
        assert_eq!(count.number(), 0);
    }
}
