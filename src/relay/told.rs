//! What keeps something waiting is told in the log once, and not at each try; what keeps a shard is
//! also noted in its row, where `status` finds it.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::id::{Epoch, ShardIndex};
use crate::outbox::OutboxSource;

/// A server that is away fails in a few ways one after another: closed, refused, starting up. More
/// differ only in a number, and are not told.
const DIFFERENT: usize = 8;

/// What was told since all was well.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeSet<String>);

impl Told {
    /// Whether `error` is yet to be told; from now on it is not.
    pub(crate) fn is_news(&mut self, error: &Error) -> bool {
        self.0.len() < DIFFERENT && self.0.insert(error.to_string())
    }

    /// All is well again. Returns whether anything was told before.
    pub(crate) fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }
}

/// Writes, or clears, what keeps a shard; best effort, on a connection of its own. Nothing is written
/// where another epoch than `epoch` has claimed the shard: then it is another relay's to say.
pub(super) async fn note_error(
    source: &dyn OutboxSource,
    shard: ShardIndex,
    epoch: Epoch,
    error: Option<String>,
) {
    if let Ok(mut outbox) = source.connect().await {
        let _ = outbox.note_error(shard, epoch, error.as_deref()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn error(text: &str) -> Error {
        Error::new(ErrorKind::Unreachable, "connect", text)
    }

    #[test]
    fn each_error_is_told_once_until_all_is_well() {
        let mut told = Told::default();
        assert!(!told.clear());
        let texts = ["closed", "refused", "closed", "refused"];
        assert_eq!(texts.map(|text| told.is_news(&error(text))), [true, true, false, false]);
        assert!(told.clear());
        assert!(told.is_news(&error("closed")));
    }

    #[test]
    fn errors_that_always_differ_end() {
        let mut told = Told::default();
        let news = (0..1000).filter(|number| told.is_news(&error(&number.to_string()))).count();
        assert_eq!(news, DIFFERENT);
    }
}
