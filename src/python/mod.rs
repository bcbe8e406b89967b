//! The native half of the Python package `onecommit`: the module `onecommit._native`, one
//! submodule a Rust file, each with a stub of the same name.
//!
//! Relies on `onecommit._errors` for the exception classes. Promises that Python sees only these
//! exceptions, never a panic, and that whatever waits does so with the GIL released. Importing it
//! starts no thread.

mod error;
mod group;
mod interpreter;
mod lock;
mod logging;
mod main;
mod message;
mod node;
mod owned;
mod read;
mod sqlite;
mod telling;
mod transaction;

use pyo3::prelude::*;

type Fill = fn(&Bound<'_, PyModule>) -> PyResult<()>;

const SUBMODULES: [(&str, Fill); 9] = [
    ("error", error::fill),
    ("group", group::fill),
    ("lock", lock::fill),
    ("main", main::fill),
    ("message", message::fill),
    ("node", node::fill),
    ("read", read::fill),
    ("sqlite", sqlite::fill),
    ("transaction", transaction::fill),
];

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    interpreter::watch(module)?;
    let modules = py.import("sys")?.getattr("modules")?;
    for (name, fill) in SUBMODULES {
        let full_name = format!("{}.{name}", module.name()?);
        let submodule = PyModule::new(py, &full_name)?;
        fill(&submodule)?;
        module.add(name, &submodule)?;
        // An extension module is no package: `import` finds a submodule only here.
        modules.set_item(full_name, submodule)?;
    }
    Ok(())
}
