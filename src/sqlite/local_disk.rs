//! SQLite's files have to lie on a disk of this machine: WAL needs memory that all who use a file
//! share, and on a network file system two relays would write without seeing each other's locks.
//!
//! Relies on the kind of file system that the kernel names. One in user space (FUSE) does not tell
//! where its files are, and is let through.

use std::io;
use std::path::Path;

use rustix::fs::statfs;

use crate::error::{Error, ErrorKind, Result};

/// File systems whose locks or caches are another machine's, by Linux' numbers.
const NETWORK: [(u64, &str); 9] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x00c3_6400, "Ceph"),
    (0x0102_1997, "9p"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x5346_414f, "AFS"),
];

/// Fails where the file is, or would come to be, on a network file system.
pub(super) fn check(path: &Path, operation: &'static str) -> Result<()> {
    // Of a file that is not there yet its nearest directory tells.
    let found = path.ancestors().find_map(|place| network_file_system(place).ok());
    let Some(Some(name)) = found else { return Ok(()) };
    let why = "SQLite's locks do not hold on a network file system: stop what uses the file, move its \
               directory to a local disk, and give the new path (data_dir, or the participant's url)";
    let error = Error::new(ErrorKind::Configuration, operation, why);
    Err(error.with("file", path.display()).with("file_system", name))
}

/// Which network file system a place is on, if on any; an error where it is not there.
pub(crate) fn network_file_system(place: &Path) -> io::Result<Option<&'static str>> {
    let here = Path::new(".");
    let found = statfs(if place == Path::new("") { here } else { place })?;
    // Some systems keep 32 bits of it, with a sign.
    Ok(name_of(found.f_type as u64 & 0xffff_ffff))
}

fn name_of(number: u64) -> Option<&'static str> {
    NETWORK.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_known_by_its_number() {
        for (number, name) in [(0x6969, Some("NFS")), (0xff53_4d42, Some("CIFS")), (0xef53, None)] {
            assert_eq!(name_of(number), name, "{number:x}");
        }
    }

    #[test]
    fn of_what_is_not_there_the_nearest_directory_tells() {
        assert!(network_file_system(Path::new("no/such/place")).is_err());
        assert!(network_file_system(Path::new("")).is_ok());
        check(Path::new("no/such/place.db"), "open outbox").unwrap();
    }
}
