//! Removes delivered messages in the background, in small steps, and not while a backlog drains:
//! a delete costs PostgreSQL as much CPU as delivering does.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::committed::Committed;
use super::read::Flow;
use super::settings::RelaySettings;
use super::told::Told;
use crate::error::ErrorKind;
use crate::outbox::{Outbox, OutboxSource};

/// The pause between two looks at what may be pruned.
const PAUSE: Duration = Duration::from_millis(200);
/// A takeover fences a pruner for moments. Where it stays fenced so many times over, the database
/// lacks the barrier that the progress names, and nobody would know why the table grows.
const FENCED_UNTOLD: u32 = 10;
/// More delivered messages than the backlog had at most, and than this, are pruned even while it
/// drains: one that writers never let end would make the table grow for ever.
const UNPRUNED_MIN: u64 = 20_000;

/// Prunes for as long as the session lives.
pub(super) async fn run(
    source: Arc<dyn OutboxSource>,
    committed: Arc<Committed>,
    flow: Arc<Flow>,
    settings: RelaySettings,
) {
    let mut outbox: Option<Box<dyn Outbox>> = None;
    let (mut failures, mut told) = (0, Told::default());
    loop {
        tokio::time::sleep(PAUSE).await;
        if committed.unpruned.load(Ordering::Relaxed) == 0 || is_deferred(&committed, &flow) {
            continue;
        }
        match prune(&*source, &mut outbox, &committed, &flow, settings.prune_messages).await {
            Ok(()) => {
                failures = 0;
                told.clear();
            }
            Err(error) => {
                // Another connection; what is left is pruned by the next step, or the next owner.
                outbox = None;
                failures += 1;
                let passes = error.kind() == ErrorKind::Fenced && failures < FENCED_UNTOLD;
                if !passes && told.is_news(&error) {
                    tracing::warn!(%error, "delivered messages can't be removed now");
                }
                tokio::time::sleep(settings.retry.wait(failures, 0.5)).await;
            }
        }
    }
}

async fn prune(
    source: &dyn OutboxSource,
    outbox: &mut Option<Box<dyn Outbox>>,
    committed: &Committed,
    flow: &Flow,
    limit: u32,
) -> crate::error::Result<()> {
    let connected = match outbox {
        Some(connected) => connected,
        None => outbox.insert(source.connect().await?),
    };
    let before = committed.unpruned.load(Ordering::Relaxed);
    loop {
        let pruned = connected.prune(&committed.all(), limit).await?;
        if pruned.all {
            // Everything that was counted before is gone; what came since is looked at next time.
            committed.unpruned.fetch_sub(before, Ordering::Relaxed);
            return Ok(());
        }
        if is_deferred(committed, flow) || pruned.messages < u64::from(limit) {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

fn is_deferred(committed: &Committed, flow: &Flow) -> bool {
    let most = flow.largest_backlog().max(UNPRUNED_MIN);
    flow.is_draining() && committed.unpruned.load(Ordering::Relaxed) < most
}
