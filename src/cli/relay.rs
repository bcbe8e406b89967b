//! `onecommit relay`.

use tokio::sync::watch;

use super::interrupt::{interrupted, runtime};
use super::output::Output;
use crate::config::Config;
use crate::error::Result;
use crate::service;

/// Runs until SIGTERM (exit 0) or Ctrl-C (130); both finish the batches in flight first.
pub(super) fn run(config: &Config, _output: Output) -> Result<i32> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let signalled = tokio::spawn(async move {
            let code = interrupted().await;
            stop.send_replace(true);
            code
        });
        service::run_relays(config, stopped).await?;
        signalled.await.unwrap_or(Ok(1))
    });
    // A blocking call of a client that waits for a server must not hold the exit up.
    runtime.shutdown_background();
    ended
}
