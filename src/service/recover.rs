//! Settles, beside the relays of a process, what dead coordinators have left in its databases: an application
//! that died for good is settled by whoever lives.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use super::node::{has_transactions, open_following};
use crate::config::{Config, Followed};
use crate::coordinator::{CoordinatorSettings, Holdings, Node, RecoveryTally};
use crate::error::Result;
use crate::protocol::retry::Backoff;
use crate::relay::stopped;

/// Works until `stop` turns true. Servers that are away are waited for.
pub(super) async fn run(
    config: Config,
    settings: Followed<CoordinatorSettings>,
    retry: Backoff,
    observed: Arc<OnceLock<Arc<RecoveryTally>>>,
    holdings: Arc<OnceLock<Arc<Holdings>>>,
    mut stop: watch::Receiver<bool>,
) {
    let (mut failures, mut told) = (0, false);
    loop {
        match open(&config, &settings).await {
            // With one database alone only what holds a lock is ever prepared: looked at again, as a program may
            // begin that at any time.
            Ok(None) => {
                let interval = settings.now().orphan_interval;
                tokio::select! {
                    () = tokio::time::sleep(interval) => continue,
                    () = stopped(&mut stop) => return,
                }
            }
            Ok(Some(node)) => {
                let _ = observed.set(node.recovery());
                let _ = holdings.set(node.holdings());
                stopped(&mut stop).await;
                return node.close().await;
            }
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, "transactions of dead coordinators can't be settled now: nothing is lost");
            }
            Err(_) => {}
        }
        failures += 1;
        tokio::select! {
            () = tokio::time::sleep(retry.wait(failures, 0.5)) => {}
            () = stopped(&mut stop) => return,
        }
    }
}

async fn open(config: &Config, settings: &Followed<CoordinatorSettings>) -> Result<Option<Node>> {
    match has_transactions(config).await? {
        true => open_following(config, settings.clone()).await.map(Some),
        false => Ok(None),
    }
}
