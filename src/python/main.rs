//! The command line, run inside the Python process: a child would survive the SIGKILL that is
//! meant for its parent.

use std::ffi::OsString;

use pyo3::prelude::*;

use super::error::detached;

pub(super) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(main, module)?)
}

/// Runs a command line, its first word being the program's name; returns the exit code. Where it
/// starts a relay of its own, that is this Python's `-m onecommit`.
#[pyfunction]
fn main(py: Python<'_>, arguments: Vec<OsString>) -> PyResult<i32> {
    let python: OsString = py.import("sys")?.getattr("executable")?.extract()?;
    let program = [python, "-m".into(), "onecommit".into()];
    detached(py, "run command", move || Ok(crate::cli::main_as(&program, arguments)))
}
