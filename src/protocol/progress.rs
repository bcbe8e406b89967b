//! The progress record: the last committed position, written inside the same Kafka transaction as
//! the messages, and so the truth about what was delivered. One version byte, then JSON: it is
//! written once a batch, and a person may have to read it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{BarrierId, Epoch, ParticipantName, ShardIndex};
use crate::protocol::position::Position;
use crate::protocol::slot::HASH_VERSION;

/// The format of a record that clears nothing, as the first release wrote it.
pub const VERSION: u8 = 1;
/// The format of one that does: a release that passed `cleared` on to nobody would have those messages
/// delivered twice.
pub const VERSION_CLEARS: u8 = 2;

const WAY_ON: &str = "Find out who wrote there, and restore it; or go on without it: `onecommit adopt` with the \
                      participant's name";

/// Which database a position belongs to. Another system or database is another outbox, whatever
/// its address; the timeline is for people to read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DatabaseIdentity {
    /// PostgreSQL's system identifier, or the id a SQLite outbox was born with.
    pub system: String,
    /// PostgreSQL's database oid; `main` for SQLite.
    pub database: String,
    /// PostgreSQL's timeline when the record was written.
    pub timeline: Option<String>,
}

impl DatabaseIdentity {
    /// Whether both name the same database.
    pub fn is_same(&self, other: &DatabaseIdentity) -> bool {
        self.system == other.system && self.database == other.database
    }
}

impl std::fmt::Display for DatabaseIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.system, self.database)
    }
}

/// One shard's progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The lease under which it was written.
    pub epoch: i64,
    /// The outbox's number of shards.
    pub shards: u16,
    /// Which hash maps keys to slots.
    pub hash: u8,
    /// The database it speaks of.
    pub database: DatabaseIdentity,
    /// How far it got.
    pub position: Position,
    /// The barrier row that vouches for the position; a birth record names none.
    pub barrier: Option<Uuid>,
    /// Messages that were set aside and that this very transaction delivered, or that were discarded:
    /// their records are to be removed. They leave the progress only together with a barrier that was
    /// committed with that removal; otherwise a failover could bring the records back, and they would
    /// be delivered again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cleared: Vec<Uuid>,
}

impl Progress {
    /// The key of a shard's records.
    pub fn key(participant: &ParticipantName, shard: ShardIndex) -> String {
        format!("{participant}/{shard}")
    }

    /// The record that a shard is born with: it has seen nothing and names no barrier.
    pub fn birth(epoch: Epoch, shards: u16, database: DatabaseIdentity, position: Position) -> Self {
        let (hash, barrier, cleared) = (HASH_VERSION, None, Vec::new());
        Progress { epoch: epoch.0, shards, hash, database, position, barrier, cleared }
    }

    /// The barrier it names.
    pub fn barrier(&self) -> Option<BarrierId> {
        self.barrier.map(BarrierId)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![if self.cleared.is_empty() { VERSION } else { VERSION_CLEARS }];
        serde_json::to_writer(&mut bytes, self).expect("plain data into memory can't fail");
        bytes
    }

    /// Reads a record; another version or a damaged one stops the caller.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let refuse = |why: String| Error::new(ErrorKind::Refused, "read progress", why);
        match bytes.split_first() {
            None => Err(refuse(format!("the progress record is empty. {WAY_ON}"))),
            Some((&(VERSION | VERSION_CLEARS), json)) => serde_json::from_slice(json).map_err(|error| {
                refuse(format!("the progress record is damaged. {WAY_ON}")).caused_by(error)
            }),
            Some((version, _)) => Err(refuse(format!(
                "the progress record has format {version}, this release reads {VERSION_CLEARS}: \
                 it was written by a later release of onecommit, run that one"
            ))
            .with("format", version)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(position: Position) -> Progress {
        let database = DatabaseIdentity {
            system: "7371".to_string(),
            database: "16384".to_string(),
            timeline: Some("00000001".to_string()),
        };
        Progress { barrier: Some(Uuid::from_u128(5)), ..Progress::birth(Epoch(3), 2, database, position) }
    }

    #[test]
    fn every_position_comes_back() {
        let this: crate::protocol::snapshot::Snapshot = "740:745:741".parse().unwrap();
        for position in [
            Position::before_any_snapshot(),
            Position::Snapshots { prev: this.clone(), this: Some(this), last: 9 },
            Position::Sequence { last: 12 },
        ] {
            let progress = record(position);
            assert_eq!(Progress::decode(&progress.encode()).unwrap(), progress);
        }
    }

    #[test]
    fn only_a_record_that_clears_something_has_the_later_format() {
        let plain = record(Position::Sequence { last: 12 });
        assert_eq!(plain.encode()[0], VERSION, "the release before reads it");
        let clears = Progress { cleared: vec![Uuid::from_u128(7)], ..plain };
        assert_eq!(clears.encode()[0], VERSION_CLEARS);
        assert_eq!(Progress::decode(&clears.encode()).unwrap(), clears);
    }

    #[test]
    fn another_version_and_damage_are_refused_in_words() {
        let mut bytes = record(Position::Sequence { last: 1 }).encode();
        bytes[0] = 3;
        assert!(Progress::decode(&bytes).unwrap_err().to_string().contains("later release"));
        bytes[0] = VERSION;
        bytes.truncate(bytes.len() - 3);
        assert_eq!(Progress::decode(&bytes).unwrap_err().kind(), ErrorKind::Refused);
        assert!(Progress::decode(b"").is_err());
    }

    fn snapshot() -> impl Strategy<Value = crate::protocol::snapshot::Snapshot> {
        (3u64..u64::MAX / 2, 0u64..40, any::<u64>()).prop_map(|(xmin, ahead, running)| {
            let running = (0..ahead).filter(|n| running >> n & 1 == 1).map(|n| (xmin + n).to_string());
            let running: Vec<String> = running.collect();
            format!("{xmin}:{}:{}", xmin + ahead, running.join(",")).parse().unwrap()
        })
    }

    fn position() -> impl Strategy<Value = Position> {
        prop_oneof![
            any::<i64>().prop_map(|last| Position::Sequence { last }),
            (snapshot(), prop::option::of(snapshot()), any::<i64>())
                .prop_map(|(prev, this, last)| Position::Snapshots { prev, this, last }),
        ]
    }

    prop_compose! {
        fn any_record()(
            position in position(), epoch in any::<i64>(), shards in any::<u16>(), hash in any::<u8>(),
            names in any::<(String, String, Option<String>)>(), barrier in any::<Option<u128>>(),
            cleared in prop::collection::vec(any::<u128>(), 0..5)
        ) -> Progress {
            let (system, database, timeline) = names;
            let database = DatabaseIdentity { system, database, timeline };
            let cleared = cleared.into_iter().map(Uuid::from_u128).collect();
            let barrier = barrier.map(Uuid::from_u128);
            Progress { epoch, shards, hash, database, position, barrier, cleared }
        }
    }

    proptest! {
        #[test]
        fn every_record_comes_back(record in any_record()) {
            let bytes = record.encode();
            prop_assert_eq!(bytes[0] == VERSION_CLEARS, !record.cleared.is_empty());
            prop_assert_eq!(Progress::decode(&bytes).unwrap(), record);
        }

        #[test]
        fn a_record_that_was_cut_is_refused(record in any_record(), cut in any::<prop::sample::Index>()) {
            let bytes = record.encode();
            prop_assert!(Progress::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn a_record_with_a_changed_byte_is_read_or_refused(
            record in any_record(), at in any::<prop::sample::Index>(), byte in any::<u8>()
        ) {
            let mut bytes = record.encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(found) = Progress::decode(&bytes) {
                prop_assert_eq!(Progress::decode(&found.encode()).unwrap(), found);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Progress::decode(&bytes);
        }
    }
}
