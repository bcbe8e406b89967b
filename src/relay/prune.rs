//! Removes delivered messages in the background, in small steps, and not while a backlog drains:
//! a delete costs PostgreSQL as much CPU as delivering does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::committed::Committed;
use super::read::Flow;
use super::settings::RelaySettings;
use super::told::Told;
use crate::config::Followed;
use crate::error::{ErrorKind, Result};
use crate::outbox::{Outbox, OutboxSource};

/// The pause between two looks at what may be pruned.
const PAUSE: Duration = Duration::from_millis(200);
/// A takeover fences a pruner for moments. Where it stays fenced so many times over, the database
/// lacks the barrier that the progress names, and nobody would know why the table grows.
const FENCED_UNTOLD: u32 = 10;
/// A backlog that writers never let end would make the table grow for ever. It is one where so many
/// parts of the most that it ever had, or of this many messages, have come since.
const FED_PART: u64 = 4;
const FED_MIN: u64 = 20_000;
/// The part of them that may be delivered and not pruned while such a backlog lasts; with more, reads
/// make way for pruning. What waits, and the dead rows until they are vacuumed, need room beside it.
const UNPRUNED_PART: u64 = 8;
const CROWDED_PART: u64 = 4;

/// Prunes for as long as the session lives.
pub(super) async fn run(
    source: Arc<dyn OutboxSource>,
    committed: Arc<Committed>,
    flow: Arc<Flow>,
    settings: Followed<RelaySettings>,
) {
    let deferral = Deferral::default();
    let (limit, keep_proofs) = (0, Duration::ZERO);
    let mut pruner =
        Pruner { source, outbox: None, committed, flow, limit, keep_proofs, deferral, held_above: None };
    let (mut failures, mut told) = (0, Told::default());
    loop {
        pruner.committed.unpruned.any().await;
        tokio::time::sleep(PAUSE).await;
        (pruner.limit, pruner.keep_proofs) = (settings.now().prune_messages, settings.now().keep_proofs);
        let pruned = pruner.prune().await;
        // Nobody waits for what does not get on, or is not asked for.
        pruner.committed.unpruned.limit(None);
        match pruned {
            Ok(()) => {
                failures = 0;
                told.clear();
            }
            Err(error) => {
                // Another connection; what is left is pruned by the next step, or the next owner.
                pruner.outbox = None;
                failures += 1;
                let passes = error.kind() == ErrorKind::Fenced && failures < FENCED_UNTOLD;
                if !passes && told.is_news(&error) {
                    tracing::warn!(%error, "delivered messages can't be removed now");
                }
                let wait = settings.now().retry.wait(failures, 0.5);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

struct Pruner {
    source: Arc<dyn OutboxSource>,
    outbox: Option<Box<dyn Outbox>>,
    committed: Arc<Committed>,
    flow: Arc<Flow>,
    limit: u32,
    keep_proofs: Duration,
    deferral: Deferral,
    /// Up to where all went the last time, while some have to stay.
    held_above: Option<i64>,
}

impl Pruner {
    /// Prunes until all is gone that was delivered before, or pruning is deferred.
    async fn prune(&mut self) -> Result<()> {
        loop {
            let before = self.committed.unpruned.messages();
            let Some(most) = self.deferral.due(before, &self.flow) else { return Ok(()) };
            let outbox = match &mut self.outbox {
                Some(connected) => connected,
                None => self.outbox.insert(self.source.connect().await?),
            };
            let (proofs, unpruned) = (&self.committed.proofs, &self.committed.unpruned);
            proofs.keep_for(self.keep_proofs);
            if let Some(asked) = proofs.unknown() {
                self.held_above = None;
                proofs.found(asked, outbox.has_proofs(self.keep_proofs).await?, Instant::now());
            }
            let held_above = proofs.held_above(Instant::now());
            if held_above.is_some() && held_above == self.held_above {
                return Ok(());
            }
            self.held_above = None;
            outbox.hold(held_above);
            let pruned = outbox.prune(&self.committed.all(), self.limit).await?;
            match (pruned.all, held_above) {
                (true, None) => {
                    // What came since is looked at next time.
                    unpruned.all_went(before);
                    return Ok(());
                }
                (true, held_above) => {
                    unpruned.some_went(pruned.messages);
                    self.held_above = held_above;
                    return Ok(());
                }
                (false, _) => unpruned.some_went(pruned.messages),
            }
            if pruned.messages < u64::from(self.limit) {
                return Ok(());
            }
            // Nobody waits for what has to stay.
            let makes_way = self.deferral.is_fed && held_above.is_none();
            unpruned.limit(makes_way.then_some(most / CROWDED_PART));
            tokio::task::yield_now().await;
        }
    }
}

/// For how long pruning waits behind a backlog.
#[derive(Default)]
struct Deferral {
    /// Whether writers feed the backlog.
    is_fed: bool,
}

impl Deferral {
    /// Whether it is time to prune: then, the most that the backlog ever had.
    fn due(&mut self, unpruned: u64, flow: &Flow) -> Option<u64> {
        let most = flow.largest_backlog().max(FED_MIN);
        // Of one that only drains there are never more than it had.
        let has_more = unpruned + flow.waiting() >= most + most / FED_PART;
        self.is_fed = flow.is_draining() && (self.is_fed || has_more);
        let is_due = !flow.is_draining() || (self.is_fed && unpruned >= most / UNPRUNED_PART);
        is_due.then_some(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Batch;

    const MOST: u64 = 1_000_000;

    fn waiting(flow: &Flow, waiting: u64) {
        flow.note(&Batch { chunks: Vec::new(), more: true, backlog: true, waiting });
    }

    #[test]
    fn a_backlog_that_only_drains_is_pruned_behind_its_end() {
        let (flow, mut deferral) = (Flow::default(), Deferral::default());
        for delivered in (0..=MOST).step_by(10_000) {
            waiting(&flow, MOST - delivered);
            assert_eq!(deferral.due(delivered, &flow), None, "{delivered}");
        }
        flow.note(&Batch::default());
        assert!(deferral.due(MOST, &flow).is_some());
    }

    #[test]
    fn a_backlog_that_writers_feed_is_pruned_while_it_lasts() {
        let (flow, mut deferral) = (Flow::default(), Deferral::default());
        let due = |deferral: &mut Deferral, unpruned| {
            waiting(&flow, MOST);
            deferral.due(unpruned, &flow)
        };
        assert_eq!(due(&mut deferral, MOST / FED_PART - 1), None, "it may drain yet");
        assert_eq!(due(&mut deferral, MOST / FED_PART), Some(MOST));
        assert_eq!(due(&mut deferral, MOST / UNPRUNED_PART), Some(MOST));
        assert_eq!(due(&mut deferral, MOST / UNPRUNED_PART - 1), None);
        flow.note(&Batch::default());
        assert!(deferral.due(1, &flow).is_some(), "it has ended");
        assert_eq!(due(&mut deferral, MOST / UNPRUNED_PART - 1), None, "another one begins");
    }
}
