//! What the decision log keeps: batches of decisions, and each coordinator's record. A version byte,
//! then JSON, a line for each decision: a person who settles something by hand has to read it.
//!
//! Whoever recovers a dead coordinator has nothing but this and the databases, so a text that this
//! release does not understand stops it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fate::Prepared;
use super::history::Marks;
use super::progress::DatabaseIdentity;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{CoordinatorId, ParticipantName};

/// The format that this release writes and reads.
pub const VERSION: u8 = 1;

/// The durable word *commit* for one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The transaction's number with its coordinator.
    pub number: u64,
    /// Every branch that was prepared.
    pub branches: Vec<DecidedBranch>,
}

/// One branch of a decided transaction: enough to tell later whether it was committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecidedBranch {
    /// Where it is.
    pub participant: ParticipantName,
    /// Its transaction number there, all 64 bits: `pg_prepared_xacts` shows 32.
    pub xid: u64,
    /// The server's timeline, and its log's position behind the PREPARE: a failover that switched at or
    /// behind it has kept the branch.
    pub timeline: String,
    /// See `timeline`.
    pub lsn: u64,
    /// Whether it holds the transaction's messages.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_home: bool,
}

impl DecidedBranch {
    /// Where it was prepared, in that database.
    pub fn prepared_in(&self, database: &DatabaseIdentity) -> Prepared {
        let database = DatabaseIdentity { timeline: Some(self.timeline.clone()), ..database.clone() };
        Prepared { database, position: self.lsn }
    }
}

impl Decision {
    /// Its bytes, one line without an end.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data into memory can't fail")
    }
}

/// A batch's bytes, of its decisions' lines.
pub fn encode_batch<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    for line in lines {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    bytes
}

/// Reads a batch.
pub fn decode_batch(bytes: &[u8]) -> Result<Vec<Decision>> {
    const OPERATION: &str = "read decisions";
    let lines = versioned(OPERATION, bytes)?;
    let lines = lines.strip_suffix(b"\n").ok_or_else(|| damaged(OPERATION))?;
    let decode = |line| serde_json::from_slice(line).map_err(|error| damaged(OPERATION).caused_by(error));
    lines.split(|byte| *byte == b'\n').map(decode).collect()
}

/// What a coordinator writes of itself before its first decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The machine it runs on, for people.
    pub host: String,
    /// Its process there, for people.
    pub pid: u32,
    /// Made by a recoverer for a branch that has no record: it is judged by its own rule, and never
    /// as one that its coordinator wrote.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_orphan: bool,
    /// Every participant in which it may have prepared something.
    pub participants: BTreeMap<ParticipantName, Used>,
}

/// What a record says of one participant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Used {
    /// The database that it was.
    pub database: DatabaseIdentity,
    /// What its history row has to be like.
    pub marks: Marks,
    /// A recoverer has ended every branch there, and closed the row.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_settled: bool,
}

impl Record {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        serde_json::to_writer(&mut bytes, self).expect("plain data into memory can't fail");
        bytes
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        const OPERATION: &str = "read coordinator's record";
        let json = versioned(OPERATION, bytes)?;
        serde_json::from_slice(json).map_err(|error| damaged(OPERATION).caused_by(error))
    }
}

/// The right to write for a coordinator: its own from its registration on, a recoverer's from its
/// takeover on. It ends when somebody else takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Whose decisions it guards.
    pub coordinator: CoordinatorId,
    /// The store's number of it; it only grows.
    pub number: i64,
}

/// How a transaction ended, for whoever asks later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All of it happened.
    Committed,
    /// None of it happened.
    RolledBack,
}

fn versioned<'a>(operation: &'static str, bytes: &'a [u8]) -> Result<&'a [u8]> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some((version, _)) if *version > VERSION => Err(later_format(operation, *version, VERSION)),
        _ => Err(damaged(operation)),
    }
}

/// What a later release has written.
pub(crate) fn later_format(operation: &'static str, found: u8, read: u8) -> Error {
    let why = format!(
        "it has format {found}, this release reads {read}: it was written by a later release of onecommit, run \
         that one"
    );
    Error::new(ErrorKind::Refused, operation, why).with("format", found)
}

fn damaged(operation: &'static str) -> Error {
    let why = "it is not what onecommit writes: find out who wrote there, and restore it; nothing of this \
               coordinator is settled before that";
    Error::new(ErrorKind::Refused, operation, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn decision()(
            number in any::<u64>(),
            branches in prop::collection::vec(("[a-z][a-z0-9]{0,5}", any::<u64>(), any::<u64>(), any::<bool>()), 1..4)
        ) -> Decision {
            let branch = |(name, xid, lsn, is_home): (String, u64, u64, bool)| {
                {
                    let participant = name.parse().unwrap();
                    DecidedBranch { participant, xid, timeline: "00000001".into(), lsn, is_home }
                }
            };
            Decision { number, branches: branches.into_iter().map(branch).collect() }
        }
    }

    prop_compose! {
        fn record()(
            host in ".{0,20}", pid in any::<u32>(), is_orphan in any::<bool>(),
            participants in prop::collection::btree_map("[a-z][a-z0-9]{0,5}", any::<(u64, u64, bool)>(), 0..3)
        ) -> Record {
            let database =
                DatabaseIdentity { system: "7".into(), database: "5".into(), timeline: Some("00000001".into()) };
            let used = |(announced, acknowledged, is_settled): (u64, u64, bool)| {
                Used { database: database.clone(), marks: Marks { announced, acknowledged }, is_settled }
            };
            let participants = participants.into_iter().map(|(name, one)| (name.parse().unwrap(), used(one)));
            Record { host, pid, is_orphan, participants: participants.collect() }
        }
    }

    proptest! {
        #[test]
        fn decisions_come_back(decisions in prop::collection::vec(decision(), 1..5)) {
            let lines: Vec<Vec<u8>> = decisions.iter().map(Decision::encode).collect();
            let bytes = encode_batch(lines.iter().map(Vec::as_slice));
            prop_assert_eq!(decode_batch(&bytes).unwrap(), decisions);
        }

        #[test]
        fn records_come_back(record in record()) {
            prop_assert_eq!(Record::decode(&record.encode()).unwrap(), record);
        }

        #[test]
        fn what_is_cut_off_is_refused(decision in decision(), record in record(), cut in any::<prop::sample::Index>()) {
            let batch = encode_batch([decision.encode().as_slice()]);
            prop_assert!(decode_batch(&batch[..cut.index(batch.len())]).is_err());
            let bytes = record.encode();
            prop_assert!(Record::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (decode_batch(&bytes), Record::decode(&bytes));
        }
    }

    #[test]
    fn a_later_format_names_the_release_to_run() {
        for refused in [decode_batch(b"\x02{}\n").unwrap_err(), Record::decode(b"\x02{}").unwrap_err()] {
            assert_eq!(refused.kind(), ErrorKind::Refused);
            assert!(refused.to_string().contains("later release"), "{refused}");
        }
    }

    #[test]
    fn the_format_never_changes() {
        let branch = |participant: &str, xid, lsn, is_home| DecidedBranch {
            participant: participant.parse().unwrap(),
            xid,
            timeline: "00000001".into(),
            lsn,
            is_home,
        };
        let line = Decision {
            number: 3,
            branches: vec![branch("orders", 7, 9, true), branch("billing", 8, 1, false)],
        }
        .encode();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            r#"{"number":3,"branches":[{"participant":"orders","xid":7,"timeline":"00000001","lsn":9,"is_home":true},{"participant":"billing","xid":8,"timeline":"00000001","lsn":1}]}"#
        );
    }
}
