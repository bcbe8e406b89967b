//! Which timelines a server's own comes from: the history file that a promotion writes. It lists all of
//! them, so that several promotions in a row are seen in the last one's.
//!
//! Nothing else tells it for certain: `pg_control_checkpoint()` still shows the old timeline after a
//! promotion, and `pg_last_wal_replay_lsn()` the end of a later crash's recovery.

use super::branch::parse_lsn;
use super::instance::{self, COLUMNS};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::failure::code;
use crate::protocol::fate::Switch;

pub(super) const OPERATION: &str = "read timelines";
/// This login may not read it.
const NO_RIGHT: &str = "42501";
/// There is no such file.
const NO_FILE: &str = "58P01";

/// Reads the instance and its timeline's file. The first timeline has none.
pub(super) fn read(schema: &str) -> String {
    let instance = instance::instance(schema);
    format!(
        "with {instance} select {COLUMNS}, case when instance.timeline <> '00000001'
           then pg_read_file('pg_wal/' || instance.timeline || '.history') else '' end from instance"
    )
}

/// A line for each, oldest first: its number, where it was left, and why.
pub(super) fn decode(file: &str) -> Result<Vec<Switch>> {
    let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| decode_line(line).ok_or_else(|| damaged(line))).collect()
}

fn decode_line(line: &str) -> Option<Switch> {
    let mut words = line.split_whitespace();
    let number: u32 = words.next()?.parse().ok()?;
    Some(Switch { timeline: format!("{number:08X}"), position: parse_lsn(words.next()?)? })
}

fn damaged(line: &str) -> Error {
    let why =
        "the history file of the server's timeline (in its pg_wal) is not what PostgreSQL writes: restore it";
    Error::new(ErrorKind::Refused, OPERATION, why).with("line", line)
}

/// What a person has to do before they can be read.
pub(super) fn refused(error: Error) -> Error {
    let why = match code(&error) {
        Some(NO_RIGHT) => {
            "this server was promoted, and whether it has a branch's commit from before shows only where the promotion \
             was, which this user may not read: `grant execute on function pg_read_file(text)` in this database to \
             the user in the participant's url"
        }
        Some(NO_FILE) => {
            "the history file of the server's timeline is not in its pg_wal: put it back from the archive, or from \
             another server of the cluster"
        }
        _ => return error,
    };
    Error::new(ErrorKind::Refused, OPERATION, why).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_timeline_that_was_left() {
        let file =
            "# a comment\n1\t0/30000D8\tno recovery target specified\n\n26\t16/B374D848\tbefore 2026-11-28\n";
        let switch = |timeline: &str, position| Switch { timeline: timeline.to_string(), position };
        let expected = [switch("00000001", 0x300_00D8), switch("0000001A", 0x16_B374_D848)];
        assert_eq!(decode(file).unwrap(), expected);
        assert!(decode("").unwrap().is_empty());
        for wrong in ["x\t0/1", "1", "1\t", "1\t01", "-1\t0/1"] {
            assert_eq!(decode(wrong).unwrap_err().kind(), ErrorKind::Refused, "{wrong}");
        }
    }
}
