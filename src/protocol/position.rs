//! How far an outbox shard has been read and delivered.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::protocol::snapshot::Snapshot;

/// A shard's position: enough to go on anywhere, in any process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Position {
    /// PostgreSQL hands out ids and transaction numbers before commit, so a plain number can't
    /// say what was read: everything that `prev` sees, and, of what `this` sees beyond it,
    /// everything up to the id `last`. Without `this` the window is finished.
    Snapshots {
        /// Everything it sees is delivered.
        prev: Snapshot,
        /// The window being delivered.
        this: Option<Snapshot>,
        /// The last id delivered of that window.
        last: i64,
    },
    /// SQLite has one writer, so ids are in commit order.
    Sequence {
        /// The last id delivered.
        last: i64,
    },
}

impl Position {
    /// Before everything, in PostgreSQL.
    pub fn before_any_snapshot() -> Self {
        Position::finished(Snapshot::empty())
    }

    /// Everything that `prev` sees is delivered, and nothing else.
    pub fn finished(prev: Snapshot) -> Self {
        Position::Snapshots { prev, this: None, last: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Sequence { last } => write!(f, "up to id {last}"),
            Position::Snapshots { prev, this: None, .. } => write!(f, "all that snapshot {prev} sees"),
            Position::Snapshots { prev, this: Some(this), last } => {
                write!(f, "all that snapshot {prev} sees, and of {this} up to id {last}")
            }
        }
    }
}

impl Serialize for Snapshot {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Snapshot {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
