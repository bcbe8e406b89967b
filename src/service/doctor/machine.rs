//! This machine: which release runs here, where the embedded files lie, and how much room they have.

use std::path::Path;

use rustix::fs::statvfs;

use super::build;
use super::finding::Findings;
use crate::config::{Config, DatabaseUrl};
use crate::outbox::{postgres, sqlite};
use crate::sqlite::network_file_system;

const MIB: u64 = 1024 * 1024;
/// Less room than this is a warning, and a problem.
const LITTLE_BYTES: u64 = 1024 * MIB;
const TOO_LITTLE_BYTES: u64 = 100 * MIB;

/// Each folder with a file of ours, as far as any is embedded.
pub(super) fn judge(findings: &mut Findings, config: &Config) {
    let release = env!("CARGO_PKG_VERSION");
    let (in_postgres, in_sqlite) = (postgres::SCHEMA_VERSION, sqlite::SCHEMA_VERSION);
    let made = format!("makes tables of version {in_postgres} in PostgreSQL, {in_sqlite} in SQLite");
    findings.ok("this machine", format!("onecommit {release}, which {made}"));
    let mut folders: Vec<&Path> = Vec::new();
    let embedded = config.kafka.is_none()
        || config.outboxes().any(|(_, participant)| build::has_lease_file(config, participant));
    if embedded {
        folders.push(&config.data_dir);
    }
    for (_, participant) in config.outboxes() {
        if let DatabaseUrl::Sqlite(path) = &participant.url {
            folders.push(path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")));
        }
    }
    folders.sort_unstable();
    folders.dedup();
    folders.into_iter().for_each(|folder| judge_folder(findings, folder));
}

fn judge_folder(findings: &mut Findings, folder: &Path) {
    let place = folder.display().to_string();
    let (Ok(network), Ok(room)) = (network_file_system(folder), statvfs(folder)) else {
        let todo = "run `onecommit init`, or correct data_dir and the participant's url";
        return findings.problem(&place, "the folder is not there, or can't be looked at", todo);
    };
    judge_file_system(findings, &place, network);
    judge_room(findings, &place, room.f_bavail.saturating_mul(room.f_frsize));
}

fn judge_file_system(findings: &mut Findings, place: &str, network: Option<&str>) {
    match network {
        Some(name) => findings.problem(
            place,
            format!("the folder is on a network file system ({name}): SQLite's locks do not hold there"),
            "stop the relays, move the folder to a local disk, and give its new path",
        ),
        None => findings.ok(place, "on a local file system"),
    }
}

fn judge_room(findings: &mut Findings, place: &str, free_bytes: u64) {
    let what = format!("{} MiB are free on its disk", free_bytes / MIB);
    let todo = "make room: with a full disk nothing can be published or delivered, and nothing is lost";
    if free_bytes < TOO_LITTLE_BYTES {
        findings.problem(place, what, todo);
    } else if free_bytes < LITTLE_BYTES {
        findings.warning(place, what, todo);
    } else {
        findings.ok(place, what);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity::{Ok, Problem, Warning};
    use super::*;

    #[test]
    fn what_is_no_local_disk_or_nearly_full_is_told() {
        for (network, severity) in [(Some("NFS"), Problem), (None, Ok)] {
            let mut findings = Findings::default();
            judge_file_system(&mut findings, "/x", network);
            assert_eq!(findings.all[0].severity, severity, "{network:?}");
        }
        for (mib, severity) in [(99, Problem), (100, Warning), (1023, Warning), (1024, Ok)] {
            let mut findings = Findings::default();
            judge_room(&mut findings, "/x", mib * MIB);
            assert_eq!(findings.all[0].severity, severity, "{mib} MiB");
        }
    }
}
