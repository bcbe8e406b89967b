//! How long a message waits at most when a relay is killed under a steady load: with another relay
//! beside it, and alone but started again at once.

use std::time::{Duration, Instant};

use crate::figure::Budget::AtMost;
use crate::figure::{Figure, percentile};
use crate::ours::Installed;
use crate::process::Process;
use crate::steady::{Arrivals, write_steadily};
use crate::{Options, Result, Servers};

/// As long as a takeover may take, and as long again.
const WRITING_SECONDS: u64 = 10;
const KILLED_AFTER: Duration = Duration::from_secs(2);
const SHARED_LIMIT: Duration = Duration::from_secs(30);

/// Kills a relay in each round, both ways.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Vec<Figure>> {
    let (mut beside, mut restarted) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        beside.push(longest_wait(servers, options, true).await?);
        restarted.push(longest_wait(servers, options, false).await?);
    }
    Ok(vec![
        Figure::new("relay killed beside another: longest wait of a message, s", AtMost(5.0), beside),
        Figure::new("relay killed and started again: longest wait of a message, s", AtMost(2.0), restarted),
    ])
}

async fn longest_wait(servers: &Servers, options: &Options, beside: bool) -> Result<f64> {
    let installed = Installed::create(servers, options).await?;
    let (arrivals, reading) = Arrivals::start(&servers.kafka, &installed.topic);
    let killed = installed.relay()?;
    wait_owners(&installed, 1).await?;
    let mut other: Option<Process> = None;
    if beside {
        other = Some(installed.relay()?);
        wait_owners(&installed, 2).await?;
    }
    let kill = async {
        tokio::time::sleep(KILLED_AFTER).await;
        drop(killed);
        match other {
            Some(other) => Ok(other),
            None => installed.relay(),
        }
    };
    let writing = installed.writing();
    let (committed, relay) = tokio::join!(write_steadily(&writing, WRITING_SECONDS), kill);
    let (committed, relay) = (committed?, relay?);
    arrivals.wait_for(committed.len()).await?;
    let waits = arrivals.latencies(&committed, 0);
    arrivals.finish(reading)?;
    relay.stop()?;
    installed.remove(servers).await?;
    Ok(percentile(&waits, 1.0) / 1000.0)
}

/// Waits until the shards are shared among so many relays.
async fn wait_owners(installed: &Installed, relays: usize) -> Result<()> {
    let began = Instant::now();
    while installed.owners()? != relays {
        if began.elapsed() > SHARED_LIMIT {
            return Err(format!("the shards were not shared among {relays} relays").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
