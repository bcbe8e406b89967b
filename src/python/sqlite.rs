//! The format of the headers in a SQLite outbox. The rest of publishing is Python, through the
//! caller's own `sqlite3`: a second copy of SQLite in one process can corrupt the file.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::error::attached;
use crate::message::Header;
use crate::sqlite::headers;

pub(super) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(encode_headers, module)?)
}

/// Headers as the one BLOB of their column; None where there are none.
#[pyfunction]
fn encode_headers(py: Python<'_>, headers: Vec<Header>) -> PyResult<Option<Bound<'_, PyBytes>>> {
    let encoded = attached(py, "publish", || Ok(headers::encode(&headers)))?;
    Ok(encoded.map(|encoded| PyBytes::new(py, &encoded)))
}
