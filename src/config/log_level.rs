//! How much is logged, where that is set at run time. Until then it is what `ONECOMMIT_LOG` says, or `info`.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use super::value::suggest;
use crate::error::{Error, Result};

type Apply = Box<dyn Fn(Option<LogLevel>) + Send + Sync>;

/// Lines of this process go one way, whoever writes them: so does their level.
static APPLY: OnceLock<Apply> = OnceLock::new();

/// The least grave lines that are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What a person has to look at.
    Error,
    /// What passes, or may get worse.
    Warn,
    /// What else is worth telling.
    Info,
    /// What is done, step by step.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    const ALL: [LogLevel; 5] =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }

    /// `apply` sets the level of this process's log from now on; None is the one that it began with. Only the
    /// first one counts.
    pub(crate) fn on_change(apply: Apply) {
        let _ = APPLY.set(apply);
    }

    /// Sets it, where this process logs by anything of ours.
    pub(crate) fn apply(level: Option<LogLevel>) {
        if let Some(apply) = APPLY.get() {
            apply(level);
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LogLevel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        LogLevel::ALL.into_iter().find(|level| level.as_str() == text).ok_or_else(|| {
            let known = suggest(text, LogLevel::ALL.into_iter().map(LogLevel::as_str));
            Error::invalid("parse log_level", format!("{text:?} is no level: {known}"))
        })
    }
}
