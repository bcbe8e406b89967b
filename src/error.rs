//! The one error type. Its kind says what the caller can do; the operation, the context and the
//! source say what happened and where. Nothing secret may be put into it: connection strings pass
//! through [`crate::error::redact`] first.

use std::error::Error as StdError;
use std::fmt;

/// What the caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// What was passed in can never be accepted: change it.
    Invalid,
    /// The configuration is wrong or incomplete: change it.
    Configuration,
    /// A server can't be reached or is not ready: the same call may succeed later.
    Unreachable,
    /// Stopped in order to protect data; a person has to look. Nothing was touched.
    Refused,
    /// Another relay or node has taken over: what was held is lost, and may be taken again.
    Fenced,
    /// Rolled back for another transaction's sake, or a lock was not free in time: it may be run again.
    Conflict,
    /// It is not known whether a transaction is committed, and it must not be run again blindly: its
    /// outcome can be asked for by its id.
    InDoubt,
    /// It is not known whether the operation took effect; what is stored has to be read again.
    Unclear,
    /// Anything else that failed.
    Failed,
}

impl ErrorKind {
    /// The word used in JSON output, logs and Python's `.kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::Configuration => "configuration",
            ErrorKind::Unreachable => "unreachable",
            ErrorKind::Refused => "refused",
            ErrorKind::Fenced => "fenced",
            ErrorKind::Conflict => "conflict",
            ErrorKind::InDoubt => "in_doubt",
            ErrorKind::Unclear => "unclear",
            ErrorKind::Failed => "failed",
        }
    }

    /// Whether the very same call may succeed later without anybody changing anything.
    pub fn is_retriable(self) -> bool {
        matches!(self, ErrorKind::Unreachable | ErrorKind::Fenced | ErrorKind::Conflict | ErrorKind::Unclear)
    }
}

/// `Result` with Onecommit's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: kind, operation, message, context and source.
///
/// ```
/// use onecommit::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Refused, "take shard", "the database was restored")
///     .with("participant", "orders");
/// assert_eq!(error.kind(), ErrorKind::Refused);
/// assert_eq!(error.to_string(), "take shard: the database was restored (participant: orders)");
/// ```
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    message: String,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` in `operation`; `message` says what is wrong and what to do.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Error { inner: Box::new(Inner { kind, operation, message, context: Vec::new(), source: None }) }
    }

    /// Adds where it happened. A key that is there already keeps its first, innermost value.
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        if !self.inner.context.iter().any(|(known, _)| *known == key) {
            self.inner.context.push((key, value.to_string()));
        }
        self
    }

    /// Keeps the error that caused this one.
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// What was being done.
    pub fn operation(&self) -> &'static str {
        self.inner.operation
    }

    /// What is wrong, without operation, context and source.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// Where it happened: names and values, innermost first.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.inner.context
    }

    /// Whether the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        self.inner.kind.is_retriable()
    }

    pub(crate) fn invalid(operation: &'static str, message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Invalid, operation, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.inner.operation, self.inner.message)?;
        for (index, (key, value)) in self.inner.context.iter().enumerate() {
            let before = if index == 0 { " (" } else { ", " };
            write!(f, "{before}{key}: {value}")?;
        }
        if !self.inner.context.is_empty() {
            write!(f, ")")?;
        }
        let mut source = self.source();
        let mut said = String::new();
        while let Some(cause) = source {
            let text = cause.to_string();
            // OpenSSL's errors have their own cause in their text.
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            source = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({}, {self})", self.inner.kind.as_str())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// A connection string with its password replaced by `***`, fit for errors and logs.
///
/// ```
/// let shown = onecommit::error::redact("postgresql://app:secret@db/orders?password=x&a=b");
/// assert_eq!(shown, "postgresql://app:***@db/orders?password=***&a=b");
/// ```
pub fn redact(url: &str) -> String {
    let mut shown = url.to_string();
    if let Some(scheme_end) = shown.find("://") {
        let authority = scheme_end + 3;
        let end = shown[authority..].find(['/', '?']).map_or(shown.len(), |at| authority + at);
        if let Some(at) = shown[authority..end].rfind('@')
            && let Some(colon) = shown[authority..authority + at].find(':')
        {
            shown.replace_range(authority + colon + 1..authority + at, "***");
        }
    }
    let mut searched = 0;
    while let Some(found) = shown[searched..].find("password=") {
        let start = searched + found + "password=".len();
        let end = shown[start..].find(['&', ' ']).map_or(shown.len(), |at| start + at);
        shown.replace_range(start..end, "***");
        searched = start + 3;
    }
    shown
}
