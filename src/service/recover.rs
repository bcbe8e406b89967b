//! Settles, beside the relays of a process, what dead coordinators have left in its databases: an application
//! that died for good is settled by whoever lives.

use tokio::sync::watch;

use super::open_node;
use crate::config::{Config, DatabaseUrl};
use crate::protocol::retry::Backoff;
use crate::relay::stopped;

/// Works until `stop` turns true. Servers that are away are waited for.
pub(super) async fn run(config: Config, retry: Backoff, mut stop: watch::Receiver<bool>) {
    let is_postgres = |url: &DatabaseUrl| matches!(url, DatabaseUrl::Postgres(_));
    // With one alone nothing is ever prepared.
    if config.participants.values().filter(|participant| is_postgres(&participant.url)).count() < 2 {
        return;
    }
    let (mut failures, mut told) = (0, false);
    loop {
        match open_node(&config).await {
            Ok(node) => {
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
