//! Locks and leadership of this process, for Python. What waits is a task of its own, which tells a
//! `concurrent.futures.Future`, and is given up with its [`Wait`].

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::Handle;

use super::error::to_python;
use super::telling::{Tellings, Wait};
use crate::coordinator::HeldLock;

pub(super) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Held>()?;
    module.add_class::<Wait>()
}

/// A lock that is held, or the leadership. It is given up where nobody has it any more.
#[pyclass(frozen, module = "onecommit._native.lock")]
pub(super) struct Held {
    held: Arc<HeldLock>,
    handle: Handle,
    tellings: Tellings,
}

impl Held {
    pub(super) fn new(held: HeldLock, handle: Handle, tellings: Tellings) -> Self {
        Held { held: Arc::new(held), handle, tellings }
    }
}

#[pymethods]
impl Held {
    /// The fencing number, or the term.
    #[getter]
    fn number(&self) -> i64 {
        self.held.number()
    }

    /// Whether it is held for certain, at this moment.
    fn is_held(&self) -> bool {
        self.held.is_held()
    }

    /// Tells `future` True as soon as it is lost, or False where it was not within the limit.
    fn lost(&self, timeout_ms: u64, future: Py<PyAny>) -> Wait {
        let (held, tellings) = (Arc::clone(&self.held), self.tellings.clone());
        let waiting = self.handle.spawn(async move {
            let is_lost = tokio::time::timeout(Duration::from_millis(timeout_ms), held.lost()).await.is_ok();
            tellings.tell(future, move |py| Ok(is_lost.into_pyobject(py)?.to_owned().into_any().unbind()));
        });
        Wait(waiting.abort_handle())
    }

    /// Gives it up; `future` is told of a lock that was lost before.
    fn release(&self, future: Py<PyAny>) {
        let (held, tellings) = (Arc::clone(&self.held), self.tellings.clone());
        self.handle.spawn(async move {
            let released = held.give_up().await;
            tellings.tell(future, move |py| match released {
                Ok(()) => Ok(py.None()),
                Err(error) => Err(to_python(py, error)),
            });
        });
    }
}
