//! Reading committed messages from Python. Waits in short pieces with the GIL released, so that
//! other threads run and Ctrl-C is noticed.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::error::{attached, detached};
use super::owned::Owned;
use crate::config::Config;
use crate::delivery::DeliveredMessage;
use crate::error::{Error, ErrorKind, Result};
use crate::service;

const OPERATION: &str = "read";
/// How long a piece of waiting is: Python's signal handlers run between two pieces.
const PIECE: Duration = Duration::from_millis(100);

pub(super) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Reader>()
}

/// One open reader of one topic.
#[pyclass(frozen, module = "onecommit._native.read")]
struct Reader {
    // None once it is closed.
    reader: Owned<Mutex<Option<service::Reader>>>,
}

#[pymethods]
impl Reader {
    /// Opens a reader; the position it begins at is fixed when this returns.
    #[new]
    fn new(
        py: Python<'_>,
        topic: String,
        config: Option<PathBuf>,
        group: Option<String>,
        from_beginning: bool,
    ) -> PyResult<Self> {
        let reader = detached(py, OPERATION, || {
            let config = Config::load(config.as_deref())?;
            service::open_reader(&config, &topic, group.as_deref(), from_beginning)
        })?;
        Ok(Reader { reader: Owned::new(Mutex::new(Some(reader))) })
    }

    /// An error in a forked child.
    fn expect_own_process(&self, py: Python<'_>) -> PyResult<()> {
        attached(py, OPERATION, || self.reader.get(OPERATION).map(drop))
    }

    /// The next message as `(topic, partition, offset, timestamp_ms, key, value, headers)`, None
    /// if there is none within `timeout_ms`; None as `timeout_ms` waits for ever.
    fn next<'py>(&self, py: Python<'py>, timeout_ms: Option<u64>) -> PyResult<Option<Parts<'py>>> {
        // A limit too far away to be told apart from none is none.
        let deadline = timeout_ms.and_then(|limit| Instant::now().checked_add(Duration::from_millis(limit)));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let piece = left.map_or(PIECE, |left| left.min(PIECE));
            if let Some(message) = detached(py, OPERATION, || self.with(|reader| reader.next(piece)))? {
                return parts(py, message).map(Some);
            }
            py.check_signals()?;
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
        }
    }

    /// Stores the group's position behind everything that was returned.
    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, OPERATION, || self.with(service::Reader::commit))
    }

    /// Closes it, as often as wanted. The group's position stays where it was stored last.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, OPERATION, || {
            drop(self.lock()?.take());
            Ok(())
        })
    }
}

impl Reader {
    fn lock(&self) -> Result<MutexGuard<'_, Option<service::Reader>>> {
        Ok(self.reader.get(OPERATION)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with<T>(&self, body: impl FnOnce(&mut service::Reader) -> Result<T>) -> Result<T> {
        match self.lock()?.as_mut() {
            Some(reader) => body(reader),
            None => Err(Error::new(ErrorKind::Invalid, OPERATION, "the reader is closed")),
        }
    }
}

type Parts<'py> =
    (String, i32, i64, i64, Option<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>, Bound<'py, PyList>);

fn parts(py: Python<'_>, message: DeliveredMessage) -> PyResult<Parts<'_>> {
    let bytes = |content: Option<Vec<u8>>| content.map(|content| PyBytes::new(py, &content));
    let headers = message.headers.into_iter().map(|(name, value)| (name, bytes(value)));
    let headers = PyList::new(py, headers.collect::<Vec<_>>())?;
    Ok((
        message.topic,
        message.partition,
        message.offset,
        message.timestamp_ms,
        bytes(message.key),
        bytes(message.value),
        headers,
    ))
}
