//! Many messages through a steady backlog: writers that insert whenever it sinks, a relay that
//! delivers and prunes, and a `read_committed` consumer. How large the table gets, and how long
//! nothing comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;

use crate::backlog::{Database, Table, VALUE_BYTES, insert_sql};
use crate::figure::Budget::{AtMost, None as Free};
use crate::figure::Figure;
use crate::ours::Installed;
use crate::process::Process;
use crate::{Options, Result, Servers, kafka};

const WRITERS: u64 = 2;
const TRANSACTION_MESSAGES: u64 = 1000;
const WRITER_LOOK: Duration = Duration::from_millis(2);
const SIZE_LOOK: Duration = Duration::from_secs(1);
/// Nothing has come for so long: it never will.
const DELIVERY_LIMIT: Duration = Duration::from_secs(60);
/// The broker's disk holds little of what was delivered, all partitions together about 2 GB.
const TOPIC: [(&str, &str); 2] = [("retention.bytes", "200000000"), ("segment.bytes", "100000000")];

/// Measures once.
pub(crate) async fn measure(servers: &Servers, options: &Options) -> Result<Vec<Figure>> {
    let (total, backlog) = (options.steady_messages, options.steady_backlog);
    let installed = Installed::create_with(servers, options, &TOPIC).await?;
    installed.database.fill(Table::Outbox, &installed.topic, backlog).await?;
    let fresh = table_bytes(&installed.database).await?;
    let seen = Arc::new(Seen { inserted: AtomicU64::new(backlog), ..Seen::default() });
    let reading = {
        let (seen, kafka, topic) = (seen.clone(), servers.kafka.clone(), installed.topic.clone());
        std::thread::spawn(move || seen.consume(&kafka, &topic))
    };
    let mut relay = installed.relay()?;
    let began = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            tokio::spawn(write(
                installed.writing().url,
                installed.topic.clone(),
                seen.clone(),
                (total, backlog),
            ))
        })
        .collect();
    let sizes = watch(&installed.database, &mut relay, &seen, total).await;
    let took_s = began.elapsed().as_secs_f64();
    seen.stop.store(true, Ordering::SeqCst);
    let longest_gap = reading.join().map_err(|_| "the consumer panicked")??;
    let sizes = sizes?;
    for writer in writers {
        writer.await??;
    }
    relay.stop()?;
    installed.remove(servers).await?;
    let of_fresh = |bytes: f64| vec![bytes / fresh];
    Ok(vec![
        Figure::new(
            format!("{total} messages through a backlog of {backlog}: messages/s"),
            Free,
            vec![total as f64 / took_s],
        ),
        Figure::new(
            "table and indexes at the end : fresh with that backlog",
            AtMost(3.0),
            of_fresh(sizes.end),
        ),
        Figure::new("table and indexes at most : fresh with that backlog", Free, of_fresh(sizes.most)),
        Figure::new("longest time without a delivery, s", AtMost(1.0), vec![longest_gap.as_secs_f64()]),
    ])
}

/// What writers and the consumer have done.
#[derive(Default)]
struct Seen {
    inserted: AtomicU64,
    consumed: AtomicU64,
    stop: AtomicBool,
}

impl Seen {
    /// Counts what comes; returns the longest time between two arrivals.
    fn consume(&self, servers: &str, topic: &str) -> Result<Duration> {
        let consumer = kafka::consumer(servers, "read_committed")?;
        consumer.assign(&kafka::partitions(topic, Offset::Beginning)?)?;
        let (mut last, mut longest) = (None, Duration::ZERO);
        while !self.stop.load(Ordering::SeqCst) {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(_)) => {
                    let now = Instant::now();
                    longest = longest.max(now - last.replace(now).unwrap_or(now));
                    self.consumed.fetch_add(1, Ordering::SeqCst);
                }
                Some(Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
        Ok(longest)
    }
}

/// Inserts whenever less than the backlog waits.
async fn write(url: String, topic: String, seen: Arc<Seen>, (total, backlog): (u64, u64)) -> Result<()> {
    let client = crate::backlog::connect(&url).await?;
    client.batch_execute("set synchronous_commit = off").await?;
    while !seen.stop.load(Ordering::SeqCst) {
        let inserted = seen.inserted.load(Ordering::SeqCst);
        if inserted >= total {
            return Ok(());
        }
        if inserted.saturating_sub(seen.consumed.load(Ordering::SeqCst)) >= backlog {
            tokio::time::sleep(WRITER_LOOK).await;
            continue;
        }
        let first = seen.inserted.fetch_add(TRANSACTION_MESSAGES, Ordering::SeqCst);
        let series = format!("generate_series({first}, {})", first + TRANSACTION_MESSAGES - 1);
        client.batch_execute(&insert_sql(Table::Outbox, &topic, VALUE_BYTES, &series)).await?;
    }
    Ok(())
}

struct Sizes {
    end: f64,
    most: f64,
}

/// Looks at the table until everything was consumed. The end is while the backlog still waits.
async fn watch(database: &Database, relay: &mut Process, seen: &Seen, total: u64) -> Result<Sizes> {
    let mut sizes = Sizes { end: 0.0, most: 0.0 };
    let (mut before, mut changed) = (0, Instant::now());
    loop {
        let consumed = seen.consumed.load(Ordering::SeqCst);
        if consumed >= total {
            return Ok(sizes);
        }
        if consumed > before {
            (before, changed) = (consumed, Instant::now());
        }
        if changed.elapsed() > DELIVERY_LIMIT {
            return Err(format!("{consumed} of {total} messages came").into());
        }
        relay.check_alive()?;
        let bytes = table_bytes(database).await?;
        sizes.most = sizes.most.max(bytes);
        if seen.inserted.load(Ordering::SeqCst) < total || sizes.end == 0.0 {
            sizes.end = bytes;
        }
        tokio::time::sleep(SIZE_LOOK).await;
    }
}

/// With indexes and TOAST.
async fn table_bytes(database: &Database) -> Result<f64> {
    let client = database.client().await?;
    let sql = "select pg_total_relation_size('onecommit.outbox')";
    let bytes: i64 = client.query_typed(sql, &[]).await?[0].get(0);
    Ok(bytes as f64)
}
