//! Who is alive on this machine: whoever is (a coordinator, whoever recovers one, who holds locks) holds the
//! lock of a file that has its id for a name.
//!
//! It is a POSIX record lock, which the kernel gives back when its process is gone, however it ended, and
//! not when that is paused. A forked child does not inherit it, unlike `flock`, and a copy of the file
//! descriptor holds nothing. Two things about it are dangerous, and answered here:
//!
//! - A process does not see its own. So what this process holds is noted, and that is asked first.
//! - A process that opens and closes the file again has lost its lock. Nothing here opens a file that this
//!   process holds. Another part of the program may, which copies the folder: so the file says which
//!   process holds it, by its number, its start and the machine's, and who is there still is alive without a
//!   lock, too.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, fcntl_getlk};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "look who is alive";
const ENDING: &str = "lock";
/// Whoever makes a file writes its record soon after.
const LEFT_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Whose locks this process holds, each with the process that took it: a forked child has a copy of this,
/// and holds none of them. Files are opened and closed only under this lock.
static HELD: Mutex<BTreeMap<Uuid, u32>> = Mutex::new(BTreeMap::new());

/// A folder of such files.
pub(crate) struct Liveness {
    folder: PathBuf,
}

/// One lock, held.
pub(crate) struct Life {
    id: Uuid,
    path: PathBuf,
    process: u32,
    /// None once it is dropped.
    file: Option<File>,
}

impl Liveness {
    pub(crate) fn open(folder: PathBuf) -> Result<Self> {
        let made = fs::create_dir_all(&folder);
        made.map_err(|error| failed(&folder, error))?;
        Ok(Liveness { folder })
    }

    /// Is alive under an id from now on; None where somebody is.
    pub(crate) fn claim(&self, id: Uuid) -> Result<Option<Life>> {
        let path = self.path(id);
        self.try_claim(id, &path).map_err(|error| failed(&path, error))
    }

    fn try_claim(&self, id: Uuid, path: &Path) -> io::Result<Option<Life>> {
        let mut held = held();
        if is_own(&held, id) {
            return Ok(None);
        }
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // Whoever held it may have removed it, and somebody else made it anew, since it was opened.
        if !is_at(&file, path)? || is_named_one_alive(&mut file)? {
            return Ok(None);
        }
        let process = process::id();
        file.set_len(0)?;
        io::Seek::rewind(&mut file)?;
        file.write_all(identity(process).unwrap_or_default().as_bytes())?;
        held.insert(id, process);
        Ok(Some(Life { id, path: path.to_path_buf(), process, file: Some(file) }))
    }

    /// Whether somebody is alive under an id.
    pub(crate) fn is_live(&self, id: Uuid) -> Result<bool> {
        let path = self.path(id);
        let look = || -> io::Result<bool> {
            let held = held();
            if is_own(&held, id) {
                return Ok(true);
            }
            let mut file = File::open(&path)?;
            // Only asked for, and not taken: another process may try to take it at this moment.
            let lock = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock))?;
            Ok(lock.is_some() || is_named_one_alive(&mut file)?)
        };
        match look() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            looked => looked.map_err(|error| failed(&path, error)),
        }
    }

    /// The ids of files that were made long ago; they may be in use.
    pub(crate) fn old(&self) -> Result<Vec<Uuid>> {
        let files = fs::read_dir(&self.folder).map_err(|error| failed(&self.folder, error))?;
        let old = |entry: fs::DirEntry| {
            let path = entry.path();
            let is_lock = path.extension().is_some_and(|ending| ending == ENDING);
            let age = entry.metadata().ok()?.modified().ok()?.elapsed().ok()?;
            let id = path.file_stem()?.to_str()?.parse().ok()?;
            (is_lock && age > LEFT_AFTER).then_some(id)
        };
        Ok(files.filter_map(|entry| old(entry.ok()?)).collect())
    }

    fn path(&self, id: Uuid) -> PathBuf {
        self.folder.join(format!("{id}.{ENDING}"))
    }
}

impl Life {
    /// Ends it, and removes its file: the id is never used again.
    pub(crate) fn remove(self) {
        // One that stays is found later.
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let mut held = held();
        // A forked child has a copy, by which it must not write into its parent's file.
        if self.process == process::id() {
            held.remove(&self.id);
            if let Some(file) = &self.file {
                // Otherwise this process would count as alive for it without a lock.
                let _ = file.set_len(0);
            }
        }
        self.file = None;
    }
}

fn held() -> MutexGuard<'static, BTreeMap<Uuid, u32>> {
    // A panic leaves no half of an entry.
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_own(held: &BTreeMap<Uuid, u32>, id: Uuid) -> bool {
    held.get(&id) == Some(&process::id())
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (open, there) = (file.metadata()?, fs::metadata(path));
    Ok(there.is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino())))
}

/// Whether the process that the file names is there still. This one would know.
fn is_named_one_alive(file: &mut File) -> io::Result<bool> {
    let mut named = String::new();
    // Somebody else's bytes name nobody.
    if file.take(256).read_to_string(&mut named).is_err() {
        return Ok(false);
    }
    let process = named.split(' ').nth(1).and_then(|number| number.parse().ok());
    Ok(process.is_some_and(|number| number != process::id() && identity(number).as_ref() == Some(&named)))
}

/// What tells a process from every other one of this machine, before and after: its boot, and when in it
/// the process was started. None where it is gone, or where the system does not say.
fn identity(process: u32) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(format!("{} {process} {}", boot.trim(), started(&stat)?))
}

/// The time of its start in a line of `/proc/…/stat`; None for one that has ended and waits for its parent.
fn started(stat: &str) -> Option<&str> {
    // The name, in parentheses, may hold any character.
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace();
    let is_over = matches!(fields.next()?, "Z" | "X");
    fields.nth(18).filter(|_| !is_over)
}

fn failed(path: &Path, error: io::Error) -> Error {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    let kind = match error.kind() {
        NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem => ErrorKind::Configuration,
        _ => ErrorKind::Unreachable,
    };
    let why = "the lock that says who is alive can't be used: check that this user may read and write data_dir, \
               and that its disk has room";
    Error::new(kind, OPERATION, why).with("file", path.display()).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Liveness) {
        let folder = tempfile::tempdir().unwrap();
        let liveness = Liveness::open(folder.path().join("coordinators")).unwrap();
        (folder, liveness)
    }

    #[test]
    fn one_is_alive_at_a_time() {
        let (_folder, liveness) = folder();
        let (id, other) = (Uuid::new_v4(), Uuid::new_v4());
        assert!(!liveness.is_live(id).unwrap());
        let life = liveness.claim(id).unwrap().unwrap();
        assert!(liveness.is_live(id).unwrap() && liveness.claim(id).unwrap().is_none());
        assert!(!liveness.is_live(other).unwrap() && liveness.claim(other).unwrap().is_some());
        drop(life);
        assert!(!liveness.is_live(id).unwrap());
        let life = liveness.claim(id).unwrap().unwrap();
        life.remove();
        assert!(!liveness.path(id).exists() && !liveness.is_live(id).unwrap());
        assert!(liveness.claim(id).unwrap().is_some());
    }

    #[test]
    fn who_is_named_in_the_file_is_alive_without_a_lock() {
        let (_folder, liveness) = folder();
        let id = Uuid::new_v4();
        let parent = identity(std::os::unix::process::parent_id()).unwrap();
        fs::write(liveness.path(id), &parent).unwrap();
        assert!(liveness.is_live(id).unwrap() && liveness.claim(id).unwrap().is_none());
        assert_eq!(fs::read_to_string(liveness.path(id)).unwrap(), parent, "nothing was written");
        for nobody in ["", "x 1", "\u{0}", &format!("{parent}0"), &identity(process::id()).unwrap()] {
            fs::write(liveness.path(id), nobody).unwrap();
            assert!(!liveness.is_live(id).unwrap(), "{nobody:?}");
        }
        assert!(liveness.claim(id).unwrap().is_some());
    }

    #[test]
    fn a_process_is_known_by_its_start_until_it_has_ended() {
        let line = |name: &str, state: &str| {
            format!("7 ({name}) {state} 1 7 7 0 -1 4194560 1 0 0 0 2 3 0 0 20 0 1 0 98765 1 2 3")
        };
        for name in ["sh", "a ) (b", ""] {
            assert_eq!(started(&line(name, "S")), Some("98765"));
            assert_eq!(started(&line(name, "Z")), None);
        }
        assert_eq!(started("7 (sh"), None);
        assert_eq!(started("7 (sh) S 1"), None);
    }

    #[test]
    fn a_file_that_was_replaced_is_not_the_one_that_was_opened() {
        let (_folder, liveness) = folder();
        let path = liveness.path(Uuid::new_v4());
        fs::write(&path, "").unwrap();
        let file = File::open(&path).unwrap();
        assert!(is_at(&file, &path).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path).unwrap());
        fs::write(&path, "").unwrap();
        assert!(!is_at(&file, &path).unwrap());
    }

    #[test]
    fn only_files_made_long_ago_may_have_been_left() {
        let (_folder, liveness) = folder();
        let (old, new) = (Uuid::new_v4(), Uuid::new_v4());
        for id in [old, new] {
            fs::write(liveness.path(id), "").unwrap();
        }
        fs::write(liveness.folder.join("note.txt"), "").unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * LEFT_AFTER;
        for path in [liveness.path(old), liveness.folder.join("note.txt")] {
            File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
        }
        assert_eq!(liveness.old().unwrap(), [old]);
    }
}
