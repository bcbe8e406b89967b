//! How threads of ours speak to Python: never while the interpreter ends. It aborts the whole process where it meets
//! a thread in the middle of that ("Fatal Python error: PyGILState_Release"), and a program that closes and ends is
//! told of the close by such a thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::process::Count;

/// So long the end of the interpreter waits for who is speaking: a logging handler of the program's own may take its
/// time.
const END_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(1);

static HAS_ENDED: AtomicBool = AtomicBool::new(false);
static SPEAKING: Count = Count::new();

/// Before the interpreter ends, it is told here. Registered at the import, so that it comes behind what the program
/// has registered since.
pub(super) fn watch(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let end = wrap_pyfunction!(end, module)?;
    module.py().import("atexit")?.call_method1("register", (end,)).map(drop)
}

/// None where the interpreter ends.
pub(super) fn speak<T>(body: impl FnOnce(Python<'_>) -> T) -> Option<T> {
    // Counted before it looks: then either it sees the end, or the end sees it.
    let _speaking = SPEAKING.enter();
    if has_ended() { None } else { Python::try_attach(body) }
}

/// Whether nobody is spoken to any more.
pub(super) fn has_ended() -> bool {
    HAS_ENDED.load(Ordering::SeqCst)
}

#[pyfunction]
fn end(py: Python<'_>) {
    HAS_ENDED.store(true, Ordering::SeqCst);
    // Whoever speaks waits for the GIL.
    py.detach(|| {
        let until = Instant::now() + END_LIMIT;
        while SPEAKING.number() > 0 && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
    });
}
