//! The seam where a Rust error, or a panic, becomes a Python exception.

use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{Error, ErrorKind, Result};

const KINDS: [ErrorKind; 9] = [
    ErrorKind::Invalid,
    ErrorKind::Configuration,
    ErrorKind::Unreachable,
    ErrorKind::Refused,
    ErrorKind::Fenced,
    ErrorKind::Conflict,
    ErrorKind::InDoubt,
    ErrorKind::Unclear,
    ErrorKind::Failed,
];

/// `RETRIABLE`: each kind, and whether the same call may succeed later.
pub(super) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let retriable = PyDict::new(module.py());
    for kind in KINDS {
        retriable.set_item(kind.as_str(), kind.is_retriable())?;
    }
    module.add("RETRIABLE", retriable)
}

/// Runs `body` with the GIL released.
pub(super) fn detached<T: Send>(
    py: Python<'_>,
    operation: &'static str,
    body: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    py.detach(|| caught(operation, body)).map_err(|error| to_python(py, error))
}

/// Runs `body`, which is too short to release the GIL for.
pub(super) fn attached<T>(
    py: Python<'_>,
    operation: &'static str,
    body: impl FnOnce() -> Result<T>,
) -> PyResult<T> {
    caught(operation, body).map_err(|error| to_python(py, error))
}

/// A panic would reach Python as a `PanicException`, which no `except Exception` catches.
fn caught<T>(operation: &'static str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        let why = format!("Onecommit has a defect, please report it: {said}");
        Err(Error::new(ErrorKind::Failed, operation, why))
    })
}

/// The exception for an error, its sources behind it as `__cause__`.
pub(super) fn to_python(py: Python<'_>, error: Error) -> PyErr {
    let cause = error.source().and_then(|source| cause_to_python(py, source));
    match exception(py, &error) {
        Ok(exception) => {
            exception.set_cause(py, cause);
            exception
        }
        Err(failed) => failed,
    }
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let by_kind = py.import("onecommit._errors")?.getattr("BY_KIND")?;
    let class = by_kind.get_item(error.kind().as_str())?;
    let context = PyDict::new(py);
    for (key, value) in error.context() {
        context.set_item(key, value)?;
    }
    Ok(PyErr::from_value(class.call1((error.message(), error.operation(), context))?))
}

fn cause_to_python(py: Python<'_>, source: &(dyn StdError + 'static)) -> Option<PyErr> {
    let deeper = source.source().and_then(|source| cause_to_python(py, source));
    let cause = match source.downcast_ref::<Error>() {
        Some(error) => exception(py, error).ok()?,
        None => PyRuntimeError::new_err(source.to_string()),
    };
    cause.set_cause(py, deeper);
    Some(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_says_what_it_said() {
        let error = caught("read", || -> Result<()> { panic!("{} bottles", 99) }).unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Failed, "read"));
        assert!(error.message().ends_with("please report it: 99 bottles"), "{error}");
        assert_eq!(caught("read", || Ok(1)).unwrap(), 1);
    }
}
