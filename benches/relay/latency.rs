//! From the answer to a writer's commit until a `read_committed` consumer has the message: at a
//! steady 1,000 messages a second, and for the first message after idle time. Between them, what
//! an idle relay costs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use onecommit::{Message, Outbox};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset};
use tokio::time::MissedTickBehavior;

use crate::backlog::{VALUE_BYTES, connect, key};
use crate::ours::Installed;
use crate::report::{Latency, percentile};
use crate::{Options, Result, Servers, kafka, process};

const MESSAGES_PER_SECOND: u64 = 1000;
const WRITERS: u64 = 10;
/// Not measured: connections, caches, the relay's first window.
const RAMP_UP_SECONDS: u64 = 3;
const IDLE_SECONDS: f64 = 15.0;
/// Longer than the relay keeps polling often.
const PAUSE: Duration = Duration::from_millis(1600);
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// When each message arrived, by its number.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<BTreeMap<u64, Instant>>>);

/// Measures all three on one relay.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Latency> {
    let installed = Installed::create(servers, options).await?;
    let relay = installed.relay()?;
    let stop = Arc::new(AtomicBool::new(false));
    let arrivals = Arrivals::default();
    let reading = {
        let (address, topic) = (servers.kafka.clone(), installed.topic.clone());
        let (arrivals, stop) = (arrivals.clone(), Arc::clone(&stop));
        std::thread::spawn(move || arrivals.read(&address, &topic, &stop))
    };
    let committed = write_steadily(&installed, options.latency_seconds + RAMP_UP_SECONDS).await?;
    arrivals.wait_for(committed.len()).await?;
    let measured_from = WRITERS * RAMP_UP_SECONDS * MESSAGES_PER_SECOND / WRITERS;
    let steady = arrivals.latencies(&committed, measured_from);
    tokio::time::sleep(PAUSE).await;
    let idle_began = (Instant::now(), process::cpu_seconds(relay.pid())?);
    tokio::time::sleep(Duration::from_secs_f64(IDLE_SECONDS)).await;
    let idle_s = idle_began.0.elapsed().as_secs_f64();
    let idle_cpu = (process::cpu_seconds(relay.pid())? - idle_began.1) / idle_s;
    let first = first_after_idle(&installed, &arrivals, options.first_messages).await?;
    stop.store(true, Ordering::SeqCst);
    reading.join().map_err(|_| "the consumer panicked")??;
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

/// Each writer commits one message a transaction, at its share of the rate.
async fn write_steadily(installed: &Installed, seconds: u64) -> Result<BTreeMap<u64, Instant>> {
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (url, topic) = (installed.database.url.clone(), installed.topic.clone());
        let count = seconds * MESSAGES_PER_SECOND / WRITERS;
        writers.push(tokio::spawn(async move {
            let mut client = connect(&url).await?;
            let mut ticks =
                tokio::time::interval(Duration::from_micros(1_000_000 * WRITERS / MESSAGES_PER_SECOND));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut committed = Vec::new();
            for n in 0..count {
                ticks.tick().await;
                let number = n * WRITERS + writer;
                committed.push((number, publish(&mut client, &topic, number).await?));
            }
            Result::Ok(committed)
        }));
    }
    let mut committed = BTreeMap::new();
    for writer in writers {
        committed.extend(writer.await??);
    }
    Ok(committed)
}

/// Commits one message; returns when the commit was answered.
async fn publish(client: &mut tokio_postgres::Client, topic: &str, number: u64) -> Result<Instant> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(VALUE_BYTES, b'x');
    let transaction = client.transaction().await?;
    Outbox::new().publish(&transaction, &Message::new(topic, key(number), value)?).await?;
    transaction.commit().await?;
    Ok(Instant::now())
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

impl Arrivals {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn len(&self) -> usize {
        self.lock().len()
    }

    fn read(&self, servers: &str, topic: &str, stop: &AtomicBool) -> Result<()> {
        let consumer = kafka::consumer(servers, "read_committed")?;
        consumer.assign(&kafka::partitions(topic, Offset::Beginning)?)?;
        while !stop.load(Ordering::SeqCst) {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let arrived = Instant::now();
                    let number =
                        message.payload().and_then(|value| value.first_chunk()).ok_or("no number")?;
                    self.lock().insert(u64::from_be_bytes(*number), arrived);
                }
                Some(Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn wait_for(&self, count: usize) -> Result<()> {
        let began = Instant::now();
        while self.len() < count {
            if began.elapsed() > ARRIVAL_LIMIT {
                return Err(format!("{} of {count} messages arrived", self.len()).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// In milliseconds, ascending, of the messages numbered `from` or more. A message that came
    /// before its writer had the answer took no time.
    fn latencies(&self, committed: &BTreeMap<u64, Instant>, from: u64) -> Vec<f64> {
        let arrived = self.lock();
        let mut found: Vec<f64> = committed
            .range(from..)
            .filter_map(|(number, at)| Some(arrived.get(number)?.saturating_duration_since(*at)))
            .map(|latency| latency.as_secs_f64() * 1000.0)
            .collect();
        found.sort_by(f64::total_cmp);
        found
    }
}
