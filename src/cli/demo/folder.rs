//! A folder of the demo's own, which goes with it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};

/// See the module. Only its owner looks into it: a password may stand in its configuration.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn make() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("onecommit-demo-{}", Uuid::new_v4()));
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|error| {
            Error::new(ErrorKind::Failed, "demo", "the demo's folder can't be made")
                .with("folder", path.display())
                .caused_by(error)
        })?;
        Ok(Folder(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
