//! What is said of a request for decisions that was not answered clearly.

use crate::error::{Error, ErrorKind};
use crate::protocol::batch::Answer;

/// Tells why, since the answer does not.
pub(super) fn lost(error: &Error) -> Answer {
    // That the store is away is for the session's owner to tell, once.
    if matches!(error.kind(), ErrorKind::Unclear | ErrorKind::Unreachable) {
        tracing::debug!(%error, "a request for decisions was not answered");
    } else {
        tracing::warn!(%error, "the decision log takes no decisions");
    }
    Answer::Lost
}
