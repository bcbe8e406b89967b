//! Which file a path led to when it was opened. An open file outlives its name: after `rm`, or a
//! rename over it, SQLite goes on reading and writing what nobody else can see any more.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// A path, and the file that it led to.
pub(crate) struct Place {
    path: PathBuf,
    file: Option<FileId>,
}

#[derive(PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl Place {
    /// To be asked before the file is opened: one that is replaced in between is then taken for
    /// gone, and not the new one for the one that is open.
    pub(crate) fn of(path: &Path) -> Self {
        Place { path: path.to_path_buf(), file: file_at(path) }
    }

    /// Fails with `kind` where the path leads to another file now, or to none.
    pub(crate) fn check(&self, kind: ErrorKind, operation: &'static str) -> Result<()> {
        if self.file.is_some() && file_at(&self.path) == self.file {
            return Ok(());
        }
        let why = "the file was removed or replaced while it was in use";
        Err(Error::new(kind, operation, why).with("file", self.path.display()))
    }
}

fn file_at(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|found| FileId { device: found.dev(), inode: found.ino() })
}
