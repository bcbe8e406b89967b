//! Tells Python's futures what came, on a thread of its own: whoever waits for the GIL beside busy Python threads
//! does nothing else meanwhile, and so no decision waits with it. The thread ends with the last sender.

use std::sync::mpsc::{Sender, channel};

use pyo3::prelude::*;
use tokio::task::AbortHandle;

use super::error::to_python;
use super::interpreter;
use super::owned::Owned;
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
                interpreter::speak(|py| {
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

/// A future that is told in any case: where what it waits for ends with the runtime, it is told of that.
pub(super) struct Promise {
    tellings: Tellings,
    /// None once it is told; and what it is told where nothing else comes.
    open: Option<(Py<PyAny>, Error)>,
}

impl Promise {
    pub(super) fn new(tellings: &Tellings, operation: &'static str, future: Py<PyAny>) -> Result<Self> {
        let why = match interpreter::has_ended() {
            true => {
                "the interpreter ends: register what is to be done then (atexit) behind the import of onecommit"
            }
            false => "it was closed meanwhile: open it again",
        };
        Promise::or(tellings, future, Error::new(ErrorKind::Invalid, operation, why))
    }

    /// With what is told of the end of the runtime. It is an error at once where the interpreter ends: a future would
    /// not be told of it any more.
    pub(super) fn or(tellings: &Tellings, future: Py<PyAny>, closed: Error) -> Result<Self> {
        if interpreter::has_ended() {
            return Err(closed);
        }
        Ok(Promise { tellings: tellings.clone(), open: Some((future, closed)) })
    }

    pub(super) fn keep(mut self, answer: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static) {
        if let Some((future, _)) = self.open.take() {
            self.tellings.tell(future, answer);
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some((future, closed)) = self.open.take() {
            self.tellings.tell(future, |py| Err(to_python(py, closed)));
        }
    }
}

pub(super) fn no_threads(operation: &'static str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Failed, operation, "no threads could be started").caused_by(error)
}

/// Something that is waited for, and can be given up. Dropped, it is.
#[pyclass(frozen, module = "onecommit._native.lock")]
pub(super) struct Wait(Owned<AbortHandle>);

impl Wait {
    pub(super) fn new(waiting: AbortHandle) -> Self {
        Wait(Owned::new(waiting))
    }
}

#[pymethods]
impl Wait {
    /// Gives it up: the future is told nothing. In a forked child nothing waits.
    fn cancel(&self) {
        if let Ok(waiting) = self.0.get("cancel") {
            waiting.abort();
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.cancel();
    }
}
