//! What commands print, and the codes they exit with.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::error::{Error, ErrorKind, Result};

const PRINT: &str = "print";

/// Where output goes.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) json: bool,
}

impl Output {
    /// One JSON object on a line of its own.
    pub(super) fn object(self, object: &Value) -> Result<()> {
        self.line(&object.to_string())
    }

    /// A line for people, or of JSON. Fails with [`is_closed_pipe`] where nobody reads on.
    pub(super) fn line(self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| {
            Error::new(ErrorKind::Failed, PRINT, "standard output can't be written").caused_by(error)
        })
    }
}

/// Whether standard output was closed by who read it: the command ends, and there is nobody to tell.
pub(super) fn is_closed_pipe(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    error.operation() == PRINT && source.is_some_and(|source| source.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The exit code for an error.
pub(super) fn exit_code(error: &Error) -> i32 {
    kind_code(error.kind())
}

/// The exit code for an error of a kind.
pub(super) fn kind_code(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::Invalid | ErrorKind::Configuration => 2,
        ErrorKind::Unreachable => 3,
        ErrorKind::Refused => 4,
        ErrorKind::Fenced
        | ErrorKind::Conflict
        | ErrorKind::InDoubt
        | ErrorKind::Unclear
        | ErrorKind::Failed => 1,
    }
}

pub(super) fn report(error: &Error, output: Output) {
    if output.json {
        let context: serde_json::Map<String, Value> =
            error.context().iter().map(|(key, value)| ((*key).to_string(), json!(value))).collect();
        let object = json!({"error": {
            "kind": error.kind().as_str(), "operation": error.operation(), "message": error.message(),
            "context": context, "text": error.to_string(), "retriable": error.is_retriable(),
        }});
        eprintln!("{object}");
    } else {
        eprintln!("onecommit: {error}");
    }
}
