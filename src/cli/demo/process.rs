//! Processes of this very program, which the demo kills.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::error::{Error, ErrorKind, Result};

/// Starts `program` with a configuration and a command; it works in the configuration's folder, and what
/// it logs goes to `log`.
pub(super) fn start(
    program: &[OsString],
    config_file: &Path,
    words: &[&str],
    log: &Path,
    stdin: Stdio,
    stdout: Stdio,
) -> Result<Child> {
    let (first, rest) = program
        .split_first()
        .ok_or_else(|| Error::new(ErrorKind::Failed, "demo", "this program's own path is not known"))?;
    let log = File::create(log).map_err(failed)?;
    let mut command = Command::new(first);
    // A person's own settings would win over the demo's file.
    let settings = std::env::vars_os().map(|(name, _)| name);
    for name in settings.filter(|name| name.to_string_lossy().starts_with("ONECOMMIT_")) {
        command.env_remove(name);
    }
    command
        .args(rest)
        .arg("--config")
        .arg(config_file)
        .args(words)
        .current_dir(config_file.parent().unwrap_or(Path::new("/")))
        .stdin(stdin)
        .stdout(stdout)
        .stderr(log)
        .spawn()
        .map_err(failed)
}

/// Kills a process, and waits until it is gone.
pub(super) fn kill(child: &mut Child) -> Result<()> {
    child.kill().and_then(|()| child.wait()).map(drop).map_err(failed)
}

/// Fails where a process that should go on has ended by itself.
pub(super) fn check(child: &mut Child, what: &str, log: &Path) -> Result<()> {
    match child.try_wait().map_err(failed)? {
        None => Ok(()),
        Some(status) => {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            let why = format!("the {what} ended by itself ({status})");
            Err(Error::new(ErrorKind::Failed, "demo", why).with(LOG, said))
        }
    }
}

/// What a process has logged, beside an error.
pub(super) const LOG: &str = "log";

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Failed, "demo", "a process of the demo failed").caused_by(error)
}
