//! Tells Python's futures what came, on a thread of its own: whoever waits for the GIL beside busy Python threads
//! does nothing else meanwhile, and so no decision waits with it. The thread ends with the last sender.

use std::sync::mpsc::{Sender, channel};

use pyo3::prelude::*;
use tokio::task::AbortHandle;

use crate::error::{Error, ErrorKind, Result};

/// A future, and what makes its result, or its exception.
type Telling = (Py<PyAny>, Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>);

/// Speaks to the thread.
#[derive(Clone)]
pub(super) struct Tellings(Sender<Telling>);

impl Tellings {
    pub(super) fn start(operation: &'static str) -> Result<Self> {
        let (tellings, received) = channel::<Telling>();
        let work = move || {
            while let Ok((future, answer)) = received.recv() {
                // None while the interpreter ends: nobody waits any more.
                Python::try_attach(|py| {
                    let told = match answer(py) {
                        Ok(result) => future.call_method1(py, "set_result", (result,)),
                        Err(error) => future.call_method1(py, "set_exception", (error,)),
                    };
                    // Cancelled by the one who waited.
                    drop(told);
                });
            }
        };
        let started = std::thread::Builder::new().name("onecommit-tell".to_string()).spawn(work);
        started.map(|_| Tellings(tellings)).map_err(|error| no_threads(operation, error))
    }

    pub(super) fn tell(
        &self,
        future: Py<PyAny>,
        answer: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static,
    ) {
        // An error only where nobody tells any more.
        let _ = self.0.send((future, Box::new(answer)));
    }
}

pub(super) fn no_threads(operation: &'static str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Failed, operation, "no threads could be started").caused_by(error)
}

/// Something that is waited for, and can be given up.
#[pyclass(frozen, module = "onecommit._native.lock")]
pub(super) struct Wait(pub(super) AbortHandle);

#[pymethods]
impl Wait {
    /// Gives it up: the future is told nothing.
    fn cancel(&self) {
        self.0.abort();
    }
}
