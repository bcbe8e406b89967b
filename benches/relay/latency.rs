//! From the answer to a writer's commit until a `read_committed` consumer has the message: at a
//! steady 1,000 messages a second, and for the first message after idle time. Between them, what
//! an idle relay costs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::backlog::connect;
use crate::ours::Installed;
use crate::report::{Latency, percentile};
use crate::steady::{Arrivals, MESSAGES_PER_SECOND, publish, write_steadily};
use crate::{Options, Result, Servers, process};

/// Not measured: connections, caches, the relay's first window.
const RAMP_UP_SECONDS: u64 = 3;
const IDLE_SECONDS: f64 = 15.0;
/// Longer than the relay keeps polling often.
const PAUSE: Duration = Duration::from_millis(1600);

/// Measures all three on one relay.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Latency> {
    let installed = Installed::create(servers, options).await?;
    let relay = installed.relay()?;
    let (arrivals, reading) = Arrivals::start(&servers.kafka, &installed.topic);
    let committed = write_steadily(&installed, options.latency_seconds + RAMP_UP_SECONDS).await?;
    arrivals.wait_for(committed.len()).await?;
    let steady = arrivals.latencies(&committed, RAMP_UP_SECONDS * MESSAGES_PER_SECOND);
    tokio::time::sleep(PAUSE).await;
    let idle_began = (Instant::now(), process::cpu_seconds(relay.pid())?);
    tokio::time::sleep(Duration::from_secs_f64(IDLE_SECONDS)).await;
    let idle_s = idle_began.0.elapsed().as_secs_f64();
    let idle_cpu = (process::cpu_seconds(relay.pid())? - idle_began.1) / idle_s;
    let first = first_after_idle(&installed, &arrivals, options.first_messages).await?;
    arrivals.finish(reading)?;
    relay.stop()?;
    installed.remove(servers).await?;
    Ok(Latency {
        messages: steady.len(),
        p50_ms: percentile(&steady, 0.50),
        p99_ms: percentile(&steady, 0.99),
        max_ms: percentile(&steady, 1.0),
        first_p50_ms: percentile(&first, 0.50),
        first_max_ms: percentile(&first, 1.0),
        idle_cpu_percent: idle_cpu * 100.0,
    })
}

async fn first_after_idle(installed: &Installed, arrivals: &Arrivals, count: usize) -> Result<Vec<f64>> {
    let mut client = connect(&installed.database.url).await?;
    let before = arrivals.len();
    let mut committed = BTreeMap::new();
    for n in 0..count {
        // By a different fraction of the idle pause each time.
        tokio::time::sleep(PAUSE + Duration::from_millis(7 * n as u64 % 40)).await;
        let number = u64::MAX - n as u64;
        committed.insert(number, publish(&mut client, &installed.topic, number).await?);
        arrivals.wait_for(before + n + 1).await?;
    }
    Ok(arrivals.latencies(&committed, 0))
}
