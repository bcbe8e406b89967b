//! Decisions in ZooKeeper and nothing else of a coordinator: each in a node of its own, or those that come
//! while others are under way together in the next one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use onecommit::decision_log::{DecisionLog, Fence, LogSession};
use onecommit::id::CoordinatorId;
use onecommit::protocol::batch::{Answer, Batches, Entry, Meaning, Request};
use onecommit::protocol::decision::Record;
use tokio::sync::{mpsc, oneshot};

use crate::Result;

/// Nodes that are left behind the newest one; those before go with the decisions that follow.
const KEPT: u64 = 1000;
/// Batches go so many at a time, as they do once a mark has covered them.
const GO_TOGETHER: u64 = 100;

/// Where decisions go.
pub(super) enum Decisions {
    /// Each in a node of its own, as many at a time as there are.
    Each { session: Arc<dyn LogSession>, fence: Fence, next: AtomicU64 },
    /// In batches, one at a time.
    Grouped(mpsc::UnboundedSender<Submitted>),
}

type Submitted = (Entry, oneshot::Sender<()>);

impl Decisions {
    pub(super) async fn each(log: &dyn DecisionLog) -> Result<Self> {
        let (session, fence) = open(log).await?;
        Ok(Decisions::Each { session, fence, next: AtomicU64::new(0) })
    }

    pub(super) async fn grouped(log: &dyn DecisionLog) -> Result<Self> {
        let (session, fence) = open(log).await?;
        let (submit, submitted) = mpsc::unbounded_channel();
        tokio::spawn(group(session, fence, submitted));
        Ok(Decisions::Grouped(submit))
    }

    /// Returns when it is decided.
    pub(super) async fn decide(&self, entry: Entry) -> Result<()> {
        match self {
            Decisions::Each { session, fence, next } => {
                let batch = next.fetch_add(1, Ordering::Relaxed);
                let delete = batch.checked_sub(KEPT).into_iter().collect();
                let request = Request { batch, entries: vec![entry], delete };
                match session.decide(*fence, &request).await {
                    Answer::Done => Ok(()),
                    other => Err(format!("not decided: {other:?}").into()),
                }
            }
            Decisions::Grouped(submit) => {
                let (told, decided) = oneshot::channel();
                submit.send((entry, told)).map_err(|_| "the decisions ended")?;
                Ok(decided.await?)
            }
        }
    }
}

async fn open(log: &dyn DecisionLog) -> Result<(Arc<dyn LogSession>, Fence)> {
    let session: Arc<dyn LogSession> = log.open().await?.into();
    let record = Record { host: String::new(), pid: 0, is_orphan: false, participants: BTreeMap::new() };
    let fence = session.register(CoordinatorId::random(), &record).await?;
    Ok((session, fence))
}

/// Ends with an error of the log, whose callers are then told nothing.
async fn group(
    session: Arc<dyn LogSession>,
    fence: Fence,
    mut submitted: mpsc::UnboundedReceiver<Submitted>,
) {
    let (mut batches, mut waiting) = (Batches::default(), BTreeMap::new());
    while let Some(first) = submitted.recv().await {
        let mut next = Some(first);
        while let Some((entry, told)) = next {
            waiting.insert(entry.number, told);
            batches.submit(entry);
            next = submitted.try_recv().ok();
        }
        while let Some(request) = batches.to_send().cloned() {
            // A request that only deletes has the number of the batch that follows.
            if !request.entries.is_empty()
                && request.batch % GO_TOGETHER == 0
                && let Some(old) = request.batch.checked_sub(KEPT)
            {
                (old.saturating_sub(GO_TOGETHER)..old).for_each(|batch| batches.allow_delete(batch));
            }
            let answer = session.decide(fence, &request).await;
            let Meaning::Decided(numbers) = batches.answered(answer) else { return };
            for told in numbers.iter().filter_map(|number| waiting.remove(number)) {
                let _ = told.send(());
            }
            while let Ok((entry, told)) = submitted.try_recv() {
                waiting.insert(entry.number, told);
                batches.submit(entry);
            }
        }
    }
}
