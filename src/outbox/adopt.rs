//! What `onecommit adopt` needs to know of an outbox before a person decides about it.

/// What the table holds of one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Messages in the table, delivered or not.
    pub messages: u64,
    /// Those that the progress covers: they were delivered, if this database has its history.
    pub covered: u64,
    /// Those whose transaction numbers this server has yet to hand out: they were loaded from another
    /// one, and no snapshot of this one sees them.
    pub foreign: u64,
    /// When the oldest was published, in milliseconds since 1970; None where there is none.
    pub oldest_ms: Option<i64>,
    /// When the newest was published.
    pub newest_ms: Option<i64>,
    /// Whether the database may have seen deliveries behind the progress: then the progress does not
    /// say what was delivered.
    pub is_ahead: bool,
}
