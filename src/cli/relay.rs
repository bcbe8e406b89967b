//! `onecommit relay`.

use tokio::sync::watch;

use super::interrupt::{Interruption, interrupted, runtime};
use crate::config::Config;
use crate::error::Result;
use crate::service;

/// Runs until SIGTERM (exit 0) or Ctrl-C (130); both finish the batches in flight first. All that it
/// says stands in the log.
pub(super) fn run(config: &Config) -> Result<i32> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let signalled = tokio::spawn(async move {
            let interruption = interrupted().await;
            stop.send_replace(true);
            interruption
        });
        service::run_relays(config, stopped).await?;
        signalled.await.map_or(Ok(1), |interruption| interruption.map(Interruption::ends))
    });
    // A blocking call of a client that waits for a server must not hold the exit up.
    runtime.shutdown_background();
    ended
}
