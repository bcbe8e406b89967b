//! From the answer to a writer's commit until a `read_committed` consumer has the message: at a
//! steady 1,000 messages a second, and for the first message after idle time; meanwhile, what an
//! idle process costs. The relay and the poller, one after the other at the steady rate, and beside
//! each other while idle.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::backlog::connect;
use crate::figure::Budget::{AtMost, None as Free};
use crate::figure::{Figure, percentile};
use crate::ours::Installed;
use crate::poller::Plain;
use crate::process::Process;
use crate::steady::{Arrivals, MESSAGES_PER_SECOND, Writing, publish, write_steadily};
use crate::{Options, Result, Servers};

/// Not measured: connections, caches, the relay's first window.
const RAMP_UP_SECONDS: u64 = 3;
/// Longer than the relay keeps polling often.
const SETTLE: Duration = Duration::from_millis(1600);

/// Measures the relay and the poller.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Vec<Figure>> {
    let installed = Installed::create(servers, options).await?;
    let mut relay = Watched::start(servers, installed.relay()?, installed.writing())?;
    relay.steadily(options.latency_seconds).await?;
    let plain = Plain::create(servers).await?;
    let mut poller = Watched::start(servers, plain.poller(servers)?, plain.writing())?;
    poller.steadily(options.latency_seconds).await?;
    tokio::try_join!(relay.idle(options), poller.idle(options))?;
    let mut figures = figures(&relay, &poller);
    figures.extend(idle_figures(&relay, &poller));
    relay.finish()?.stop()?;
    installed.remove(servers).await?;
    drop(poller.finish()?);
    plain.remove(servers).await?;
    Ok(figures)
}

/// A process that delivers, and what was measured of it.
struct Watched {
    process: Process,
    writing: Writing,
    arrivals: Arrivals,
    reading: JoinHandle<Result<()>>,
    /// Ascending, in milliseconds.
    steady: Vec<f64>,
    first: Vec<f64>,
    idle_cpu_percent: Vec<f64>,
}

impl Watched {
    fn start(servers: &Servers, process: Process, writing: Writing) -> Result<Self> {
        let (arrivals, reading) = Arrivals::start(&servers.kafka, &writing.topic);
        let (steady, first, idle_cpu_percent) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Watched { process, writing, arrivals, reading, steady, first, idle_cpu_percent })
    }

    async fn steadily(&mut self, seconds: u64) -> Result<()> {
        let committed = write_steadily(&self.writing, seconds + RAMP_UP_SECONDS).await?;
        self.arrivals.wait_for(committed.len()).await?;
        self.steady = self.arrivals.latencies(&committed, RAMP_UP_SECONDS * MESSAGES_PER_SECOND);
        Ok(())
    }

    /// Several times nothing, then one message.
    async fn idle(&mut self, options: &Options) -> Result<()> {
        let mut client = connect(&self.writing.url).await?;
        let before = self.arrivals.len();
        let mut committed = BTreeMap::new();
        for n in 0..options.idle_rounds {
            tokio::time::sleep(SETTLE).await;
            let (began, cpu_s) = (Instant::now(), self.process.cpu_seconds()?);
            // By a different fraction of the idle pause each time.
            let beyond = Duration::from_millis(7 * n as u64 % 40);
            tokio::time::sleep(Duration::from_secs(options.idle_seconds) + beyond).await;
            let used = (self.process.cpu_seconds()? - cpu_s) / began.elapsed().as_secs_f64();
            self.idle_cpu_percent.push(used * 100.0);
            let number = u64::MAX - n as u64;
            committed.insert(number, publish(&mut client, &self.writing, number).await?);
            self.arrivals.wait_for(before + n + 1).await?;
        }
        self.first = self.arrivals.latencies(&committed, 0);
        Ok(())
    }

    fn finish(self) -> Result<Process> {
        self.arrivals.finish(self.reading)?;
        Ok(self.process)
    }

    fn steady_ms(&self, share: f64) -> f64 {
        percentile(&self.steady, share)
    }
}

fn figures(relay: &Watched, poller: &Watched) -> Vec<Figure> {
    let one = |what: &str, budget, value| Figure::new(what, budget, vec![value]);
    let all =
        |watched: &Watched| vec![watched.steady_ms(0.0), watched.steady_ms(0.5), watched.steady_ms(1.0)];
    let poller_s = |share| AtMost((poller.steady_ms(share) * 10.0).round() / 10.0);
    vec![
        Figure::new("relay at 1,000 messages/s, latency, ms (p50)", AtMost(10.0), all(relay)),
        one("relay at 1,000 messages/s, p99, ms", AtMost(40.0), relay.steady_ms(0.99)),
        Figure::new("poller at 1,000 messages/s, latency, ms (p50)", Free, all(poller)),
        one("poller at 1,000 messages/s, p99, ms", Free, poller.steady_ms(0.99)),
        one("relay's p50 against the poller's, ms", poller_s(0.5), relay.steady_ms(0.5)),
        one("relay's p99 against the poller's, ms", poller_s(0.99), relay.steady_ms(0.99)),
    ]
}

fn idle_figures(relay: &Watched, poller: &Watched) -> Vec<Figure> {
    vec![
        Figure::new("relay, first message after idle time, ms (p50)", AtMost(30.0), relay.first.clone()),
        Figure::new("poller, first message after idle time, ms (p50)", Free, poller.first.clone()),
        Figure::new("idle relay, % of a core", AtMost(0.5), relay.idle_cpu_percent.clone()),
        Figure::new("idle poller, % of a core", Free, poller.idle_cpu_percent.clone()),
    ]
}
