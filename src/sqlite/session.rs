//! One session with a file of our own: its calls block elsewhere, and every error names the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blocking::Blocking;
use super::place::Place;
use crate::error::{ErrorKind, Result};

/// A session, and what it does its work with.
pub(crate) struct FileSession<R> {
    rows: Blocking<R>,
    place: Arc<Place>,
    file: PathBuf,
}

impl<R: Send + 'static> FileSession<R> {
    /// Begins one by what `open` makes of the file.
    pub(crate) async fn open(
        file: &Path,
        operation: &'static str,
        open: impl FnOnce(&Path) -> Result<(R, Arc<Place>)> + Send + 'static,
    ) -> Result<Self> {
        let opened = Blocking::new(file.to_path_buf()).call(operation, move |file| open(file)).await;
        let (rows, place) = opened.map_err(|error| error.with("file", file.display()))?;
        Ok(FileSession { rows: Blocking::new(rows), place, file: file.to_path_buf() })
    }

    /// Calls `work` on a thread that may block.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut R) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.rows.call(operation, work).await.map_err(|error| error.with("file", self.file.display()))
    }

    /// Whether the file is another one than it was, so that nothing of this session is in it.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.place.check(ErrorKind::Unclear, "look at the file").is_err()
    }
}
