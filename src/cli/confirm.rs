//! A question that a person has to answer before something can't be taken back.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use crate::error::{Error, ErrorKind, Result};

/// Asks on the terminal; only `yes` is a yes. Where nobody can be asked it is an error: `--yes`
/// answers for scripts.
pub(super) fn confirm(operation: &'static str, question: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        let why = "this can't be taken back, and there is no terminal to ask on: give --yes";
        return Err(Error::new(ErrorKind::Invalid, operation, why));
    }
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Failed, operation, "the terminal can't be asked").caused_by(error)
    };
    let mut out = std::io::stderr().lock();
    write!(out, "{question} Type yes: ").and_then(|()| out.flush()).map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(answer.trim() == "yes")
}
