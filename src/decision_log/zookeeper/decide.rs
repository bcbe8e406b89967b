//! A request for decisions as one `multi`, and what its answer says.

use zookeeper_client as zk;

use super::nodes::Store;
use crate::decision_log::Fence;
use crate::decision_log::lost::lost;
use crate::error::Result;
use crate::failpoint;
use crate::protocol::batch::{Answer, Request};
use crate::protocol::decision::encode_batch;
use crate::zookeeper::Effect;

const OPERATION: &str = "decide";

impl Store {
    pub(super) async fn decide(&self, fence: Fence, request: &Request) -> Answer {
        self.decided(fence, request).await.unwrap_or_else(|error| lost(&error))
    }

    async fn decided(&self, fence: Fence, request: &Request) -> Result<Answer> {
        let failed = |error| {
            let error = self.error(OPERATION, Effect::Possible, error).with("coordinator", fence.coordinator);
            error.with("batch", request.batch)
        };
        let writer = self.decision(fence, request).map_err(failed)?;
        failpoint!("zookeeper_log.decide.before_commit")?;
        let answer = match self.connection.commit(writer).await {
            Ok(_) => Answer::Done,
            Err(error) => refusal(request, &error).ok_or_else(|| failed(error.into()))?,
        };
        failpoint!("zookeeper_log.decide.after_commit")?;
        Ok(answer)
    }

    /// The order tells which part failed.
    fn decision(&self, fence: Fence, request: &Request) -> Result<zk::MultiWriter<'_>, zk::Error> {
        let mut writer = self.fenced_writer(fence)?;
        if !request.entries.is_empty() {
            let path = self.paths.batch(fence.coordinator, request.batch);
            let bytes = encode_batch(request.entries.iter().map(|entry| entry.bytes.as_slice()));
            writer.add_create(&path, &bytes, &self.persistent())?;
        }
        for batch in &request.delete {
            writer.add_delete(&self.paths.batch(fence.coordinator, *batch), None)?;
        }
        Ok(writer)
    }

    /// What is written only while the fence is this one.
    pub(super) fn fenced_writer(&self, fence: Fence) -> Result<zk::MultiWriter<'_>, zk::Error> {
        let mut writer = self.connection.client().new_multi_writer();
        writer.add_check_version(&self.paths.fence(fence.coordinator), fence.number as i32)?;
        Ok(writer)
    }
}

/// Whether the check of [`Store::fenced_writer`] failed, so that nothing was done.
pub(super) fn is_fenced(error: &zk::MultiWriteError) -> bool {
    matches!(
        error,
        zk::MultiWriteError::OperationFailed { index: 0, source: zk::Error::BadVersion | zk::Error::NoNode }
    )
}

/// What the server refused clearly, part by part. None for all else.
///
/// A session that is over is no clear refusal: the client says so of requests that it never sent, of those
/// that the server did not do, and of those that were written to a connection whose end it learned from
/// another answer. Nor is a request that was given up: it may still wait in the client, and be sent.
fn refusal(request: &Request, error: &zk::MultiWriteError) -> Option<Answer> {
    use zk::Error::{NoNode, NodeExists};
    if is_fenced(error) {
        return Some(Answer::Fenced);
    }
    let zk::MultiWriteError::OperationFailed { index, source } = error else { return None };
    let creates = usize::from(!request.entries.is_empty());
    match (index.checked_sub(1)?.checked_sub(creates), source) {
        (None, NodeExists) => Some(Answer::Exists),
        // The folder of its decisions is gone, and nobody makes it again: the same as its fence.
        (None, NoNode) => Some(Answer::Fenced),
        (Some(at), NoNode) => request.delete.get(at).copied().map(Answer::Missing),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::batch::Entry;

    #[test]
    fn an_answer_says_which_part_was_refused() {
        use zk::Error::*;
        let deletes = Request { batch: 7, entries: Vec::new(), delete: vec![3, 4] };
        let both = Request { entries: vec![Entry { number: 1, bytes: Vec::new() }], ..deletes.clone() };
        let answer = |request: &Request, index, source| {
            refusal(request, &zk::MultiWriteError::OperationFailed { index, source })
        };
        for request in [&both, &deletes] {
            assert_eq!(answer(request, 0, BadVersion), Some(Answer::Fenced));
            assert_eq!(answer(request, 0, NoNode), Some(Answer::Fenced));
            assert_eq!(answer(request, 0, SessionExpired), None);
            assert_eq!(answer(request, 0, NoAuth), None);
            assert_eq!(answer(request, 9, NoNode), None, "there is no such part");
        }
        assert_eq!(answer(&both, 1, NodeExists), Some(Answer::Exists));
        assert_eq!(answer(&both, 1, NoNode), Some(Answer::Fenced));
        assert_eq!(answer(&both, 1, QuotaExceeded), None);
        assert_eq!(answer(&both, 2, NoNode), Some(Answer::Missing(3)));
        assert_eq!(answer(&both, 3, NoNode), Some(Answer::Missing(4)));
        assert_eq!(answer(&deletes, 1, NoNode), Some(Answer::Missing(3)));
        assert_eq!(answer(&deletes, 2, NoNode), Some(Answer::Missing(4)));
        for source in
            [ConnectionLoss, Timeout, SessionExpired, SessionMoved, ClientClosed, BadVersion, NoNode]
        {
            assert_eq!(refusal(&both, &zk::MultiWriteError::RequestFailed { source }), None);
        }
    }
}
