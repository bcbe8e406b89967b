//! Asks a person to type a name before something is done that can't be undone.

use std::io::{IsTerminal as _, Write as _};

use crate::error::{Error, ErrorKind, Result};

/// Whether the person typed `name`; asked on standard error, so that output stays what was asked for.
/// Where nobody can be asked it is an error.
pub(super) async fn confirm(operation: &'static str, question: &str, name: &str) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        let why = "standard input is no terminal, so nobody can be asked: nothing was changed. Read what would be \
                   done, and run this again with --yes";
        return Err(Error::new(ErrorKind::Configuration, operation, why));
    }
    let question = question.to_string();
    let answered = tokio::task::spawn_blocking(move || {
        let mut out = std::io::stderr().lock();
        let _ = write!(out, "{question} ").and_then(|()| out.flush());
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Failed, operation, "the answer can't be read").caused_by(error)
    };
    let answer =
        answered.await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))?;
    if answer.trim() == name {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Failed, operation, "not confirmed: nothing was changed").with("expected", name))
}
