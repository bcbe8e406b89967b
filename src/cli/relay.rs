//! `onecommit relay`.

use std::sync::Arc;

use tokio::sync::watch;

use super::interrupt::{Interruption, interrupted, runtime};
use crate::config::Config;
use crate::error::Result;
use crate::service::{self, Observed};

/// Runs until SIGTERM (exit 0) or Ctrl-C (130); both finish the batches in flight first. All that it
/// says stands in the log.
pub(super) fn run(config: &Config) -> Result<i32> {
    let runtime = runtime()?;
    let ended = runtime.block_on(relay(config));
    // A blocking call of a client that waits for a server must not hold the exit up.
    runtime.shutdown_background();
    ended
}

async fn relay(config: &Config) -> Result<i32> {
    let observed = Arc::new(Observed::new(config)?);
    let admin = match config.admin.listen {
        Some(address) => Some(crate::AdminServer::bind(address).await?),
        None => None,
    };
    let (stop, stopped) = watch::channel(false);
    let signalled = tokio::spawn({
        let observed = Arc::clone(&observed);
        async move {
            let interruption = interrupted().await;
            observed.note_stopping();
            stop.send_replace(true);
            interruption
        }
    });
    // It answers for as long as the relays take to end, and says so.
    let (end, ends) = watch::channel(false);
    let answering = admin.map(|admin| tokio::spawn(admin.run(Arc::clone(&observed), ends)));
    let ended = service::run_observed(config, &observed, stopped).await;
    end.send_replace(true);
    if let Some(answering) = answering {
        let _ = answering.await;
    }
    ended?;
    signalled.await.map_or(Ok(1), |interruption| interruption.map(Interruption::ends))
}
