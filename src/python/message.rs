//! What is valid in a message, for Python: the rules of [`Message::from_parts`].

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::error::attached;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

const OPERATION: &str = "publish";

pub(super) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(check, module)?)
}

/// Raises `InvalidError` where Kafka could never take the message.
#[pyfunction]
fn check<'py>(
    py: Python<'py>,
    topic: &Bound<'py, PyAny>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: Vec<(Bound<'py, PyAny>, Option<Vec<u8>>)>,
    partition: &Bound<'py, PyAny>,
) -> PyResult<()> {
    attached(py, OPERATION, || {
        let topic = text("the topic", topic)?;
        let headers = headers
            .into_iter()
            .map(|(name, value)| Ok((text("a header's name", &name)?, value)))
            .collect::<Result<Vec<_>>>()
            .map_err(|error| error.with("topic", &topic))?;
        let partition = number(partition).map_err(|error| error.with("topic", &topic))?;
        let (key, value) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
        Message::from_parts(&topic, key, value, headers, partition).map(drop)
    })
}

fn text(field: &str, given: &Bound<'_, PyAny>) -> Result<String> {
    let Ok(given) = given.cast::<PyString>() else {
        return Err(wrong_type(field, "a str", given));
    };
    given.to_str().map(str::to_string).map_err(|error| {
        let why = format!("{field} can't be encoded as UTF-8: it holds a lone surrogate");
        Error::new(ErrorKind::Invalid, OPERATION, why).caused_by(error)
    })
}

fn number(given: &Bound<'_, PyAny>) -> Result<Option<i32>> {
    if given.is_none() {
        return Ok(None);
    }
    given.extract::<i32>().map(Some).map_err(|_| {
        wrong_type("the partition", "an int of at most 31 bits", given)
            .with("partition", given.repr().map_or_else(|_| "?".to_string(), |shown| shown.to_string()))
    })
}

fn wrong_type(field: &str, wanted: &str, given: &Bound<'_, PyAny>) -> Error {
    let found = given.get_type().name().map_or_else(|_| "?".to_string(), |name| name.to_string());
    Error::new(ErrorKind::Invalid, OPERATION, format!("{field} is {wanted}, not {found}"))
}
