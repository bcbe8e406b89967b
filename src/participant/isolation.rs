//! How far one branch is kept apart from other transactions of its database. Between the branches of one
//! transaction there is no such thing.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A level of isolation, of each branch in its own database.
///
/// ```
/// use onecommit::participant::Isolation;
/// assert_eq!("repeatable read".parse::<Isolation>()?, Isolation::RepeatableRead);
/// assert_eq!("READ UNCOMMITTED".parse::<Isolation>()?, Isolation::ReadCommitted);
/// assert!("snapshot".parse::<Isolation>().is_err());
/// # Ok::<(), onecommit::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what was committed before it.
    #[default]
    ReadCommitted,
    /// All statements see what was committed before the transaction.
    RepeatableRead,
    /// The same, and as if the transactions of that database had run one after the other.
    Serializable,
}

impl Isolation {
    /// The level's name in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => "read committed",
            Isolation::RepeatableRead => "repeatable read",
            Isolation::Serializable => "serializable",
        }
    }
}

impl FromStr for Isolation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            // PostgreSQL has no level below.
            "read uncommitted" | "read committed" => Ok(Isolation::ReadCommitted),
            "repeatable read" => Ok(Isolation::RepeatableRead),
            "serializable" => Ok(Isolation::Serializable),
            _ => {
                let why = "an isolation level is `read committed`, `repeatable read` or `serializable`";
                Err(Error::invalid("parse isolation", why).with("isolation", format!("{text:?}")))
            }
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
