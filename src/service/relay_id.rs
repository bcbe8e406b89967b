//! The id under which this process is known to other relays. One that is started again on the same
//! machine has the id of its dead predecessor: the leases that one left are its own, and it takes them
//! at once instead of waiting until they time out.
//!
//! Each relay holds the lock of one file in `data_dir/relays`, the first that nobody holds. The kernel
//! gives a lock back when its process is gone, however it ended, and never earlier. The id is made from
//! what tells this file from every other one, so no two relays that live have the same; if two ever had,
//! they would take shards from each other, and still no message would be lost or doubled: who takes a
//! shard fences its predecessor, whoever that was.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::id::RelayId;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// More relays than this do not share a folder.
const FILES: u32 = 256;

/// This process's id, claimed when it is first asked for: a relay that finds no outbox set up makes
/// nothing in the folder either.
#[derive(Debug)]
pub(super) struct OwnId {
    data_dir: PathBuf,
    claimed: OnceLock<(RelayId, Option<File>)>,
}

impl OwnId {
    pub(super) fn new(data_dir: &Path) -> Self {
        OwnId { data_dir: data_dir.to_path_buf(), claimed: OnceLock::new() }
    }

    pub(super) fn get(&self) -> RelayId {
        self.claimed.get_or_init(|| claim(&self.data_dir)).0
    }
}

/// The id, and the lock that makes it this process's own for as long as it is kept. Where no lock can be
/// held (a folder that can't be written, a system without Linux' boot id) the id is a new one.
fn claim(data_dir: &Path) -> (RelayId, Option<File>) {
    let folder = data_dir.join("relays");
    match lock_first_free(&folder) {
        Ok((id, lock)) => (id, Some(lock)),
        Err(error) => {
            let folder = folder.display();
            tracing::info!(%folder, %error, "no lock can be held: after a crash leases have to time out");
            (RelayId::random(), None)
        }
    }
}

fn lock_first_free(folder: &Path) -> io::Result<(RelayId, File)> {
    let boot = fs::read_to_string(BOOT_ID)?;
    fs::create_dir_all(folder)?;
    for number in 0..FILES {
        let file = OpenOptions::new().create(true).append(true).open(folder.join(number.to_string()))?;
        match file.try_lock() {
            Ok(()) => return Ok((id_of(boot.trim(), &file.metadata()?), file)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::other(format!("the locks of all {FILES} files are held")))
}

/// Of the boot, because on a network file system a lock may hold on one machine only; of the file's
/// number and not of its name, because a folder may be copied while a relay lives.
fn id_of(boot: &str, file: &fs::Metadata) -> RelayId {
    let hash = Sha256::digest(format!("{boot} {} {}", file.dev(), file.ino()));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    RelayId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_have_ids_of_their_own_and_the_dead_are_succeeded() {
        let data_dir = tempfile::tempdir().unwrap();
        let (first, first_lock) = claim(data_dir.path());
        let (second, second_lock) = claim(data_dir.path());
        assert_ne!(first, second);
        drop(first_lock);
        let (third, third_lock) = claim(data_dir.path());
        assert_eq!(third, first);
        drop((second_lock, third_lock));
        assert_eq!(claim(data_dir.path()).0, first);
        assert_eq!(fs::read_dir(data_dir.path().join("relays")).unwrap().count(), 2);
    }

    #[test]
    fn a_copied_folder_gives_other_ids() {
        let (original, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (id, _lock) = claim(original.path());
        fs::create_dir(copy.path().join("relays")).unwrap();
        fs::copy(original.path().join("relays/0"), copy.path().join("relays/0")).unwrap();
        assert_ne!(claim(copy.path()).0, id);
    }

    #[test]
    fn another_boot_gives_another_id() {
        let file = tempfile::tempfile().unwrap().metadata().unwrap();
        assert_eq!(id_of("a", &file), id_of("a", &file));
        assert_ne!(id_of("a", &file), id_of("b", &file));
    }

    #[test]
    fn where_nothing_can_be_written_the_id_is_a_new_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (first, lock) = claim(file.path());
        assert!(lock.is_none());
        assert_ne!(claim(file.path()).0, first);
    }
}
