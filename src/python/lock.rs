//! Locks and leadership of this process, for Python. What waits is a task of its own, which tells a
//! `concurrent.futures.Future`, and is given up with its [`Wait`].

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::Handle;

use super::error::{attached, to_python};
use super::owned::Owned;
use super::telling::{Promise, Tellings, Wait};
use crate::coordinator::HeldLock;

const WAIT: &str = "wait for loss";
const RELEASE: &str = "release";

pub(super) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Held>()?;
    module.add_class::<Wait>()
}

/// A lock that is held, or the leadership. It is given up where nobody has it any more.
#[pyclass(frozen, module = "onecommit._native.lock")]
pub(super) struct Held {
    /// The fencing number, or the term.
    #[pyo3(get)]
    number: i64,
    own: Owned<Own>,
}

struct Own {
    held: Arc<HeldLock>,
    handle: Handle,
    tellings: Tellings,
}

impl Held {
    pub(super) fn new(held: HeldLock, handle: Handle, tellings: Tellings) -> Self {
        let number = held.number();
        Held { number, own: Owned::new(Own { held: Arc::new(held), handle, tellings }) }
    }
}

#[pymethods]
impl Held {
    /// An error in a forked child, which holds nothing.
    fn expect_own_process(&self, py: Python<'_>) -> PyResult<()> {
        attached(py, RELEASE, || self.own.get(RELEASE).map(drop))
    }

    /// Whether it is held for certain, at this moment.
    fn is_held(&self) -> bool {
        self.own.get(WAIT).is_ok_and(|own| own.held.is_held())
    }

    /// Tells `future` True as soon as it is lost, or False where it was not within the limit.
    fn lost(&self, py: Python<'_>, timeout_ms: u64, future: Py<PyAny>) -> PyResult<Wait> {
        attached(py, WAIT, || {
            let Own { held, handle, tellings } = self.own.get(WAIT)?;
            let (held, promise) = (Arc::clone(held), Promise::new(tellings, WAIT, future)?);
            let waiting = handle.spawn(async move {
                let limit = Duration::from_millis(timeout_ms);
                let is_lost = tokio::time::timeout(limit, held.lost()).await.is_ok();
                promise.keep(move |py| Ok(is_lost.into_pyobject(py)?.to_owned().into_any().unbind()));
            });
            Ok(Wait::new(waiting.abort_handle()))
        })
    }

    /// Gives it up; `future` is told of a lock that was lost before.
    fn release(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<()> {
        attached(py, RELEASE, || {
            let Own { held, handle, tellings } = self.own.get(RELEASE)?;
            let (held, promise) = (Arc::clone(held), Promise::new(tellings, RELEASE, future)?);
            handle.spawn(async move {
                let released = held.give_up().await;
                promise.keep(move |py| match released {
                    Ok(()) => Ok(py.None()),
                    Err(error) => Err(to_python(py, error)),
                });
            });
            Ok(())
        })
    }
}
