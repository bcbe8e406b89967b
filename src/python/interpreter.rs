//! How threads of ours speak to Python: never while the interpreter ends. It aborts the whole process where it meets
//! a thread in the middle of that ("Fatal Python error: PyGILState_Release"), and a program that closes and ends is
//! told of the close by such a thread.

use std::sync::{PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// So long the end of the interpreter waits for who is speaking: a logging handler of the program's own may take
/// longer.
const END_LIMIT: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// True from when it ends. Who speaks holds it for reading.
static HAS_ENDED: RwLock<bool> = RwLock::new(false);

/// Before the interpreter ends, it is told here. Registered at the import, so that it comes behind what the program
/// has registered since.
pub(super) fn watch(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let end = wrap_pyfunction!(end, module)?;
    module.py().import("atexit")?.call_method1("register", (end,)).map(drop)
}

/// None where the interpreter ends.
pub(super) fn speak<T>(body: impl FnOnce(Python<'_>) -> T) -> Option<T> {
    let has_ended = HAS_ENDED.read().unwrap_or_else(PoisonError::into_inner);
    if *has_ended { None } else { Python::try_attach(body) }
}

/// Whether nobody is spoken to any more.
pub(super) fn has_ended() -> bool {
    *HAS_ENDED.read().unwrap_or_else(PoisonError::into_inner)
}

#[pyfunction]
fn end(py: Python<'_>) {
    // Whoever speaks waits for the GIL.
    py.detach(|| {
        let until = Instant::now() + END_LIMIT;
        while Instant::now() < until {
            // A forked child may have a copy that is locked for ever.
            match HAS_ENDED.try_write() {
                Ok(mut has_ended) => return *has_ended = true,
                Err(TryLockError::Poisoned(error)) => return *error.into_inner() = true,
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_EVERY),
            }
        }
    });
}
