//! Writers at a steady rate, and a `read_committed` consumer that notes when each message came.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use onecommit::{Message, Outbox};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset};
use tokio::time::MissedTickBehavior;
use tokio_postgres::types::{ToSql, Type};

use crate::backlog::{Table, VALUE_BYTES, connect, key};
use crate::{Result, kafka};

pub(crate) const MESSAGES_PER_SECOND: u64 = 1000;
const WRITERS: u64 = 10;
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// Where writers write.
#[derive(Clone)]
pub(crate) struct Writing {
    pub(crate) url: String,
    pub(crate) table: Table,
    pub(crate) topic: String,
}

/// Each writer commits one message a transaction, at its share of the rate.
pub(crate) async fn write_steadily(writing: &Writing, seconds: u64) -> Result<BTreeMap<u64, Instant>> {
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let writing = writing.clone();
        let count = seconds * MESSAGES_PER_SECOND / WRITERS;
        writers.push(tokio::spawn(async move {
            let mut client = connect(&writing.url).await?;
            let mut ticks =
                tokio::time::interval(Duration::from_micros(1_000_000 * WRITERS / MESSAGES_PER_SECOND));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut committed = Vec::new();
            for n in 0..count {
                ticks.tick().await;
                let number = n * WRITERS + writer;
                committed.push((number, publish(&mut client, &writing, number).await?));
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
pub(crate) async fn publish(
    client: &mut tokio_postgres::Client,
    writing: &Writing,
    number: u64,
) -> Result<Instant> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(VALUE_BYTES, b'x');
    let transaction = client.transaction().await?;
    match writing.table {
        Table::Outbox => {
            let message = Message::new(&writing.topic, key(number), value)?;
            Outbox::new().publish(&transaction, &message).await?;
        }
        Table::Plain => {
            let sql = format!("insert into {} (topic, key, value) values ($1, $2, $3)", Table::Plain.name());
            let key = key(number).into_bytes();
            let parameters: [(&(dyn ToSql + Sync), Type); 3] =
                [(&writing.topic, Type::TEXT), (&key, Type::BYTEA), (&value, Type::BYTEA)];
            transaction.execute_typed(&sql, &parameters).await?;
        }
    }
    transaction.commit().await?;
    Ok(Instant::now())
}

/// When each message arrived, by its number.
#[derive(Clone, Default)]
pub(crate) struct Arrivals {
    at: Arc<Mutex<BTreeMap<u64, Instant>>>,
    stop: Arc<AtomicBool>,
}

impl Arrivals {
    /// Begins to read the topic from its beginning.
    pub(crate) fn start(servers: &str, topic: &str) -> (Self, JoinHandle<Result<()>>) {
        let (servers, topic) = (servers.to_string(), topic.to_string());
        let arrivals = Arrivals::default();
        let reader = arrivals.clone();
        (arrivals, std::thread::spawn(move || reader.read(&servers, &topic)))
    }

    /// Ends the reading.
    pub(crate) fn finish(&self, reading: JoinHandle<Result<()>>) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        reading.join().map_err(|_| "the consumer panicked")?
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn read(&self, servers: &str, topic: &str) -> Result<()> {
        let consumer = kafka::consumer(servers, "read_committed")?;
        consumer.assign(&kafka::partitions(topic, Offset::Beginning)?)?;
        while !self.stop.load(Ordering::SeqCst) {
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

    pub(crate) async fn wait_for(&self, count: usize) -> Result<()> {
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
    pub(crate) fn latencies(&self, committed: &BTreeMap<u64, Instant>, from: u64) -> Vec<f64> {
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
