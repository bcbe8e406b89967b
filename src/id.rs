//! Names and numbers that are parsed once, at the edge, and can't be wrong afterwards.

use std::fmt;

use uuid::Uuid;

use crate::error::{Error, Result};

/// One installation's name; prefixes all that it keeps in ZooKeeper, Kafka and the databases.
///
/// ```
/// use onecommit::Namespace;
/// assert!("shop".parse::<Namespace>().is_ok());
/// assert!("Shop".parse::<Namespace>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace(String);

/// A named database that can take part (`orders`, `billing`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "relay", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "relay", serde(try_from = "String", into = "String"))]
pub struct ParticipantName(String);

impl std::str::FromStr for Namespace {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if is_name(text, '-') {
            return Ok(Namespace(text.to_string()));
        }
        let rule = "a namespace starts with a small letter and has at most 40 of a-z, 0-9 and -";
        Err(Error::invalid("parse namespace", rule).with("namespace", format!("{text:?}")))
    }
}

impl std::str::FromStr for ParticipantName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // `__` separates levels in environment variables, so a name can't hold it.
        if is_name(text, '_') && !text.contains("__") {
            return Ok(ParticipantName(text.to_string()));
        }
        let rule = "a participant's name starts with a small letter and has at most 40 of a-z, \
                    0-9 and _ (no __)";
        Err(Error::invalid("parse participant", rule).with("participant", format!("{text:?}")))
    }
}

impl TryFrom<String> for ParticipantName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ParticipantName> for String {
    fn from(name: ParticipantName) -> String {
        name.0
    }
}

fn is_name(text: &str, joiner: char) -> bool {
    text.len() <= 40
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == joiner)
}

impl Namespace {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ParticipantName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ParticipantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh random one.
            pub fn random() -> Self {
                $name(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Uuid::try_parse(text).map($name).map_err(|error| {
                    Error::invalid("parse id", "not a UUID")
                        .with(stringify!($name), format!("{text:?}"))
                        .caused_by(error)
                })
            }
        }
    };
}

uuid_id!(
    /// A message's id: random, never repeated even after a restore, and sent as the header
    /// `onecommit-id`.
    MessageId
);
impl MessageId {
    /// The id of a message that a transaction publishes: as random as any other, and of another version
    /// (RFC 9562, version 8), by which the relay knows that a row may be asked for as a proof.
    pub fn of_transaction(random: Uuid) -> Self {
        MessageId(Uuid::new_v8(random.into_bytes()))
    }

    /// Whether it was made by [`MessageId::of_transaction`].
    pub fn is_of_transaction(self) -> bool {
        self.0.get_version() == Some(uuid::Version::Custom)
    }
}

uuid_id!(
    /// The id a namespace is born with, copied into every store it uses.
    Incarnation
);
uuid_id!(
    /// One running relay process, or its successor on the same machine.
    RelayId
);
uuid_id!(
    /// One barrier row: the proof that what a window saw can't be un-happened by a crash.
    BarrierId
);

uuid_id!(
    /// One running instance that decides transactions; never used again. A number that ZooKeeper
    /// hands out would be handed out again after a restore.
    CoordinatorId
);

/// One transaction: its coordinator, and its number there.
///
/// ```
/// use onecommit::id::TransactionId;
/// let text = "0f0a4a7e-6ec9-4aa5-8b3f-77c2d0b6f7a1:17";
/// let id: TransactionId = text.parse()?;
/// assert_eq!((id.number, id.to_string().as_str()), (17, text));
/// # Ok::<(), onecommit::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId {
    /// Who decides it.
    pub coordinator: CoordinatorId,
    /// Counts that coordinator's transactions, from 1.
    pub number: u64,
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.coordinator, self.number)
    }
}

impl std::str::FromStr for TransactionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once(':').and_then(|(coordinator, number)| {
            Some(TransactionId { coordinator: coordinator.parse().ok()?, number: number.parse().ok()? })
        });
        parts.ok_or_else(|| {
            let why = "a transaction's id is its coordinator's UUID, a colon and a number";
            Error::invalid("parse transaction", why).with("transaction", format!("{text:?}"))
        })
    }
}

uuid_id!(
    /// One who asks for a lock, or stands for election, outside of a transaction; never used again.
    HolderId
);

uuid_id!(
    /// One member of a group, from its joining on; never used again.
    MemberId
);

/// What an application's group is called: any text of 1 to 200 bytes.
///
/// ```
/// use onecommit::id::GroupName;
/// assert!("workers/eu".parse::<GroupName>().is_ok());
/// assert!("".parse::<GroupName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(String);

impl GroupName {
    /// The longest one. In ZooKeeper a byte takes up to three characters of a node's name.
    pub const MAX_BYTES: usize = 200;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for GroupName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if (1..=Self::MAX_BYTES).contains(&text.len()) {
            return Ok(GroupName(text.to_string()));
        }
        let rule = format!("a group's name has 1 to {} bytes", Self::MAX_BYTES);
        Err(Error::invalid("parse group", rule).with("bytes", text.len()))
    }
}

/// What a lock, or an election, is called: any text of 1 to 200 bytes.
///
/// ```
/// use onecommit::id::LockName;
/// assert!("account/42".parse::<LockName>().is_ok());
/// assert!("".parse::<LockName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockName(String);

impl LockName {
    /// The longest one. In ZooKeeper a byte takes up to three characters of a node's name.
    pub const MAX_BYTES: usize = 200;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for LockName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if (1..=Self::MAX_BYTES).contains(&text.len()) {
            return Ok(LockName(text.to_string()));
        }
        let rule = format!("a lock's name has 1 to {} bytes", Self::MAX_BYTES);
        let shown: String = text.chars().take(60).collect();
        let error = Error::invalid("parse lock", rule).with("name", format!("{shown:?}"));
        Err(error.with("bytes", text.len()))
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a shard of one participant's outbox, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardIndex(pub u16);

impl fmt::Display for ShardIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the owners of a shard; it only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub i64);

impl Epoch {
    /// Below every lease that was ever taken.
    pub const ZERO: Epoch = Epoch(0);

    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
